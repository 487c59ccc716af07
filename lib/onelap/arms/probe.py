"""A linear probe: logistic regression on the frozen base's hidden states (Alain & Bengio 2017, arXiv 1610.01644).

What tells the kinds apart is clearest between the middle and the last layer; where, depends on base and notes (arXiv
2502.02013). So the layers are chosen within the training notes, and the mean of three is used. A penalty is needed:
there are more hidden states than notes (arXiv 2408.03414).
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from onelap.arms.blend import blend, log_loss
from onelap.arms.calibration import MIN_PROBABILITY
from onelap.arms.cheap import out_of_fold
from onelap.arms.scoring import Scorer

TRIED, LAYERS = 11, 3  # layers, evenly spaced, embeddings and last layer among them; and those that are used
STRENGTHS = (0.01, 0.03, 0.1, 0.3)  # C of logistic regression on standardized features
ITERATIONS = 300


@dataclass(frozen=True)
class Probe:
    """Logits of the kinds: for each layer its weights (kinds, hidden size) times its mean hidden state; plus biases."""

    layers: list[int]  # 0 is the embeddings
    weights: list[list[list[float]]]
    biases: list[float]

    def probabilities(self, means: np.ndarray) -> np.ndarray:
        """(notes, kinds) from what `Scorer.hidden_means` returns."""
        logits = np.einsum("nlh,lkh->nk", means[:, self.layers], np.array(self.weights)) + self.biases
        return np.maximum(softmax(logits, axis=1), MIN_PROBABILITY)


def fit_probe(means: np.ndarray, notes: pd.DataFrame, kinds: list[str]) -> tuple[Probe, np.ndarray]:
    """Fit a probe to notes (columns `kind`, `cluster`) and their hidden states.

    Layers and penalties are those with the lowest log loss out of fold. Returns the probe, and the answers out of fold
    that they gave: probabilities (notes, kinds).
    """
    places = {round(layer) for layer in np.linspace(0, means.shape[1] - 1, TRIED)}
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # the answers no longer change
        tried = {layer: _try(means[:, layer], notes, kinds) for layer in sorted(places)}
        layers = sorted(tried, key=lambda layer: tried[layer][0])[:LAYERS]
        models = [_model(tried[layer][1]).fit(means[:, layer], notes["kind"]) for layer in layers]
    folded = np.stack([_fold_in(model, kinds) for model in models]) / len(layers)
    probe = Probe(layers, folded[..., :-1].tolist(), folded[..., -1].sum(axis=0).tolist())
    return probe, blend([tried[layer][2] for layer in layers], [1 / len(layers)] * len(layers))


def keep_layers(model, count: int) -> None:
    """Remove the layers of a base above the first `count`, which a probe does not read."""
    decoder = model.get_decoder()
    if count < len(decoder.layers):
        decoder.layers, decoder.norm = decoder.layers[:count], nn.Identity()  # the norm belongs to the last layer
        model.config.num_hidden_layers = count


class ProbeScorer:
    """A base and a probe, which score texts."""

    def __init__(self, scorer: Scorer, probe: Probe):
        self.scorer, self.probe = scorer, probe

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """(notes, kinds). Raises FloatingPointError where the model overflows."""
        return self.probe.probabilities(self.scorer.hidden_means(texts))


def _try(features: np.ndarray, notes: pd.DataFrame, kinds: list[str]) -> tuple[float, float, np.ndarray]:
    """The lowest log loss out of fold that one layer reaches, the strength that gives it, and the answers."""
    answers = {strength: out_of_fold(_model(strength), features, notes, kinds) for strength in STRENGTHS}
    losses = {strength: log_loss(answers[strength], notes["kind"], kinds) for strength in STRENGTHS}
    best = min(losses, key=losses.get)
    return losses[best], best, answers[best]


def _model(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS))


def _fold_in(model: Pipeline, kinds: list[str]) -> np.ndarray:
    """(kinds, hidden size + 1): the weights for features that are not standardized, and the bias in the last column.

    A kind without training notes gets the smallest probability.
    """
    scaler, regression = model
    weights, biases = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # one row, for the second kind against the first
        weights, biases = np.concatenate([-weights, weights]) / 2, np.concatenate([-biases, biases]) / 2
    weights = weights / scaler.scale_
    folded = np.zeros((len(kinds), weights.shape[1] + 1))
    folded[:, -1] = np.log(MIN_PROBABILITY)
    folded[[kinds.index(kind) for kind in regression.classes_]] = np.c_[weights, biases - weights @ scaler.mean_]
    return folded
