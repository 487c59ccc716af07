"""Metrics with 95 % intervals, arms compared in pairs, and the verdict.

Formulas come from scikit-learn and SciPy:

- rates: Wilson's score interval (Wilson 1927), `scipy.stats.binomtest`;
- macro-F1 and differences between arms: percentile bootstrap over sources, since notes of
  one source are not independent (cluster bootstrap, Field & Welsh 2007);
- pairs: exact McNemar test (McNemar 1947), the binomial test on the notes where the arms differ.
"""

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import f1_score

from onelap import UserError

CONFIDENCE = 0.95
RESAMPLES = 2000
ECE_BINS = 10
SIGNIFICANCE = 0.05
POWER = 0.8
DIFFERING = 1 / 3  # share of the notes on which two arms differ; a base and its fine-tuned self do by about that much


def predictions_table(notes: pd.DataFrame, probabilities: np.ndarray, kinds: list[str], seconds: float):
    """The rows of `predictions.jsonl`: `id, kind, predicted, probabilities, seconds`.

    probabilities: (notes, kinds) in the order of `kinds`; seconds: time a note, the same for all.
    """
    rounded = probabilities.round(6)
    return pd.DataFrame(
        {
            "id": notes["id"].to_numpy(),
            "kind": notes["kind"].to_numpy(),
            "predicted": [kinds[best] for best in probabilities.argmax(axis=1)],
            "probabilities": [dict(zip(kinds, map(float, row), strict=True)) for row in rounded],
            "seconds": round(seconds, 6),
        }
    )


def assess(
    test: pd.DataFrame, probabilities: np.ndarray, seconds: float, kinds: list[str]
) -> tuple[pd.DataFrame, dict]:
    """Predictions and metrics of one arm on the test notes, as `Run.write_arm` takes them."""
    predictions = predictions_table(test, probabilities, kinds, seconds)
    return predictions, measure(predictions, test["source"], kinds)


def measure(predictions: pd.DataFrame, sources: pd.Series, kinds: list[str]) -> dict:
    """The content of `metrics.json`; each rate is `{value, low, high, n}`.

    `sources` is aligned with `predictions`. A kind that was never true (recall) or never
    predicted (precision) has n 0 and null values.
    """
    truth, predicted = predictions["kind"], predictions["predicted"]
    right = truth == predicted
    return {
        "n": len(predictions),
        "accuracy": rate(right),
        "macro_f1": _macro_f1(truth.to_numpy(), predicted.to_numpy(), sources),
        "recall": {kind: rate(right[truth == kind]) for kind in kinds},
        "precision": {kind: rate(right[predicted == kind]) for kind in kinds},
        "ece": calibration_error(predictions),
        "seconds_per_note": float(predictions["seconds"].mean()),
    }


def accuracy_by(arms: dict[str, pd.DataFrame], labels: pd.Series) -> dict[str, dict]:
    """{label: {arm: accuracy}} over the notes that have a label each; `labels` is aligned with the predictions."""
    return {
        label: {arm: rate(_right(predictions)[labels == label]) for arm, predictions in arms.items()}
        for label in sorted(set(labels) - {""})
    }


def rate(hits: pd.Series | np.ndarray) -> dict:
    """A share with its Wilson interval: `{value, low, high, n}`."""
    if not len(hits):
        return {"value": None, "low": None, "high": None, "n": 0}
    result = stats.binomtest(int(hits.sum()), len(hits))
    interval = result.proportion_ci(CONFIDENCE, method="wilson")
    return {"value": float(hits.mean()), "low": interval.low, "high": interval.high, "n": len(hits)}


def calibration_error(predictions: pd.DataFrame) -> float:
    """Expected calibration error of the predicted kind, 10 bins of equal width (Guo et al. 2017)."""
    confidence = predictions["probabilities"].map(lambda p: max(p.values())).to_numpy()
    right = (predictions["kind"] == predictions["predicted"]).to_numpy(dtype=float)
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = pd.DataFrame({"bin": bins, "gap": right - confidence}).groupby("bin")["gap"].sum()
    return float(gaps.abs().sum() / len(predictions))


