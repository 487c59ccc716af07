"""Tables of the notebooks and of the report: one row an arm, a kind, a pair or a note, for reading."""

import pandas as pd

from onelap.machine.progress import format_duration
from onelap.verdict.compare import TUNED
from onelap.verdict.metrics import confidence, is_right
from onelap.verdict.sentences import hundredths, name_of, percent, points, with_interval


def arms_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """Tabulate accuracy, macro-F1, calibration, sure answers and time of each arm; indexed by its name for people."""
    rows = {
        name_of(arm): {
            "arm": arm,
            "accuracy (95 % interval)": with_interval(measured["accuracy"]),
            "macro-F1 (95 % interval)": with_interval(measured["macro_f1"]),
            "calibration error": hundredths(measured["ece"]),
            "sure, right of these": " / ".join(
                percent(measured["sure_enough"][of]["value"]) for of in ("coverage", "accuracy")
            ),
            "ms a note": f"{1000 * measured['seconds_per_note']:.2f}",
            "test notes": measured["n"],
        }
        for arm, measured in metrics.items()
    }
    return pd.DataFrame(rows).T


def cost_table(metrics: dict[str, dict], notes: int) -> pd.DataFrame:
    """Tabulate time and memory of each arm, and how long `notes` notes take; the slowest last."""
    measured, rows = {name_of(arm): one for arm, one in metrics.items()}, {}
    measured[f"{name_of(TUNED)}, generated and parsed"] = metrics[TUNED]["generating"]
    for name, one in sorted(measured.items(), key=lambda item: item[1]["seconds_per_note"]):
        seconds, memory = one["seconds_per_note"], one["peak_memory_gb"]
        rows[name] = {
            "notes a second": f"{1 / seconds:,.0f}" if seconds < 0.01 else f"{1 / seconds:.3g}",
            "seconds a note": f"{seconds:.2g}",
            f"{notes:,} notes": format_duration(seconds * notes) if seconds * notes >= 0.5 else "under 1 s",
            "GB of the process": hundredths(memory["process"]),
            "GB of the card": hundredths(memory["card"]),
        }
    on_card = any(one["peak_memory_gb"]["card"] is not None for one in measured.values())
    return pd.DataFrame(rows).T.drop(columns=[] if on_card else "GB of the card")


def rates_table(metrics: dict, kinds: list[str]) -> pd.DataFrame:
    """Tabulate recall and precision of each kind."""
    rates = pd.DataFrame({name: metrics[name] for name in ("recall", "precision")}, index=kinds)
    table = rates.map(with_interval).add_suffix(" (95 % interval)")
    return table.assign(**{"test notes": [rate["n"] for rate in rates["recall"]]})


def pairs_table(pairs: list[dict]) -> pd.DataFrame:
    """Tabulate difference and verdict of each pair of arms, in percentage points."""
    rows = {}
    for pair in pairs:
        value, low, high = (points(pair["difference"][name]) for name in ("value", "low", "high"))
        rows[f"{name_of(pair['a'])} → {name_of(pair['b'])}"] = {
            "points (95 % interval)": f"{value:+d} ({low:+d} to {high:+d})",
            "gained": pair["gained"],
            "lost": pair["lost"],
            "McNemar p": f"{pair['mcnemar_p']:.2g}",
            "verdict": pair["verdict"],
            "more notes needed": "" if pair["verdict"] != "cannot_tell" else pair["more_notes"] or "no number",
        }
    return pd.DataFrame(rows).T


def mistakes_table(predictions: pd.DataFrame, texts: pd.Series | None, count: int) -> pd.DataFrame:
    """List the wrong answers that were surest; with `texts` by id, or ids only where it is None."""
    wrong = predictions[~is_right(predictions)]
    wrong = wrong.assign(probability=confidence(wrong)).nlargest(count, "probability")
    table = wrong.assign(probability=wrong["probability"].map(percent))[["id", "kind", "predicted", "probability"]]
    return table if texts is None else table.assign(text=table["id"].map(texts))


def disagreements_table(
    name_a: str, a: pd.DataFrame, name_b: str, b: pd.DataFrame, texts: pd.Series | None
) -> pd.DataFrame:
    """List the notes to which two arms (or runs) give different answers; `change` says if b gained or lost by it."""
    both = a[["id", "kind", "predicted"]].merge(b[["id", "predicted"]], on="id", suffixes=("_a", "_b"))
    both = both[both["predicted_a"] != both["predicted_b"]]
    change = (both["predicted_b"] == both["kind"]).astype(int) - (both["predicted_a"] == both["kind"]).astype(int)
    both = both.rename(columns={"predicted_a": name_a, "predicted_b": name_b})
    both = both.assign(change=change.map({1: "gained", -1: "lost", 0: "both wrong"}))
    table = both.sort_values(["change", "kind", "id"], ignore_index=True)
    return table if texts is None else table.assign(text=table["id"].map(texts))


def show_rows(table: pd.DataFrame, characters: int = 600):
    """Style a list for a notebook: every row, texts with their line breaks; longer texts are cut."""
    if "text" in table:
        cut = table["text"].str.slice(0, characters)
        table = table.assign(text=cut.where(cut == table["text"], cut + "…"))
    left = {"selector": "th, td", "props": [("text-align", "left"), ("white-space", "pre-wrap")]}
    return table.style.hide(axis="index").format(escape="html").set_table_styles([left])
