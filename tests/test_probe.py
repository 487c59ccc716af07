"""The probe: hidden states of a real model, and logistic regression on them."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onelap.arms.base import load_base, load_tokenizer
from onelap.arms.probe import ITERATIONS, STRENGTHS, Probe, ProbeScorer, fit_probe, keep_layers
from onelap.arms.prompts import build_prompt
from onelap.arms.scoring import Scorer
from onelap.machine.precision import choose_precision

KINDS = ["knowledge", "lesson", "value"]
TEXTS = ["kettle", "the kettle boils at a hundred degrees", "buy milk " * 12, "河 river", "x", "word " * 500]


@pytest.fixture
def model(toy_base):
    return load_base(toy_base, choose_precision("fp32"))


@pytest.fixture
def prompt(toy_base):
    return build_prompt(load_tokenizer(toy_base), KINDS, max_length=200)


@torch.no_grad()
def plain_means(model, prompt, text: str) -> np.ndarray:
    """Compute the means the slow way: one pass over the whole prompt, no padding and no cache."""
    ids = prompt.encode(text)
    layers = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    start, end = len(prompt.before_ids), len(ids) - len(prompt.after_ids)
    return np.stack([layer[0, start:end].mean(dim=0).numpy() for layer in layers])


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_hidden_means_are_those_of_plain_passes_over_the_notes_tokens(model, prompt, batch_size):
    means = Scorer(model, prompt, batch_size).hidden_means(TEXTS)
    assert means.shape == (len(TEXTS), 3, 64) and means.dtype == np.float32
    for text, row in zip(TEXTS, means, strict=True):
        np.testing.assert_allclose(row, plain_means(model, prompt, text), atol=2e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_layers_that_are_kept_give_the_same_hidden_means(model, prompt, count):
    whole = Scorer(model, prompt, 4).hidden_means(TEXTS)
    keep_layers(model, count)
    assert len(model.model.layers) == count
    kept = Scorer(model, prompt, 4).hidden_means(TEXTS)
    np.testing.assert_allclose(kept, whole[:, : count + 1], atol=2e-5)


def features(
    seed: int, informative: int, notes: int = 120, kinds: list[str] = KINDS
) -> tuple[np.ndarray, pd.DataFrame]:
    """Random hidden states of five layers, of which one tells the kinds apart; six sources."""
    rng = np.random.default_rng(seed)
    columns = np.arange(notes) % len(kinds)
    means = rng.normal(size=(notes, 5, 16)).astype(np.float32)
    means[np.arange(notes), informative, columns] += 3.0
    return means, pd.DataFrame({"kind": np.array(kinds)[columns], "cluster": np.arange(notes) // len(kinds) % 6})


@pytest.mark.parametrize("kinds", [KINDS, KINDS[:2]], ids=["three kinds", "two kinds"])
def test_probe_reads_the_layer_that_tells_the_kinds_apart(kinds):
    means, notes = features(0, informative=3, kinds=kinds)
    probe, on_train = fit_probe(means, notes, kinds)
    assert probe.layers[0] == 3
    unseen, truth = features(1, informative=3, kinds=kinds)
    probabilities = Probe(**json.loads(json.dumps(vars(probe)))).probabilities(unseen)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    for answers, one in ((probabilities, truth), (on_train, notes)):
        assert (np.array(kinds)[answers.argmax(axis=1)] == one["kind"]).mean() > 0.8


def test_answers_out_of_fold_come_from_probes_that_have_not_seen_the_cluster():
    rng = np.random.default_rng(0)
    notes = pd.DataFrame({"cluster": np.arange(120) % 12})
    notes["kind"] = np.where(rng.permutation(12)[notes["cluster"]] % 2, "lesson", "value")
    means = np.zeros((120, 2, 12), np.float32)
    means[np.arange(120), :, notes["cluster"]] = 1.0  # a cluster's own mark, which says nothing of others
    probe, on_train = fit_probe(means + rng.normal(0, 0.01, means.shape), notes, ["lesson", "value"])
    truth = (notes["kind"] == "value").to_numpy()
    assert (probe.probabilities(means).argmax(axis=1) == truth).all()
    assert (on_train.argmax(axis=1) == truth).mean() < 0.75


def test_kind_without_notes_is_never_the_answer():
    means, notes = features(0, informative=1)
    probe, on_train = fit_probe(means, notes, [*KINDS, "absent"])
    assert probe.probabilities(means)[:, 3].max() < 1e-50 and on_train[:, 3].max() < 1e-6


def test_probe_learns_from_two_notes_of_each_kind():
    means, notes = features(0, informative=2, notes=6)
    probe, on_train = fit_probe(means, notes.assign(cluster=range(6)), KINDS)
    assert on_train.shape == (6, 3) and np.isfinite(probe.probabilities(means)).all()


@pytest.mark.parametrize("others", [0, 1, 2, 5])
@pytest.mark.parametrize("kinds", [KINDS, KINDS[:2]], ids=["three kinds", "two kinds"])
def test_kind_from_a_single_source_does_not_stop_the_probe(kinds, others):
    """The folds that hold this source out know no note of the kind; with few `others` there are fewer than folds."""
    means, notes = features(0, informative=2, notes=42, kinds=kinds)
    place = np.arange(42) // len(kinds) % max(1, others)
    notes["cluster"] = np.where((notes["kind"] == "lesson") & (others > 0), 0, 1 + place)
    probe, on_train = fit_probe(means, notes, kinds)
    np.testing.assert_allclose(on_train.sum(axis=1), 1.0)
    assert (np.array(kinds)[probe.probabilities(means).argmax(axis=1)] == notes["kind"]).mean() > 0.9


def test_probe_folds_standardization_into_its_weights_and_takes_the_mean_of_its_layers():
    means, notes = features(0, informative=3)
    means *= np.logspace(-1, 1, 16, dtype=np.float32)  # features of unlike size, none of them around zero
    means += 5.0
    probe, _ = fit_probe(means, notes, KINDS)
    closest = []
    for strengths in itertools.product(STRENGTHS, repeat=len(probe.layers)):
        logits = [
            make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS))
            .fit(means[:, layer], notes["kind"])
            .decision_function(means[:, layer])
            for layer, strength in zip(probe.layers, strengths, strict=True)
        ]
        closest.append(np.abs(softmax(np.mean(logits, axis=0), axis=1) - probe.probabilities(means)).max())
    assert min(closest) < 1e-4 and sorted(closest)[1] > 1e-3


def test_probe_scorer_answers_texts(model, prompt):
    means = Scorer(model, prompt, 4).hidden_means(TEXTS)
    probe, _ = fit_probe(means, pd.DataFrame({"kind": KINDS * 2, "cluster": range(6)}), KINDS)
    keep_layers(model, max(probe.layers))
    scores = ProbeScorer(Scorer(model, prompt, 2), probe).probabilities(TEXTS)
    np.testing.assert_allclose(scores, probe.probabilities(means), atol=1e-3)
