"""Tables of the notebooks and of the report: one row an arm, a kind or a pair, for reading."""

import pandas as pd

from onelap.machine.progress import format_duration
from onelap.verdict.sentences import hundredths, name_of, points, with_interval


def arms_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """Accuracy, macro-F1, calibration error and time of each arm; indexed by its name for people."""
    rows = {
        name_of(arm): {
            "arm": arm,
            "accuracy (95 % interval)": with_interval(measured["accuracy"]),
            "macro-F1 (95 % interval)": with_interval(measured["macro_f1"]),
            "calibration error": hundredths(measured["ece"]),
            "ms a note": f"{1000 * measured['seconds_per_note']:.2f}",
            "test notes": measured["n"],
        }
        for arm, measured in metrics.items()
    }
    return pd.DataFrame(rows).T


def cost_table(metrics: dict[str, dict], notes: int) -> pd.DataFrame:
    """Time and memory of each arm, and how long `notes` notes take; the slowest last."""
    seconds = {name_of(arm): measured["seconds_per_note"] for arm, measured in metrics.items()}
    memory = {name_of(arm): measured["peak_memory_gb"] for arm, measured in metrics.items()}
    name, generating = "QLoRA, generated and parsed", metrics["qlora"]["generating"]
    seconds[name], memory[name] = generating["seconds_per_note"], generating["peak_memory_gb"]
    rows = {
        arm: {
            "notes a second": f"{1 / seconds[arm]:,.0f}" if seconds[arm] < 0.01 else f"{1 / seconds[arm]:.3g}",
            "seconds a note": f"{seconds[arm]:.2g}",
            f"{notes:,} notes": format_duration(seconds[arm] * notes) if seconds[arm] * notes >= 0.5 else "under 1 s",
            "GB of the process": hundredths(memory[arm]["process"]),
            "GB of the card": hundredths(memory[arm]["card"]),
        }
        for arm in sorted(seconds, key=seconds.get)
    }
    on_card = any(used["card"] is not None for used in memory.values())
    return pd.DataFrame(rows).T.drop(columns=[] if on_card else "GB of the card")


def rates_table(metrics: dict, kinds: list[str]) -> pd.DataFrame:
    """Recall and precision of each kind."""
    rows = {
        kind: {
            "recall (95 % interval)": with_interval(metrics["recall"][kind]),
            "precision (95 % interval)": with_interval(metrics["precision"][kind]),
            "test notes": metrics["recall"][kind]["n"],
        }
        for kind in kinds
    }
    return pd.DataFrame(rows).T


def pairs_table(pairs: list[dict]) -> pd.DataFrame:
    """Difference and verdict of each pair of arms, in percentage points."""
    rows = {
        f"{name_of(pair['a'])} → {name_of(pair['b'])}": {
            "points (95 % interval)": "{value:+d} ({low:+d} to {high:+d})".format(
                **{name: points(value) for name, value in pair["difference"].items()}
            ),
            "gained": pair["gained"],
            "lost": pair["lost"],
            "McNemar p": f"{pair['mcnemar_p']:.2g}",
            "verdict": pair["verdict"],
            "more notes needed": "" if pair["verdict"] != "cannot_tell" else pair["more_notes"] or "no number",
        }
        for pair in pairs
    }
    return pd.DataFrame(rows).T


def flips_table(name: str, before: pd.DataFrame, after: pd.DataFrame, texts: pd.Series | None) -> pd.DataFrame:
    """The notes that one of two arms alone has right, with the first 80 characters of `texts` where they are given."""
    flips = pd.DataFrame(
        {"id": before["id"], "kind": before["kind"], name: before["predicted"], "QLoRA": after["predicted"]}
    )
    change = (flips["QLoRA"] == flips["kind"]).astype(int) - (flips[name] == flips["kind"]).astype(int)
    flips["change"] = change.map({1: "gained", -1: "lost", 0: ""})
    if texts is not None:
        flips["text"] = texts.str.slice(0, 80)
    return flips[change != 0].sort_values(["change", "kind", "id"], ignore_index=True)
