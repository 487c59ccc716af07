"""Measurements of one arm, with 95 % intervals.

- Rates: Wilson's score interval (Wilson 1927), `scipy.stats.binomtest`.
- Macro-F1 and differences between arms: percentile bootstrap over sources, because notes of one source are not
  independent (cluster bootstrap, Field & Welsh 2007). The percentiles are widened for few sources (expanded percentile
  interval, Hesterberg 2015, https://arxiv.org/abs/1411.5279).
"""

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import f1_score

CONFIDENCE = 0.95
RESAMPLES = 2000
ECE_BINS = 10


def predictions_table(notes: pd.DataFrame, probabilities: np.ndarray, kinds: list[str], seconds: float) -> pd.DataFrame:
    """Make the rows of `predictions.jsonl`: `id, kind, predicted, probabilities, seconds`.

    probabilities: (notes, kinds) in the order of `kinds`; a row of zeros, for no answer, has an empty `predicted`.
    """
    probabilities = probabilities.round(6)
    table = notes[["id", "kind"]].reset_index(drop=True)
    table["predicted"] = [kinds[row.argmax()] if row.any() else "" for row in probabilities]
    table["probabilities"] = [dict(zip(kinds, map(float, row), strict=True)) for row in probabilities]
    return table.assign(seconds=round(seconds, 9))


def measure(predictions: pd.DataFrame, clusters: pd.Series, kinds: list[str]) -> dict:
    """Compute the content of `metrics.json`; each rate is `{value, low, high, n}`.

    `clusters` is aligned with `predictions`: notes of one cluster are not independent. A kind that was never true
    (recall) or never predicted (precision) has n 0 and null values.
    """
    truth, predicted = predictions["kind"], predictions["predicted"]
    right = truth == predicted
    return {
        "n": len(predictions),
        "accuracy": rate(right),
        "macro_f1": _macro_f1(truth.to_numpy(), predicted.to_numpy(), clusters),
        "recall": {kind: rate(right[truth == kind]) for kind in kinds},
        "precision": {kind: rate(right[predicted == kind]) for kind in kinds},
        "ece": calibration_error(predictions),
        "seconds_per_note": float(predictions["seconds"].mean()),
    }


def measure_sure(predictions: pd.DataFrame, threshold: float | None) -> dict:
    """Measure the sure answers: `{threshold, coverage, accuracy}`, the share that is sure and the share of it right."""
    sure = confidence(predictions) >= (np.inf if threshold is None else threshold)
    return {"threshold": threshold, "coverage": rate(sure), "accuracy": rate(is_right(predictions)[sure])}


def accuracy_by(arms: dict[str, pd.DataFrame], labels: pd.Series) -> dict[str, dict]:
    """Compute {label: {arm: accuracy}} over the notes that have a label; `labels` is aligned with the predictions."""
    return {
        label: {arm: rate(is_right(predictions)[labels == label]) for arm, predictions in arms.items()}
        for label in sorted(set(labels) - {""})
    }


def rate(hits: pd.Series | np.ndarray) -> dict:
    """Compute a share with its Wilson interval: `{value, low, high, n}`."""
    if not len(hits):
        return {"value": None, "low": None, "high": None, "n": 0}
    result = stats.binomtest(int(hits.sum()), len(hits))
    interval = result.proportion_ci(CONFIDENCE, method="wilson")
    return {"value": float(hits.mean()), "low": interval.low, "high": interval.high, "n": len(hits)}


def calibration_error(predictions: pd.DataFrame) -> float | None:
    """Expected calibration error of the answers that were given, in 10 bins of equal width (Guo et al. 2017)."""
    table = reliability(predictions[predictions["predicted"] != ""])
    gaps = (table["right"] - table["confidence"]).abs()
    return float(np.average(gaps, weights=table["notes"])) if len(table) else None


def reliability(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count, for each bin of confidence that holds notes: `notes`, mean `confidence`, and the share `right`."""
    sure = confidence(predictions)
    bins = np.minimum((sure * ECE_BINS).astype(int), ECE_BINS - 1)
    table = pd.DataFrame({"bin": bins, "confidence": sure, "right": is_right(predictions).astype(float)})
    return table.groupby("bin").agg(notes=("right", "size"), confidence=("confidence", "mean"), right=("right", "mean"))


def risk_coverage(predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute `coverage` (share of notes answered, the surest first) and the `accuracy` of those answers."""
    order = np.argsort(-confidence(predictions), kind="stable")
    answered, right = np.arange(1, len(order) + 1), np.cumsum(is_right(predictions)[order])
    return pd.DataFrame({"coverage": answered / len(order), "accuracy": right / answered})


def is_right(predictions: pd.DataFrame) -> np.ndarray:
    """(notes,) whether each answer is the note's kind."""
    return (predictions["kind"] == predictions["predicted"]).to_numpy()


def confidence(predictions: pd.DataFrame) -> np.ndarray:
    """(notes,) the probability of each answer."""
    return predictions["probabilities"].map(lambda p: max(p.values())).to_numpy(float)


def _macro_f1(truth: np.ndarray, predicted: np.ndarray, clusters: pd.Series) -> dict:
    """Macro-F1 over the kinds that occur, as truth or as answer, with an interval from resampled sources."""
    sources = list(clusters.groupby(clusters.to_numpy()).indices.values())

    def f1(sample):
        rows = np.concatenate([sources[int(index)] for index in sample])
        occurring = sorted(set(truth[rows]) | set(predicted[rows]) - {""})
        return f1_score(truth[rows], predicted[rows], labels=occurring, average="macro", zero_division=0.0)

    low, high = _bootstrap(len(sources), f1, (0.0, 1.0), RESAMPLES // 4)
    return {"value": float(f1(range(len(sources)))), "low": low, "high": high, "n": len(truth)}


def bootstrap_mean(values: np.ndarray, clusters: pd.Series) -> tuple[float, float]:
    """Interval of the mean of `values` when whole sources are resampled; -1 to 1 for a single source."""
    sources = pd.Series(values).groupby(clusters.to_numpy())
    sums, sizes = sources.sum().to_numpy(), sources.size().to_numpy()

    def mean(sample, axis):
        sample = sample.astype(int)
        return sums[sample].sum(axis=axis) / sizes[sample].sum(axis=axis)

    return _bootstrap(len(sizes), mean, (-1.0, 1.0), RESAMPLES)


def _bootstrap(clusters: int, statistic, widest: tuple[float, float], resamples: int) -> tuple[float, float]:
    """Percentiles of the bootstrap distribution, further out the fewer clusters there are (Hesterberg 2015)."""
    if clusters < 2:
        return widest
    t = stats.t.isf((1 - CONFIDENCE) / 2, clusters - 1)
    outside = stats.norm.sf(np.sqrt(clusters / (clusters - 1)) * t)
    options = {"n_resamples": resamples, "confidence_level": 1 - 2 * outside, "method": "percentile"}
    result = stats.bootstrap((np.arange(clusters),), statistic, rng=np.random.default_rng(0), **options)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
