"""What is corrected after training, without training again, and how sure is sure enough.

Everything here is chosen on validation notes; the test notes choose nothing.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from onelap.machine.store import read_json, write_json

FILE = "calibration.json"
ROUNDS = 200  # each closes a part of what is left; after these it is below a thousandth
LEAST = 1e-100  # probability: nothing is impossible, and logarithms stay finite
MIN_FITTED = 30  # validation notes for a temperature
MIN_SURE = 10  # validation notes above a threshold; fewer say nothing about its accuracy


@dataclass(frozen=True)
class Calibration:
    """Probabilities p become softmax((log p / label_temperature + offset) / temperature), an offset in nats a kind.

    A temperature changes how sure an answer is, never which one it is.
    """

    offsets: dict[str, float]
    label_temperature: float = 1.0
    """That of the training: what the adapter has learnt are the scores divided by it."""
    temperature: float = 1.0
    threshold: float | None = None
    """Probability from which an answer is sure enough; None where no threshold reached the target."""

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """(notes, kinds), columns in the order of the offsets."""
        scores = np.log(np.maximum(probabilities, LEAST))
        return softmax((scores / self.label_temperature + list(self.offsets.values())) / self.temperature, axis=1)

    def save(self, adapter: Path) -> None:
        """Beside the adapter's weights, since it belongs to them."""
        write_json(adapter / FILE, asdict(self))

    @classmethod
    def load(cls, adapter: Path) -> "Calibration":
        """What `save` wrote."""
        return cls(**read_json(adapter / FILE))


def against_skew(trained_on: pd.Series, kinds: list[str], strength: float, label_temperature: float) -> Calibration:
    """Logit adjustment (Menon et al. 2021, https://arxiv.org/abs/2007.07314): rare kinds are named more readily.

    `trained_on` are the training notes' kinds. A strength of 1 takes their shares out wholly, which
    costs accuracy; 0 leaves them in. What was measured is in docs/LOG.md.
    """
    shares = _shares(trained_on, kinds)
    return Calibration(dict(zip(kinds, map(float, -strength * np.log(shares)), strict=True)), label_temperature)


def _shares(trained_on: pd.Series, kinds: list[str]) -> np.ndarray:
    """(kinds,) each kind's share of the training notes, half a note added so that none is zero."""
    counts = trained_on.value_counts().reindex(kinds, fill_value=0).to_numpy() + 0.5
    return counts / counts.sum()


def without_label_bias(probabilities: np.ndarray, trained_on: pd.Series, kinds: list[str]) -> Calibration:
    """Offsets after which an untuned model gives each kind the probability, on average, that it has in training.

    A model that has learnt nothing here prefers some words to others, whatever the note. Batch
    calibration (Zhou et al. 2024, https://arxiv.org/abs/2309.17249) divides by what it says on
    average over the notes, whose kinds are not looked at; where it says nearly always the same,
    once is not enough, so that it is repeated here, towards the kinds' shares. Contextual calibration
    asks about an empty note instead, which that paper finds to depend on how it is written.
    """
    shares, offsets = _shares(trained_on, kinds), np.zeros(len(kinds))
    scores = np.log(np.maximum(probabilities, LEAST))
    for _ in range(ROUNDS):
        said = softmax(scores + offsets, axis=1).mean(axis=0)
        offsets += np.log(shares / said)
    return Calibration(dict(zip(kinds, map(float, offsets), strict=True)))


def fit(calibration: Calibration, probabilities: np.ndarray, truth: pd.Series, target: float) -> Calibration:
    """Add the temperature of the lowest log loss (Guo et al. 2017), if there is one, and a threshold for a target.

    probabilities: (notes, kinds), uncorrected, of validation notes whose kinds are `truth`. The
    threshold is the one that keeps most notes of those above which the share of right answers
    is `target` or more.
    """
    from scipy.optimize import minimize_scalar  # takes half a second, which applying it need not wait for

    kinds = list(calibration.offsets)
    given = np.array([kinds.index(kind) for kind in truth], dtype=int)

    def loss(log_temperature: float) -> float:
        tempered = replace(calibration, temperature=float(np.exp(log_temperature))).apply(probabilities)
        return float(-np.log(np.maximum(tempered[np.arange(len(given)), given], LEAST)).mean())

    lowest, highest = np.log(0.1), np.log(20)
    best = minimize_scalar(loss, bounds=(lowest, highest), method="bounded").x
    # Few notes, or notes that are all right, would have it as sure as can be.
    found = len(given) >= MIN_FITTED and lowest + 0.05 < best < highest - 0.05 and loss(best) < loss(0.0) - 1e-6
    tempered = replace(calibration, temperature=float(np.exp(best)) if found else 1.0)
    corrected = tempered.apply(probabilities)
    right = corrected.argmax(axis=1) == given
    return replace(tempered, threshold=_threshold(corrected.max(axis=1), right, target))


def _threshold(confidence: np.ndarray, right: np.ndarray, target: float) -> float | None:
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    last_of_ties = np.append(confidence[order][1:] < confidence[order][:-1], True)
    reached = (np.cumsum(right[order]) / kept >= target) & (kept >= MIN_SURE) & last_of_ties
    return float(confidence[order][reached][-1]) if reached.any() else None