def compare(name_a: str, a: pd.DataFrame, name_b: str, b: pd.DataFrame, sources: pd.Series) -> dict:
    """Arm b against arm a on the same notes; `difference` is accuracy b minus accuracy a.

    Returns `a, b, n, difference {value, low, high}, gained, lost, mcnemar_p, verdict`: gained
    are notes that b alone has right, lost are those that a alone has right. The verdict is
    `better` (`worse`) where the whole interval is above (below) zero and McNemar's p is below
    0.05, else `cannot_tell`. Raises UserError where the arms were not measured on the same notes.
    """
    if list(a["id"]) != list(b["id"]) or list(a["kind"]) != list(b["kind"]):
        raise UserError(f"{name_a} and {name_b} were measured on different test notes: make both again on this dataset")
    change = _right(b).astype(int) - _right(a).astype(int)
    gained, lost = int((change == 1).sum()), int((change == -1).sum())
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    low, high = _bootstrap_mean(change, sources)
    verdict = "cannot_tell"
    if p < SIGNIFICANCE and (low > 0 or high < 0):
        verdict = "better" if low > 0 else "worse"
    return {
        "a": name_a,
        "b": name_b,
        "n": len(a),
        "difference": {"value": float(change.mean()), "low": low, "high": high},
        "gained": gained,
        "lost": lost,
        "mcnemar_p": p,
        "verdict": verdict,
    }


def detectable_gain(n: int) -> float | None:
    """The smallest gain in accuracy that n test notes show with 80 % power, in steps of a point; None: no gain does.

    Exact McNemar test at 5 %, where the arms differ on a third of the notes: power is summed
    over the binomial number of such notes (Duffy 1984, https://doi.org/10.2307/2530940).
    """
    differing = np.arange(n + 1)
    weight = stats.binom.pmf(differing, n, DIFFERING)
    # The fewest notes gained, of those that differ, for a p below 5 % (two-sided).
    needed = stats.binom.isf(SIGNIFICANCE / 2, differing, 0.5) + 1
    for gain in np.arange(0.01, DIFFERING, 0.01):
        share = (DIFFERING + gain) / (2 * DIFFERING)
        if weight @ stats.binom.sf(needed - 1, differing, share) >= POWER:
            return round(float(gain), 2)
    return None


def state(accuracy: dict[str, float], pairs: list[dict]) -> str:
    """The result of a lap in one sentence: base against QLoRA, then QLoRA against TF-IDF."""
    tuned, cheap = (_pair(pairs, arm, "qlora") for arm in ("base", "tfidf"))
    difference = tuned["difference"]
    against_base = {
        "better": "fine-tuning helped",
        "worse": "fine-tuning did harm",
        "cannot_tell": "too few notes to tell whether fine-tuning helped",
    }[tuned["verdict"]]
    against_tfidf = {
        "better": "QLoRA beat it",
        "worse": "QLoRA lost to it",
        "cannot_tell": "too few notes to tell it from QLoRA",
    }[cheap["verdict"]]
    return (
        f"base {percent(accuracy['base'])} → qlora {percent(accuracy['qlora'])} on {tuned['n']} frozen test notes "
        f"({points(difference['value']):+d} points, 95 % interval {points(difference['low'])} to "
        f"{points(difference['high'])}): {against_base}; tfidf {percent(accuracy['tfidf'])}: {against_tfidf}"
    )


def percent(share: float | None) -> str:
    """A share for reading: `48 %`, or a dash where there is none."""
    return "–" if share is None else f"{points(share)} %"


def points(share: float) -> int:
    """A share or a difference of shares in percentage points, rounded; never -0."""
    return round(100 * share)


