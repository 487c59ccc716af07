"""All runs side by side, and what differs between two."""

from contextlib import suppress
from pathlib import Path

import pandas as pd

from onelap import PROJECT, UserError, find_path
from onelap.lap.run import Run
from onelap.machine.files import printable
from onelap.machine.store import read_json
from onelap.verdict.compare import compare

COMPARED_ENTRIES = ("hashes", "versions", "git", "hardware")  # of run.json
SHORTENED = ("hashes.", "git.")  # of these, the first 12 characters are enough to tell two apart


def list_runs(outputs: Path) -> pd.DataFrame:
    """List all runs below `outputs`, newest first; columns `run, started, status, params, arms, result, seconds`."""
    columns, rows = ["run", "started", "status", "params", "arms", "result", "seconds"], []
    for folder in (path.parent for path in outputs.glob("*/run.json")):
        try:
            run = Run(folder)
            record, status = run.record, _status(run)
            sentence = read_json(run.comparison_path)["sentence"] if run.comparison_path.exists() else ""
        except UserError as error:
            record, status, sentence = {}, "damaged", str(error)
        started, params = record.get("started", ""), record.get("params", "")
        seconds = record.get("actual", {}).get("seconds")
        arms = " ".join(sorted(arm.name for arm in folder.glob("arms/*")))
        rows.append((printable(folder.name), started, status, params, arms, sentence, seconds))
    return pd.DataFrame(rows, columns=columns).sort_values(["started", "run"], ascending=False)


def _status(run: Run) -> str:
    """Return the recorded status; `killed` for a running one whose lock no process holds."""
    status = run.record.get("status", "unknown")
    if status == "running":
        with suppress(UserError, OSError), run.locked():
            status = "killed"
    return status


def find_run(name: str, outputs: Path = PROJECT / "outputs") -> Run:
    """Find a run by its folder, or by its name below `outputs`. Raises UserError where there is none."""
    for folder in (find_path(name), outputs / name):
        if (folder / "run.json").exists():
            return Run(folder)
    raise UserError(f"{name}: expected a run's folder or its name below {outputs}, found no run.json there")


def newest_finished_run(outputs: Path) -> Run:
    """Find the newest finished run that has named its winner. Raises UserError where there is none."""
    for name in list_runs(outputs).query("status == 'done'")["run"]:
        run = Run(outputs / name)
        with suppress(UserError):  # it was not compared, or the version was an earlier one
            if "winner" in read_json(run.comparison_path):
                return run
    raise UserError(
        f"expected a finished run below {outputs}, found none; `onelap run params/embedded.yaml` makes one, and --run "
        "names a run that is elsewhere"
    )


def differences(a: Run, b: Run) -> pd.DataFrame:
    """List what differs in parameters, hashes, versions, code and machine; columns `what, a, b`."""
    left, right = _compared(a), _compared(b)
    names = sorted(left.keys() | right.keys(), key=lambda name: (name.split(".")[0] in COMPARED_ENTRIES, name))
    rows = [(name, left.get(name, "none"), right.get(name, "none")) for name in names]
    return pd.DataFrame(rows, columns=["what", "a", "b"]).query("a != b")


def compare_runs(a: Run, b: Run) -> dict[str, dict]:
    """Compare arms that both runs have: {arm: result of `compare`}. Raises UserError where their test notes differ."""
    test, other = a.read_part("test"), b.read_part("test")
    if not test.set_index("id")[["text", "kind"]].equals(other.set_index("id")[["text", "kind"]]):
        shared = len(set(test["id"]) & set(other["id"]))
        raise UserError(
            f"{a.path.name} and {b.path.name} were measured on different test notes ({len(test)} and {len(other)}, "
            f"{shared} ids in both): only runs with the same notes, seed and shares can be compared"
        )
    left, right = a.read_arms(), b.read_arms()
    both = [arm for arm in left if arm in right]
    return {arm: compare(a.path.name, left[arm][0], b.path.name, right[arm][0], test["cluster"]) for arm in both}


def _compared(run: Run) -> dict[str, str]:
    """List what is compared of a run by names such as `hashes.prompts.base`, as text."""
    entries = run.parameters | {name: run.record.get(name) for name in COMPARED_ENTRIES}
    (flat,) = pd.json_normalize(entries).to_dict("records")
    return {name: str(value)[: 12 if name.startswith(SHORTENED) else None] for name, value in flat.items()}
