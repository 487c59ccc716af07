"""Taking up a run that stopped: what of it is still good, and what forbids going on.

A notebook's work is kept if it was finished, what it read is still what lies in the run folder, and
what it wrote is as it was written. `run.json` holds the digests.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from onelap import UserError
from onelap.arms.base import locate_base
from onelap.lap.parameters import SET_BY_THE_RUNNER
from onelap.lap.run import Run, now, this_process, versions
from onelap.machine.gpus import describe
from onelap.machine.store import hash_files
from onelap.notes.read import FIELD_PARAMETERS, Fields, locate_notes, read_notes

WITHOUT_EFFECT = ("papermill",)  # of the recorded libraries: no number depends on them


@dataclass(frozen=True)
class Step:
    """The files of the run folder that a notebook reads and writes, as patterns."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]


DATASET = ("dataset/*",)
ADAPTERS = ("adapter/adapter_*", "training/seed_*/adapter/*", "training/probe.json")
STEPS = {
    "01_data_prep": Step((), DATASET),
    "02_baseline": Step(DATASET, ("arms/[!q]*/*",)),
    "03_train": Step(DATASET, (*ADAPTERS, "training/log.jsonl")),
    "04_evaluate": Step((*DATASET, *ADAPTERS), ("arms/qlora/*", "adapter/calibration.json")),
    "05_compare": Step((*DATASET, "arms/*/*"), ("comparison.json",)),
}


def step_of(notebook: str) -> Step:
    """What a notebook reads and writes; nothing is known of one that is not part of a lap."""
    return STEPS.get(notebook, Step((), ()))


def digest(run: Run, patterns: tuple[str, ...]) -> str:
    """SHA-256 over names and contents of all files of the run folder that match."""
    total = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in run.path.glob(pattern) if path.is_file()):
        total.update(f"{path.relative_to(run.path).as_posix()} {hash_files(path)}\n".encode())
    return total.hexdigest()


def why_again(run: Run, notebook: str) -> str | None:
    """Why a notebook of a run has to be executed; None where its work is still good."""
    step, entry = step_of(notebook), run.record.get("notebooks", {}).get(notebook, {})
    if entry.get("status") != "done" or not (run.path / f"{notebook}.ipynb").exists():
        return "it was not finished"
    if notebook not in STEPS:
        return "nothing is known of what it reads"
    if entry.get("read") != digest(run, step.reads):
        return "what it reads has changed since"
    if entry.get("written") != digest(run, step.writes):
        return "what it wrote is missing or has been changed"
    return None


def check_unchanged(run: Run, parameters: dict) -> None:
    """Raises UserError that lists what has changed since the run began, so that its parts would not fit together."""
    stored, hashes = run.parameters, run.record.get("hashes", {})
    changed = [
        *_differences("", stored, parameters, (SET_BY_THE_RUNNER,)),
        *_differences("version of ", run.record.get("versions", {}), versions(), WITHOUT_EFFECT),
        *_differences("", _cards(run.record.get("hardware", {})), _cards(describe()), ()),
    ]
    fields = Fields.parse(*(stored[name] for name in FIELD_PARAMETERS))
    notes = locate_notes(stored["notes_path"])
    if hashes.get("notes", "") not in ("", read_notes(notes, fields).digest):
        changed.append(f"the labelled notes in {notes} are not those that were read")
    base = locate_base(stored["base_model"])
    if hashes.get("base", "") not in ("", hash_files(base)):
        changed.append(f"the base in {base} has other files")
    if changed:
        raise UserError(
            f"{run.path.name} cannot be gone on with: {'; '.join(changed)}. Put that back as it was, or start afresh "
            "with --force-new, which leaves this run as it is"
        )


def reopen(run: Run) -> None:
    """Begin another session of a run; the time of earlier ones counts, up to their last sign of life."""
    record = run.record
    if record["status"] == "running":  # killed, without a word about the time
        seconds = (_last_sign(run) - datetime.fromisoformat(record["session_started"])).total_seconds()
        spent = record["spent_seconds"] + max(0.0, round(seconds, 1))
    else:
        spent = record["actual"]["seconds"]
    run.update(spent_seconds=spent, session_started=now(), status="running", error=None, process=this_process())


def _last_sign(run: Run) -> datetime:
    """Of a process that works on the run, not of a person who reads it."""
    written = [run.record_path, run.training_path / "log.jsonl", *run.path.glob(".*.running.ipynb")]
    return datetime.fromtimestamp(max(path.stat().st_mtime for path in written if path.exists()), UTC)


def _cards(hardware: dict) -> dict[str, list[str]]:
    """By name, without their drivers."""
    return {"card": [card.partition(",")[0] for card in hardware.get("gpus", [])]}


def _differences(what: str, then: dict, now: dict, ignored: tuple[str, ...]) -> list[str]:
    names = [name for name in then | now if name not in ignored and then.get(name) != now.get(name)]
    return [f"{what}{name} was {then.get(name, 'absent')!r} and is {now.get(name, 'absent')!r}" for name in names]