def with_interval(rate: dict) -> str:
    """A rate for reading: `48 % (38 to 58)`."""
    if rate["value"] is None:
        return "–"
    return f"{percent(rate['value'])} ({points(rate['low'])} to {points(rate['high'])})"


def _pair(pairs: list[dict], a: str, b: str) -> dict:
    return next(pair for pair in pairs if (pair["a"], pair["b"]) == (a, b))


def _right(predictions: pd.DataFrame) -> np.ndarray:
    return (predictions["kind"] == predictions["predicted"]).to_numpy()


def _macro_f1(truth: np.ndarray, predicted: np.ndarray, sources: pd.Series) -> dict:
    """Macro-F1 over the kinds that occur, with an interval from resampled sources."""
    members = _members(sources)

    def statistic(sampled):
        chosen = np.concatenate([members[int(index)] for index in sampled])
        return f1_score(truth[chosen], predicted[chosen], average="macro", zero_division=0.0)

    value = f1_score(truth, predicted, average="macro", zero_division=0.0)
    interval = _percentile(np.arange(len(members)), statistic, vectorized=False, resamples=RESAMPLES // 4)
    return {"value": float(value), "low": interval[0], "high": interval[1], "n": len(truth)}


def _bootstrap_mean(values: np.ndarray, sources: pd.Series) -> tuple[float, float]:
    """Interval of the mean of `values` when whole sources are resampled."""
    members = _members(sources)
    sums = np.array([values[member].sum() for member in members])
    sizes = np.array([len(member) for member in members])

    def statistic(sampled, axis):
        sampled = sampled.astype(int)
        return sums[sampled].sum(axis=axis) / sizes[sampled].sum(axis=axis)

    return _percentile(np.arange(len(members)), statistic, vectorized=True, resamples=RESAMPLES)


def _members(sources: pd.Series) -> list[np.ndarray]:
    """Row numbers of each source; with one source only, of each note, since it shows no spread."""
    if sources.nunique() < 2:
        return list(np.arange(len(sources)).reshape(-1, 1))
    return list(sources.reset_index(drop=True).groupby(sources.to_numpy()).indices.values())


def _percentile(indices: np.ndarray, statistic, vectorized: bool, resamples: int) -> tuple[float, float]:
    result = stats.bootstrap(
        (indices,),
        statistic,
        vectorized=vectorized,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def arms_table(metrics: dict[str, dict]) -> pd.DataFrame:
    """One row an arm, for reading."""
    return pd.DataFrame(
        {
            arm: {
                "accuracy (95 % interval)": with_interval(measured["accuracy"]),
                "macro-F1 (95 % interval)": with_interval(measured["macro_f1"]),
                "calibration error": f"{measured['ece']:.2f}",
                "ms a note": f"{1000 * measured['seconds_per_note']:.2f}",
                "test notes": measured["n"],
            }
            for arm, measured in metrics.items()
        }
    ).T


def rates_table(metrics: dict, kinds: list[str]) -> pd.DataFrame:
    """One row a kind, for reading."""
    return pd.DataFrame(
        {
            "recall (95 % interval)": [with_interval(metrics["recall"][kind]) for kind in kinds],
            "precision (95 % interval)": [with_interval(metrics["precision"][kind]) for kind in kinds],
            "test notes": [metrics["recall"][kind]["n"] for kind in kinds],
        },
        index=kinds,
    )


def pairs_table(pairs: list[dict]) -> pd.DataFrame:
    """One row a pair of arms, for reading; differences in percentage points."""
    return pd.DataFrame(
        {
            f"{pair['a']} → {pair['b']}": {
                "points (95 % interval)": "{value:+d} ({low:+d} to {high:+d})".format(
                    **{name: points(value) for name, value in pair["difference"].items()}
                ),
                "gained": pair["gained"],
                "lost": pair["lost"],
                "McNemar p": f"{pair['mcnemar_p']:.2g}",
                "verdict": pair["verdict"],
            }
            for pair in pairs
        }
    ).T
