"""Unlike contenders together: their probabilities, multiplied, each to the power of its weight.

This is a logarithmic opinion pool (Genest & Zidek 1986, https://doi.org/10.1214/ss/1177013825). Models that read a note
in unlike ways make unlike mistakes.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax

BLENDED = ["probe", "tfidf"]
MIN_LOG = -20.0  # nats: one member's certainty cannot outweigh all others


def blend(members: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """(notes, kinds) from the members' probabilities of the same shape."""
    logs = [np.log(np.maximum(member, np.exp(MIN_LOG))) for member in members]
    return np.exp(log_softmax(sum(weight * log for weight, log in zip(weights, logs, strict=True)), axis=1))


def fit_weights(members: Sequence[np.ndarray], truth: pd.Series, kinds: list[str]) -> list[float]:
    """Find the weights, zero or more, of the lowest log loss on answers that the members gave out of fold."""
    start, bounds = np.full(len(members), 1 / len(members)), [(0.0, None)] * len(members)
    return minimize(lambda weights: log_loss(blend(members, weights), truth, kinds), start, bounds=bounds).x.tolist()


def log_loss(probabilities: np.ndarray, truth: pd.Series, kinds: list[str]) -> float:
    """Compute the mean of -log p of the true kinds, in nats."""
    true = probabilities[np.arange(len(truth)), [kinds.index(kind) for kind in truth]]
    return -float(np.log(np.maximum(true, np.exp(MIN_LOG))).mean())


class BlendScorer:
    """Other scorers, blended."""

    def __init__(self, members: Sequence, weights: Sequence[float]):
        self.members, self.weights = members, weights

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """(notes, kinds). Raises FloatingPointError where a member's model overflows."""
        return blend([member.probabilities(texts) for member in self.members], self.weights)
