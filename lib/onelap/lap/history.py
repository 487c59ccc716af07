"""All runs side by side, and what differs between two."""

from pathlib import Path

import pandas as pd
import psutil

from onelap import UserError
from onelap.lap.run import Run
from onelap.machine.store import read_json

COMPARED = ("hashes", "versions", "git", "hardware")


def list_runs(outputs: Path) -> pd.DataFrame:
    """All runs below `outputs`, newest first: name, status, parameters, arms, sentence, seconds."""
    rows = []
    for record_path in outputs.glob("*/run.json"):
        run = Run(record_path.parent)
        try:
            record = run.record
            sentence = read_json(run.comparison_path)["sentence"] if run.comparison_path.exists() else ""
        except UserError as error:
            record, sentence = {"status": "damaged"}, str(error)
        rows.append(
            {
                "run": run.path.name,
                "started": record.get("started", ""),
                "status": _status(record),
                "params": record.get("params", ""),
                "arms": " ".join(sorted(arm.name for arm in run.path.glob("arms/*"))),
                "result": sentence,
                "seconds": record.get("actual", {}).get("seconds"),
            }
        )
    columns = ["run", "started", "status", "params", "arms", "result", "seconds"]
    return pd.DataFrame(rows, columns=columns).sort_values(["started", "run"], ascending=False)


def _status(record: dict) -> str:
    """As recorded, except that a run whose process is gone without a word was killed."""
    status = record.get("status", "unknown")
    if status == "running" and not _alive(record.get("process", {})):
        return "killed"
    return status


def _alive(process: dict) -> bool:
    try:
        return psutil.Process(process["pid"]).create_time() == process["started"]
    except (KeyError, psutil.Error):
        return False


def find_run(name: str, outputs: Path) -> Run:
    """A run by its folder, or by its name below `outputs`. Raises UserError where there is none."""
    for folder in (Path(name).expanduser(), outputs / name):
        if (folder / "run.json").exists():
            return Run(folder)
    raise UserError(f"{name}: expected a run's folder or its name below {outputs}, found no run.json there")


def newest_good_run(outputs: Path) -> Run:
    """The newest run that was finished, and whose verdict is not `worse`. Raises UserError where there is none."""
    for name in list_runs(outputs).query("status == 'done'")["run"]:
        run = Run(outputs / name)
        ready = run.record.get("asked") and run.adapter_path.exists() and run.comparison_path.exists()
        if ready and read_json(run.comparison_path)["verdict"] != "worse":
            return run
    raise UserError(
        f"expected a finished run below {outputs} whose verdict is not `worse`, found none; `onelap run "
        "params/embedded.yaml` makes one, and --run names one that lies elsewhere"
    )


def differences(a: Run, b: Run) -> pd.DataFrame:
    """What differs in parameters, hashes, versions, code and machine; columns `what, a, b`."""
    said = [_flat(run.parameters) | _flat({name: run.record.get(name) for name in COMPARED}) for run in (a, b)]
    names = sorted(said[0].keys() | said[1].keys(), key=lambda name: (name.split(".")[0] in COMPARED, name))
    rows = [(name, said[0].get(name, "none"), said[1].get(name, "none")) for name in names]
    return pd.DataFrame([row for row in rows if row[1] != row[2]], columns=["what", "a", "b"])


def compare_runs(a: Run, b: Run) -> dict[str, dict]:
    """{arm: `metrics.compare` of run b against run a}, for the arms that both have.

    Raises UserError where their test notes are not the same.
    """
    from onelap.verdict.compare import compare

    test, other = a.read_part("test"), b.read_part("test")
    same = test.set_index("id")[["text", "kind"]], other.set_index("id")[["text", "kind"]]
    if not same[0].equals(same[1]):
        shared = len(set(test["id"]) & set(other["id"]))
        raise UserError(
            f"{a.path.name} and {b.path.name} were measured on different test notes ({len(test)} and {len(other)}, "
            f"{shared} ids in both): only runs with the same notes, seed and shares can be compared"
        )
    left, right = a.read_arms(), b.read_arms()
    return {
        arm: compare(f"{a.path.name} {arm}", left[arm][0], f"{b.path.name} {arm}", right[arm][0], test["cluster"])
        for arm in left
        if arm in right
    }


def _flat(tree: dict, prefix: str = "") -> dict[str, str]:
    """{"hashes.prompts.base": ...} of nested dictionaries; hashes and the like shortened for reading."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = str(value)[:12] if prefix.startswith(("hashes", "git")) else str(value)
    return found
