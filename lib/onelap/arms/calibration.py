"""Corrections after training, and the confidence from which an answer is sure; all chosen on validation notes."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import softmax

MIN_PROBABILITY = 1e-100  # no kind is impossible, and logarithms stay finite
MIN_FITTED = 30  # validation notes for a temperature
MIN_SURE = 10  # validation notes above a threshold; fewer say nothing about its accuracy
ITERATIONS = 200  # each closes part of the remaining bias; after these it is below a thousandth


@dataclass(frozen=True)
class Calibration:
    """Turns probabilities p into softmax((log p + offset) / temperature), an offset in nats a kind.

    A temperature changes how sure an answer is, never which one it is.
    """

    offsets: dict[str, float]
    temperature: float = 1.0
    threshold: float | None = None  # probability from which an answer is sure; None where none reached the target

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Correct (notes, kinds), whose columns are in the order of the offsets."""
        scores = _log(probabilities) + list(self.offsets.values())
        return softmax(scores / self.temperature, axis=1)


def adjust_for_skew(trained_on: pd.Series, kinds: list[str], strength: float) -> Calibration:
    """Favour rare kinds by logit adjustment (Menon et al. 2021, https://arxiv.org/abs/2007.07314).

    A strength of 1 removes the kinds' shares in `trained_on` from the scores, which costs accuracy; 0 leaves them.
    """
    offsets = -strength * np.log(_shares(trained_on, kinds))
    return Calibration(dict(zip(kinds, offsets.tolist(), strict=True)))


def without_label_bias(probabilities: np.ndarray, trained_on: pd.Series, kinds: list[str]) -> Calibration:
    """Find offsets with which an untuned model gives each kind, on average, the probability it has in training.

    An untuned model prefers some labels to others, whatever the note. Batch calibration (Zhou et al. 2024,
    https://arxiv.org/abs/2309.17249) divides by the mean probabilities over the notes, whose kinds are not used. Where
    the model nearly always gives the same answer once is not enough: here it is repeated, towards the kinds' shares.
    """
    shares, offsets = _shares(trained_on, kinds), np.zeros(len(kinds))
    for _ in range(ITERATIONS):
        means = softmax(_log(probabilities) + offsets, axis=1).mean(axis=0)
        offsets += np.log(shares / means)
    return Calibration(dict(zip(kinds, offsets.tolist(), strict=True)))


def fit(calibration: Calibration, probabilities: np.ndarray, truth: pd.Series, target: float) -> Calibration:
    """Add the temperature of the lowest log loss (Guo et al. 2017), and a threshold for the target accuracy.

    probabilities: (notes, kinds), uncorrected, of validation notes whose kinds are `truth`. The threshold is the one
    that keeps most notes, among those above which the share of right answers is `target` or more.
    """
    from scipy.optimize import minimize_scalar  # takes half a second, which applying a calibration need not wait for

    kinds = list(calibration.offsets)
    true_column = np.array([kinds.index(kind) for kind in truth], dtype=int)

    def loss(log_temperature: float) -> float:
        tempered = replace(calibration, temperature=float(np.exp(log_temperature))).apply(probabilities)
        return float(-_log(tempered[np.arange(len(true_column)), true_column]).mean())

    lowest, highest = np.log(0.1), np.log(20)
    best = minimize_scalar(loss, bounds=(lowest, highest), method="bounded").x
    # Few notes, or notes that are all right, would make the model as sure as can be.
    usable = len(truth) >= MIN_FITTED and lowest + 0.05 < best < highest - 0.05 and loss(best) < loss(0.0) - 1e-6
    tempered = replace(calibration, temperature=float(np.exp(best)) if usable else 1.0)
    corrected = tempered.apply(probabilities)
    right = corrected.argmax(axis=1) == true_column
    return replace(tempered, threshold=_choose_threshold(corrected.max(axis=1), right, target))


def _choose_threshold(confidence: np.ndarray, right: np.ndarray, target: float) -> float | None:
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    last_of_ties = np.append(confidence[order][1:] < confidence[order][:-1], True)
    reached = (np.cumsum(right[order]) / kept >= target) & (kept >= MIN_SURE) & last_of_ties
    return float(confidence[order][reached][-1]) if reached.any() else None


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, MIN_PROBABILITY))


def _shares(trained_on: pd.Series, kinds: list[str]) -> np.ndarray:
    """(kinds,) each kind's share of the training notes, half a note added so that none is zero."""
    counts = trained_on.value_counts().reindex(kinds, fill_value=0).to_numpy() + 0.5
    return counts / counts.sum()
