"""Arms compared in pairs on the same notes, and the verdict.

Pairs: the exact McNemar test (McNemar 1947), which is the binomial test on the notes where the arms differ. The
interval of the difference is a bootstrap over sources, see `metrics.bootstrap_mean`.
"""

import numpy as np
import pandas as pd
from scipy import stats

from onelap import UserError
from onelap.verdict.metrics import bootstrap_mean, is_right

TUNED = "qlora"
CHEAP = ["majority", "markup", "tfidf", "embeddings", "probe", "blend"]
SORTERS = ["blend", "probe", "tfidf", TUNED]  # arms that `onelap sort` can use
UNTUNED = ["base", "base_unbiased", "base_few_shot", "base_few_shot_unbiased"]
SIGNIFICANCE = 0.05
POWER = 0.8
MAX_NOTES_NEEDED = 20_000  # enough for a difference of about a point; a larger number would say nothing
SHARE_THAT_DIFFERS = 1 / 3  # of the notes, between two arms; a fifth to a half in the laps of docs/LOG.md
MIN_CLUSTERS = 5  # sources in the test; the spread of fewer cannot be known, so there is no verdict


def best_on_validation(metrics: dict[str, dict], arms: list[str]) -> str:
    """Choose, among those of `arms` that were measured, the best on the validation notes; the first of equals."""
    return max((arm for arm in arms if arm in metrics), key=lambda arm: metrics[arm]["validation_accuracy"]["value"])


def compare(name_a: str, a: pd.DataFrame, name_b: str, b: pd.DataFrame, clusters: pd.Series) -> dict:
    """Compare arm b with arm a on the same notes; `difference` is accuracy b minus accuracy a.

    Returns `a, b, n, difference {value, low, high}, gained, lost, mcnemar_p, verdict, more_notes`: gained are the
    notes that b alone has right, lost those that a alone has right. The verdict is `better` (`worse`) where the whole
    interval is above (below) zero, McNemar's p is below 0.05 and the notes come from `MIN_CLUSTERS` sources or more;
    else it is `cannot_tell`. `more_notes` is then how many more test notes, from new sources, would show a difference
    as large as this one with 80 % power (null where the arms are equal). Raises UserError for arms on different notes.
    """
    if list(a["id"]) != list(b["id"]) or list(a["kind"]) != list(b["kind"]):
        raise UserError(f"{name_a} and {name_b} were measured on different test notes: make both again on this dataset")
    change = is_right(b).astype(int) - is_right(a).astype(int)
    gained, lost = int((change == 1).sum()), int((change == -1).sum())
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    low, high = bootstrap_mean(change, clusters)
    verdict = "cannot_tell"
    if p < SIGNIFICANCE and (low > 0 or high < 0) and clusters.nunique() >= MIN_CLUSTERS:
        verdict = "better" if low > 0 else "worse"
    more_notes = _more_notes(change, clusters) if verdict == "cannot_tell" else 0
    difference = {"value": float(change.mean()), "low": low, "high": high}
    pair = {"a": name_a, "b": name_b, "n": len(a), "difference": difference, "gained": gained, "lost": lost}
    return pair | {"mcnemar_p": p, "verdict": verdict, "more_notes": more_notes}


def _more_notes(change: np.ndarray, clusters: pd.Series) -> int | None:
    """Notes needed by exact power, times the design effect: notes of one source are alike and say less each."""
    n, differing, difference = len(change), np.abs(change).mean(), abs(change.mean())
    if not difference:
        return None
    needed = 1
    while _power(needed, differing, difference) < POWER and needed < MAX_NOTES_NEEDED:
        needed += max(1, needed // 20)
    by_cluster = pd.Series(change).groupby(clusters.to_numpy())
    spread = (by_cluster.sum() - by_cluster.size() * change.mean()).pow(2).sum()
    independent = ((change - change.mean()) ** 2).sum()
    return max(1, int(needed * max(1.0, spread / independent if independent else 1.0)) - n)


def _power(n: int, differing: float, gain: float) -> float:
    """Power of the exact McNemar test at 5 % on n notes: arms differ on a share of them, and one is better by `gain`.

    Summed over the binomial number of notes that differ (Duffy 1984, https://doi.org/10.2307/2530940).
    """
    number = np.arange(n + 1)
    # The fewest notes gained, of those that differ, for a two-sided p below 5 %.
    needed = stats.binom.isf(SIGNIFICANCE / 2, number, 0.5) + 1
    share = (differing + gain) / (2 * differing)
    return float(stats.binom.pmf(number, n, differing) @ stats.binom.sf(needed - 1, number, share))


def compare_by_kind(
    name_a: str, a: pd.DataFrame, name_b: str, b: pd.DataFrame, clusters: pd.Series, kinds: list[str]
) -> dict[str, dict | None]:
    """Compare the recall of each kind: {kind: `compare` over its test notes, or None for too few to show any gain}."""
    at = {kind: np.flatnonzero(a["kind"] == kind) for kind in kinds}
    return {
        kind: compare(name_a, a.iloc[i], name_b, b.iloc[i], clusters.iloc[i]) if detectable_gain(len(i)) else None
        for kind, i in at.items()
    }


def detectable_gain(n: int) -> float | None:
    """Compute the smallest gain in accuracy that n test notes show with 80 % power, in steps of a point.

    None where no gain would show. Exact McNemar test at 5 %, where the arms differ on a third of the notes.
    """
    gains = (float(gain) for gain in np.arange(0.01, SHARE_THAT_DIFFERS, 0.01))
    return next((round(gain, 2) for gain in gains if _power(n, SHARE_THAT_DIFFERS, gain) >= POWER), None)
