"""Metrics with 95 % intervals, arms compared in pairs, and the verdict.

Formulas come from scikit-learn and SciPy:

- rates: Wilson's score interval (Wilson 1927), `scipy.stats.binomtest`;
- macro-F1 and differences between arms: percentile bootstrap over sources, since notes of
  one source are not independent (cluster bootstrap, Field & Welsh 2007), the percentiles widened
  for few sources (expanded percentile interval, Hesterberg 2015, https://arxiv.org/abs/1411.5279);
- pairs: exact McNemar test (McNemar 1947), the binomial test on the notes where the arms differ.
"""

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import f1_score

from onelap import UserError
from onelap.progress import told

CHEAP = ["majority", "markup", "tfidf", "embeddings"]
UNTUNED = ["base", "base_unbiased", "base_few_shot", "base_few_shot_unbiased"]
CONFIDENCE = 0.95
RESAMPLES = 2000
ECE_BINS = 10
SIGNIFICANCE = 0.05
MOST_NOTES = 20_000  # needed for a difference of about a point; beyond that the number says nothing
POWER = 0.8
DIFFERING = 1 / 3  # share of the notes on which two arms differ; a fifth to a half in the laps of docs/LOG.md
MIN_CLUSTERS = 5  # sources in the test, below which no verdict is given: their spread cannot be known


def predictions_table(notes: pd.DataFrame, probabilities: np.ndarray, kinds: list[str], seconds: float):
    """The rows of `predictions.jsonl`: `id, kind, predicted, probabilities, seconds`.

    probabilities: (notes, kinds) in the order of `kinds`, only zeros where there was no answer, and
    `predicted` is then empty; seconds: time a note, the same for all.
    """
    probabilities = probabilities.round(6)
    return pd.DataFrame(
        {
            "id": notes["id"].to_numpy(),
            "kind": notes["kind"].to_numpy(),
            "predicted": [kinds[row.argmax()] if row.any() else "" for row in probabilities],
            "probabilities": [dict(zip(kinds, map(float, row), strict=True)) for row in probabilities],
            "seconds": round(seconds, 9),
        }
    )


def assess(
    validation: pd.DataFrame,
    test: pd.DataFrame,
    probabilities: np.ndarray,
    seconds: float,
    memory_gb: dict[str, float | None],
    kinds: list[str],
) -> tuple[pd.DataFrame, dict, pd.DataFrame]:
    """One arm's predictions and metrics on the test notes, and its validation predictions, for `Run.write_arm`.

    probabilities: (validation notes + test notes, kinds); memory_gb: `PeakMemory.gb` of making them. The
    accuracy on the validation notes is among the metrics: choices between arms are made on it, never on the test.
    """
    chosen_on = predictions_table(validation, probabilities[: len(validation)], kinds, seconds)
    predictions = predictions_table(test, probabilities[len(validation) :], kinds, seconds)
    metrics = measure(predictions, test["cluster"], kinds)
    metrics |= {"validation_accuracy": rate(_right(chosen_on)), "peak_memory_gb": memory_gb}
    return predictions, metrics, chosen_on


def best_on_validation(metrics: dict[str, dict], arms: list[str]) -> str:
    """Which of the arms that were measured did best on the validation notes; the first of equals."""
    measured = [arm for arm in arms if arm in metrics]
    return max(measured, key=lambda arm: metrics[arm]["validation_accuracy"]["value"])


