"""Resuming a run that stopped: which notebooks' work is still good, and what rules resuming out.

The work of a finished notebook is kept while the files that it read and wrote match their digests in `run.json`.
"""

import hashlib

from onelap import UserError
from onelap.arms.base import locate_base
from onelap.lap.parameters import SET_BY_THE_RUNNER
from onelap.lap.run import Run, versions
from onelap.machine.gpus import describe
from onelap.machine.store import hash_files
from onelap.notes.fields import Fields
from onelap.notes.vault import locate_notes, read_notes
from onelap.verdict.compare import TUNED

IRRELEVANT = {SET_BY_THE_RUNNER, "version of papermill"}  # among the conditions of a run: no number depends on them
DATASET = ("dataset/*",)
ADAPTERS = ("adapter/adapter_*", "training/seed_*/adapter/*", "training/answers.json")
STEPS = {  # the files in the run folder that a notebook has read and written, as glob patterns; `!` takes files out
    "01_data_prep": {"read": (), "written": DATASET},
    "02_baseline": {"read": DATASET, "written": ("arms/*/*", f"!arms/{TUNED}/*")},
    "03_train": {"read": DATASET, "written": (*ADAPTERS, "training/log.jsonl")},
    "04_evaluate": {"read": (*DATASET, *ADAPTERS), "written": (f"arms/{TUNED}/*",)},
    "05_compare": {"read": (*DATASET, "arms/*/*"), "written": ("comparison.json",)},
}


def digest_files(run: Run, notebook: str, step: str) -> str:
    """Compute the SHA-256 of names and contents of what a notebook has "read" or "written"; none outside of a lap."""
    patterns = STEPS.get(notebook, {}).get(step, ())
    included = {path for pattern in patterns if pattern[0] != "!" for path in run.path.glob(pattern)}
    excluded = {path for pattern in patterns if pattern[0] == "!" for path in run.path.glob(pattern[1:])}
    total = hashlib.sha256()
    for path in sorted(path for path in included - excluded if path.is_file()):
        total.update(f"{path.relative_to(run.path).as_posix()} {hash_files(path)}\n".encode())
    return total.hexdigest()


def reason_to_repeat(run: Run, notebook: str) -> str | None:
    """Say why a notebook of a run has to be executed (again); None where its work is still good."""
    entry = run.record.get("notebooks", {}).get(notebook, {})
    if entry.get("status") != "done" or not (run.path / f"{notebook}.ipynb").exists():
        return "it was not finished"
    if notebook not in STEPS:
        return "nothing is known of what it reads"
    if entry.get("read") != digest_files(run, notebook, "read"):
        return "what it reads has changed since"
    if entry.get("written") != digest_files(run, notebook, "written"):
        return "what it wrote is missing or has been changed"
    return None


def check_unchanged(run: Run, parameters: dict) -> None:
    """Check that the parts of a resumed run would fit together. Raises UserError with a list of what has changed."""
    stored, hashes = run.parameters, run.record.get("hashes", {})
    if stored.keys() != parameters.keys() - {SET_BY_THE_RUNNER}:
        raise UserError(f"{run.path.name} is of an earlier version and cannot be resumed; --force-new starts afresh")
    then = _conditions(stored, run.record.get("versions", {}), run.record.get("hardware", {}))
    now = _conditions(parameters, versions(), describe())
    names = [name for name in then | now if then.get(name) != now.get(name)]
    changed = [f"{name} was {then.get(name, 'absent')!r} and is {now.get(name, 'absent')!r}" for name in names]
    notes, fields = locate_notes(stored["notes_path"]), Fields.of(stored)
    if hashes.get("notes", "") not in ("", read_notes(notes, fields).digest):
        changed.append(f"the labelled notes in {notes} are not those that were read")
    base = locate_base(stored["base_model"])
    if hashes.get("base", "") not in ("", hash_files(base)):
        changed.append(f"the base in {base} has other files")
    if changed:
        raise UserError(
            f"{run.path.name} cannot be resumed: {'; '.join(changed)}. Restore what has changed, or start a new run "
            "with --force-new, which leaves this run as it is"
        )


def _conditions(parameters: dict, versions: dict, hardware: dict) -> dict[str, object]:
    """Name what has to stay: parameters, versions of packages, names of GPUs without their memory and drivers."""
    gpus = [gpu.partition(",")[0] for gpu in hardware.get("gpus", [])]
    every = parameters | {f"version of {package}": version for package, version in versions.items()} | {"card": gpus}
    return {name: value for name, value in every.items() if name not in IRRELEVANT}
