"""What is corrected after training, without training again, and how sure is sure enough.

Everything here is chosen on validation notes; the test notes choose nothing.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from onelap.runs import read_json, write_json

FILE = "calibration.json"
ROUNDS = 200  # each closes a part of what is left; after these it is below a thousandth
MIN_SURE = 10  # validation notes above a threshold; fewer say nothing about its accuracy


@dataclass(frozen=True)
class Calibration:
    """Probabilities p become softmax((log p + offset) / temperature), an offset in nats a kind.

    A temperature changes how sure an answer is, never which one it is.
    """

    offsets: dict[str, float]
    temperature: float = 1.0
    threshold: float | None = None
    """Probability from which an answer is sure enough; None where no threshold reached the target."""

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """(notes, kinds), columns in the order of the offsets."""
        with np.errstate(divide="ignore"):
            return softmax((np.log(probabilities) + list(self.offsets.values())) / self.temperature, axis=1)

    def save(self, adapter: Path) -> None:
        """Beside the adapter's weights, since it belongs to them."""
        write_json(adapter / FILE, asdict(self))

    @classmethod
    def load(cls, adapter: Path) -> "Calibration":
        """What `save` wrote."""
        return cls(**read_json(adapter / FILE))


def against_skew(trained_on: pd.Series, kinds: list[str], strength: float) -> Calibration:
    """Logit adjustment (Menon et al. 2021, https://arxiv.org/abs/2007.07314): rare kinds are named more readily.

    `trained_on` are the training notes' kinds. A strength of 1 takes their shares out wholly, which
    costs accuracy; 0 leaves them in. What was measured is in docs/LOG.md.
    """
    shares = trained_on.value_counts(normalize=True)
    return Calibration({kind: float(-strength * np.log(shares[kind])) for kind in kinds})


def without_label_bias(probabilities: np.ndarray, trained_on: pd.Series, kinds: list[str]) -> Calibration:
    """Batch calibration of an untuned model, repeated until it names each kind as often as the training notes have it.

    A model that has learnt nothing here prefers some words to others, whatever the note. Batch
    calibration (Zhou et al. 2024, https://arxiv.org/abs/2309.17249) divides by what it says on
    average over the notes, whose kinds are not looked at; once is not enough where it says nearly
    always the same. Contextual calibration asks about an empty note instead, which that paper
    finds to depend on how it is written.
    """
    shares = trained_on.value_counts(normalize=True).reindex(kinds).to_numpy()
    offsets = np.zeros(len(kinds))
    with np.errstate(divide="ignore"):
        scores = np.log(probabilities)
    for _ in range(ROUNDS):
        said = softmax(scores + offsets, axis=1).mean(axis=0)
        offsets += np.log(shares / said)
    return Calibration(dict(zip(kinds, map(float, offsets), strict=True)))


def fit(calibration: Calibration, probabilities: np.ndarray, truth: pd.Series, target: float) -> Calibration:
    """Add the temperature of the lowest log loss (Guo et al. 2017) and the threshold for a target accuracy.

    probabilities: (notes, kinds), uncorrected, of validation notes whose kinds are `truth`. The
    threshold is the one that keeps most notes of those above which the share of right answers
    is `target` or more.
    """
    kinds = list(calibration.offsets)

    def loss(log_temperature: float) -> float:
        tempered = Calibration(calibration.offsets, float(np.exp(log_temperature)))
        return log_loss(truth, tempered.apply(probabilities), labels=sorted(kinds))

    best = minimize_scalar(loss, bounds=(np.log(0.1), np.log(20)), method="bounded")
    tempered = Calibration(calibration.offsets, float(np.exp(best.x)))
    corrected = tempered.apply(probabilities)
    right = np.array(kinds)[corrected.argmax(axis=1)] == truth.to_numpy()
    return Calibration(tempered.offsets, tempered.temperature, _threshold(corrected.max(axis=1), right, target))


def _threshold(confidence: np.ndarray, right: np.ndarray, target: float) -> float | None:
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    last_of_ties = np.append(confidence[order][1:] < confidence[order][:-1], True)
    reached = (np.cumsum(right[order]) / kept >= target) & (kept >= MIN_SURE) & last_of_ties
    return float(confidence[order][reached][-1]) if reached.any() else None