def measure(predictions: pd.DataFrame, clusters: pd.Series, kinds: list[str]) -> dict:
    """The content of `metrics.json`; each rate is `{value, low, high, n}`.

    `clusters` (`Run.read_part`) is aligned with `predictions`. A kind that was never true (recall) or never
    predicted (precision) has n 0 and null values.
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


def sure_enough(predictions: pd.DataFrame, threshold: float | None) -> dict:
    """`{threshold, coverage, accuracy}`: the share of notes answered surely enough, and of these the share right."""
    sure = _confidence(predictions) >= (np.inf if threshold is None else threshold)
    return {"threshold": threshold, "coverage": rate(sure), "accuracy": rate(_right(predictions)[sure])}


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


def calibration_error(predictions: pd.DataFrame) -> float | None:
    """Expected calibration error of the answers that were given, 10 bins of equal width (Guo et al. 2017)."""
    table = reliability(predictions[predictions["predicted"] != ""])
    gaps = table["notes"] * (table["right"] - table["confidence"]).abs()
    return float(gaps.sum() / table["notes"].sum()) if len(table) else None


def reliability(predictions: pd.DataFrame) -> pd.DataFrame:
    """For each bin of confidence that holds notes: `notes`, mean `confidence`, and the share `right`."""
    confidence = _confidence(predictions)
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    table = pd.DataFrame({"bin": bins, "confidence": confidence, "right": _right(predictions).astype(float)})
    return table.groupby("bin").agg(notes=("right", "size"), confidence=("confidence", "mean"), right=("right", "mean"))


def risk_coverage(predictions: pd.DataFrame) -> pd.DataFrame:
    """`coverage` (share of notes answered, the surest first) and the `accuracy` of those answers."""
    order = np.argsort(-_confidence(predictions), kind="stable")
    answered = np.arange(1, len(order) + 1)
    return pd.DataFrame(
        {"coverage": answered / len(order), "accuracy": np.cumsum(_right(predictions)[order]) / answered}
    )


def _confidence(predictions: pd.DataFrame) -> np.ndarray:
    return predictions["probabilities"].map(lambda p: max(p.values())).to_numpy()


def compare(name_a: str, a: pd.DataFrame, name_b: str, b: pd.DataFrame, clusters: pd.Series) -> dict:
    """Arm b against arm a on the same notes; `difference` is accuracy b minus accuracy a.

    Returns `a, b, n, difference {value, low, high}, gained, lost, mcnemar_p, verdict, more_notes`:
    gained are notes that b alone has right, lost are those that a alone has right. The verdict is
    `better` (`worse`) where the whole interval is above (below) zero, McNemar's p is below 0.05
    and the notes come from `MIN_CLUSTERS` sources or more, else `cannot_tell`; then `more_notes`
    is how many more test notes, from new sources, would show a difference as large as this one
    with 80 % power (null where the arms are equal: no number would). Raises UserError where the
    arms were not measured on the same notes.
    """
    if list(a["id"]) != list(b["id"]) or list(a["kind"]) != list(b["kind"]):
        raise UserError(f"{name_a} and {name_b} were measured on different test notes: make both again on this dataset")
    change = _right(b).astype(int) - _right(a).astype(int)
    gained, lost = int((change == 1).sum()), int((change == -1).sum())
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    low, high = _bootstrap_mean(change, clusters)
    verdict = "cannot_tell"
    if p < SIGNIFICANCE and (low > 0 or high < 0) and clusters.nunique() >= MIN_CLUSTERS:
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
        "more_notes": _more_notes(change, clusters) if verdict == "cannot_tell" else 0,
    }


def _more_notes(change: np.ndarray, clusters: pd.Series) -> int | None:
    """By exact power, times how much less a note tells that is like the others of its source (design effect)."""
    n, differing, difference = len(change), np.abs(change).mean(), abs(change.mean())
    if not difference:
        return None
    needed = 1
    while _power(needed, differing, difference) < POWER and needed < MOST_NOTES:
        needed += max(1, needed // 20)
    by_cluster = pd.Series(change).groupby(clusters.to_numpy())
    spread = (by_cluster.sum() - by_cluster.size() * change.mean()).pow(2).sum()
    alone = ((change - change.mean()) ** 2).sum()
    return max(1, int(needed * max(1.0, spread / alone if alone else 1.0)) - n)


def _power(n: int, differing: float, gain: float) -> float:
    """Of the exact McNemar test at 5 % on n notes, where arms differ on a share of them and one is better by `gain`.

    Summed over the binomial number of notes that differ (Duffy 1984, https://doi.org/10.2307/2530940).
    """
    number = np.arange(n + 1)
    # The fewest notes gained, of those that differ, for a p below 5 % (two-sided).
    needed = stats.binom.isf(SIGNIFICANCE / 2, number, 0.5) + 1
    share = (differing + gain) / (2 * differing)
    return float(stats.binom.pmf(number, n, differing) @ stats.binom.sf(needed - 1, number, share))


def compare_by_kind(
    name_a: str, a: pd.DataFrame, name_b: str, b: pd.DataFrame, clusters: pd.Series, kinds: list[str]
) -> dict[str, dict | None]:
    """{kind: `compare` over its test notes, or None where they are too few to show any gain}: recall, that is."""
    found = {}
    for kind in kinds:
        rows = np.flatnonzero(a["kind"] == kind)
        measurable = detectable_gain(len(rows)) is not None
        found[kind] = compare(name_a, a.iloc[rows], name_b, b.iloc[rows], clusters.iloc[rows]) if measurable else None
    return found


def detectable_gain(n: int) -> float | None:
    """The smallest gain in accuracy that n test notes show with 80 % power, in steps of a point; None: no gain does.

    Exact McNemar test at 5 %, where the arms differ on a third of the notes.
    """
    for gain in np.arange(0.01, DIFFERING, 0.01):
        if _power(n, DIFFERING, gain) >= POWER:
            return round(float(gain), 2)
    return None


def state(accuracy: dict[str, float], tuned: dict, cheap: dict) -> str:
    """The result of a lap in one sentence: QLoRA compared with the untuned base, then with the best cheap arm."""
    before, rival = tuned["a"], cheap["a"]
    gain, low, high = (_signed(tuned["difference"][name]) for name in ("value", "low", "high"))
    against_base = {
        "better": "fine-tuning helped",
        "worse": "fine-tuning did harm",
        "cannot_tell": f"cannot tell whether fine-tuning helped{_wanting(tuned)}",
    }[tuned["verdict"]]
    against_rival = {
        "better": "QLoRA beat it",
        "worse": "QLoRA lost to it",
        "cannot_tell": f"cannot tell it from QLoRA{_wanting(cheap)}",
    }[cheap["verdict"]]
    return (
        f"{before} {percent(accuracy[before])} → qlora {percent(accuracy['qlora'])} on {tuned['n']} frozen test notes "
        f"({gain} points, 95 % interval {low.removeprefix('+')} to {high.removeprefix('+')}): "
        f"{against_base}; {rival} {percent(accuracy[rival])}: {against_rival}"
    )


def _signed(share: float) -> str:
    """Percentage points with their sign; with a decimal where it is less than one."""
    return f"{100 * share:+.1f}" if 0 < abs(100 * share) < 0.95 else f"{points(share):+d}"


def _wanting(pair: dict) -> str:
    more = pair["more_notes"]
    return f" (about {float(f'{more:.2g}'):,.0f} more test notes, from new sources, would)" if more else ""


def percent(share: float | None) -> str:
    """A share for reading: `48 %`, or a dash where there is none."""
    return "–" if share is None else f"{points(share)} %"


def points(share: float) -> int:
    """A share or a difference of shares in percentage points, rounded; never -0."""
    return round(100 * share)


def points_with_interval(difference: dict) -> str:
    """A difference for reading: `+40 points, 95 % interval 27 to 55`."""
    found = {name: points(value) for name, value in difference.items()}
    return "{value:+d} points, 95 % interval {low} to {high}".format(**found)


def with_interval(rate: dict) -> str:
    """A rate for reading: `48 % (38 to 58)`."""
    if rate["value"] is None:
        return "–"
    return f"{percent(rate['value'])} ({points(rate['low'])} to {points(rate['high'])})"


def _right(predictions: pd.DataFrame) -> np.ndarray:
    return (predictions["kind"] == predictions["predicted"]).to_numpy()


def _macro_f1(truth: np.ndarray, predicted: np.ndarray, clusters: pd.Series) -> dict:
    """Macro-F1 over the kinds that occur, as truth or as answer, with an interval from resampled sources."""
    members = _members(clusters)

    def f1(rows):
        occurring = sorted(set(truth[rows]) | set(predicted[rows]) - {""})
        return f1_score(truth[rows], predicted[rows], labels=occurring, average="macro", zero_division=0.0)

    def statistic(sampled):
        return f1(np.concatenate([members[int(index)] for index in sampled]))

    low, high = (0.0, 1.0) if len(members) < 2 else _percentile(len(members), statistic, False, RESAMPLES // 4)
    return {"value": float(f1(np.arange(len(truth)))), "low": low, "high": high, "n": len(truth)}


def _bootstrap_mean(values: np.ndarray, clusters: pd.Series) -> tuple[float, float]:
    """Interval of the mean of `values` when whole sources are resampled; all that is possible for a single source."""
    members = _members(clusters)
    if len(members) < 2:
        return -1.0, 1.0
    sums = np.array([values[member].sum() for member in members])
    sizes = np.array([len(member) for member in members])

    def statistic(sampled, axis):
        sampled = sampled.astype(int)
        return sums[sampled].sum(axis=axis) / sizes[sampled].sum(axis=axis)

    return _percentile(len(members), statistic, True, RESAMPLES)


def _members(clusters: pd.Series) -> list[np.ndarray]:
    """Row numbers of each source."""
    return list(clusters.reset_index(drop=True).groupby(clusters.to_numpy()).indices.values())


def _percentile(clusters: int, statistic, vectorized: bool, resamples: int) -> tuple[float, float]:
    """Percentiles of the bootstrap distribution, further out the fewer clusters there are (Hesterberg 2015)."""
    t = stats.t.isf((1 - CONFIDENCE) / 2, clusters - 1)
    outside = stats.norm.sf(np.sqrt(clusters / (clusters - 1)) * t)
    result = stats.bootstrap(
        (np.arange(clusters),),
        statistic,
        vectorized=vectorized,
        n_resamples=resamples,
        confidence_level=1 - 2 * outside,
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
                "calibration error": hundredths(measured["ece"]),
                "ms a note": f"{1000 * measured['seconds_per_note']:.2f}",
                "test notes": measured["n"],
            }
            for arm, measured in metrics.items()
        }
    ).T


def cost_table(metrics: dict[str, dict], notes: int) -> pd.DataFrame:
    """One row an arm, for reading: time and memory, and how long so many notes take; the slowest last."""
    seconds = {arm: measured["seconds_per_note"] for arm, measured in metrics.items()}
    memory = {arm: measured["peak_memory_gb"] for arm, measured in metrics.items()}
    name, generating = "qlora, generated and parsed", metrics["qlora"]["generating"]
    seconds[name], memory[name] = generating["seconds_per_note"], generating["peak_memory_gb"]
    table = pd.DataFrame(
        {
            arm: {
                "notes a second": f"{1 / seconds[arm]:,.0f}" if seconds[arm] < 0.01 else f"{1 / seconds[arm]:.3g}",
                "seconds a note": f"{seconds[arm]:.2g}",
                f"{notes:,} notes": told(seconds[arm] * notes) if seconds[arm] * notes >= 0.5 else "under 1 s",
                "GB of the process": hundredths(memory[arm]["process"]),
                "GB of the card": hundredths(memory[arm]["card"]),
            }
            for arm in sorted(seconds, key=seconds.get)
        }
    ).T
    on_card = any(used["card"] is not None for used in memory.values())
    return table if on_card else table.drop(columns="GB of the card")


def hundredths(number: float | None) -> str:
    """A number for reading: `0.48`, or a dash where there is none."""
    return "–" if number is None else f"{number:.2f}"


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
                "more notes needed": "" if pair["verdict"] != "cannot_tell" else pair["more_notes"] or "no number",
            }
            for pair in pairs
        }
    ).T
