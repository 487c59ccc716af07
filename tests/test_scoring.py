"""Scores compared with the likelihood of the whole sequence, on a real model in 4 bits."""

import numpy as np
import pytest
import torch

from onelap.arms.base import load_base, load_tokenizer
from onelap.arms.prompts import build_prompt
from onelap.arms.scoring import score
from onelap.machine.precision import choose_precision

# Answers of one and of many tokens, two that begin alike, one that is the beginning of another.
KINDS = ["a", "know", "knowledge", "knowledgeable", "of a design"]
TEXTS = ["kettle", "the kettle boils at a hundred degrees", "buy milk " * 12, "河 river", "x"]


@pytest.fixture(scope="module")
def model_and_prompt(toy_base):
    model = load_base(toy_base, choose_precision())
    return model, build_prompt(load_tokenizer(toy_base), KINDS, max_length=200)


@torch.no_grad()
def sequence_likelihood(model, prompt, text: str) -> np.ndarray:
    """Compute log p(kind) the slow way: one forward pass over prompt and answer for each kind, no mask, no padding."""
    start = prompt.encode(text)
    scores = []
    for answer in prompt.answers.values():
        logits = model(input_ids=torch.tensor([start + answer])).logits[0].float()
        log_p = torch.log_softmax(logits, dim=-1)
        scores.append(sum(log_p[len(start) + i - 1, token].item() for i, token in enumerate(answer)))
    return np.array(scores) - np.logaddexp.reduce(scores)


def test_scores_are_the_likelihoods_of_whole_sequences(model_and_prompt):
    model, prompt = model_and_prompt
    lengths = {len(answer) for answer in prompt.answers.values()}
    assert len(lengths) > 2, "the test needs answers of different lengths"
    probabilities, seconds = score(model, prompt, TEXTS, batch_size=3)
    assert probabilities.shape == (len(TEXTS), len(KINDS)) and seconds > 0
    for text, row in zip(TEXTS, probabilities, strict=True):
        np.testing.assert_allclose(np.log(row), sequence_likelihood(model, prompt, text), atol=1e-3)


def test_scores_with_examples_are_the_likelihoods_of_whole_sequences(model_and_prompt):
    model, prompt = model_and_prompt
    few_shot = build_prompt(prompt.tokenizer, KINDS, 200, {"a": "the first"}, [("kettle", "know"), ("milk", "a")])
    probabilities, _ = score(model, few_shot, TEXTS, batch_size=2)
    for text, row in zip(TEXTS, probabilities, strict=True):
        np.testing.assert_allclose(np.log(row), sequence_likelihood(model, few_shot, text), atol=1e-3)
    without, _ = score(model, prompt, TEXTS, batch_size=2)
    assert np.abs(np.log(probabilities) - np.log(without)).max() > 1e-2, "examples change the scores"


def test_scores_do_not_depend_on_batch_size_or_order(model_and_prompt):
    model, prompt = model_and_prompt
    one, _ = score(model, prompt, TEXTS, batch_size=1)
    all_at_once, _ = score(model, prompt, TEXTS, batch_size=8)
    backwards, _ = score(model, prompt, TEXTS[::-1], batch_size=2)
    np.testing.assert_allclose(np.log(all_at_once), np.log(one), atol=1e-4)
    np.testing.assert_allclose(np.log(backwards[::-1]), np.log(one), atol=1e-4)


def test_long_label_has_a_positive_probability(model_and_prompt):
    model, prompt = model_and_prompt
    long = build_prompt(prompt.tokenizer, ["none", "設計上の意思決定とその理由の記録" * 4], 600)
    probabilities, _ = score(model, long, TEXTS, batch_size=2)
    assert (probabilities > 0).all() and np.isfinite(np.log(probabilities)).all()
