"""Scores compared with plain forward passes and with greedy generation, on a real model in 4 bits."""

import numpy as np
import pytest
import torch

from onelap.arms.base import load_base, load_tokenizer
from onelap.arms.calibration import Calibration
from onelap.arms.endpoint import generate
from onelap.arms.prompts import build_prompt
from onelap.arms.scoring import score
from onelap.daily.export import describe_classifier
from onelap.machine.precision import choose_precision

LABELS = ["knowledge", "lesson", "of a design", "value"]
ALIKE = ["a", "know", "knowledge", "knowledgeable"]  # answered by letters
TEXTS = ["kettle", "the kettle boils at a hundred degrees", "buy milk " * 12, "河 river", "x", "word " * 500]


@pytest.fixture(scope="module")
def model(toy_base):
    return load_base(toy_base, choose_precision("fp32"))


@pytest.fixture(params=[LABELS, ALIKE], ids=["labels", "letters"])
def prompt(request, toy_base):
    return build_prompt(load_tokenizer(toy_base), request.param, max_length=200)


@torch.no_grad()
def log_probabilities(model, prompt, text: str) -> np.ndarray:
    """Compute log p(kind) the slow way: one pass over the prompt as a text, no padding and no cache."""
    ids = prompt.tokenizer(prompt.text(text), add_special_tokens=False, return_tensors="pt")["input_ids"]
    return model(input_ids=ids).logits[0, -1].double()[list(prompt.answer_tokens.values())].log_softmax(0).numpy()


def test_scores_are_the_probabilities_of_the_answers_first_tokens(model, prompt):
    probabilities, seconds = score(model, prompt, TEXTS, batch_size=3)
    assert probabilities.shape == (len(TEXTS), 4) and seconds > 0
    for text, row in zip(TEXTS, probabilities, strict=True):
        np.testing.assert_allclose(np.log(row), log_probabilities(model, prompt, text), atol=1e-3)


def test_scores_with_examples_are_those_of_the_longer_prompt(model, prompt):
    kinds = list(prompt.answers)
    few_shot = build_prompt(prompt.tokenizer, kinds, 200, {kinds[0]: "the first"}, [("kettle", kinds[1])])
    probabilities, _ = score(model, few_shot, TEXTS, batch_size=2)
    for text, row in zip(TEXTS, probabilities, strict=True):
        np.testing.assert_allclose(np.log(row), log_probabilities(model, few_shot, text), atol=1e-3)
    without, _ = score(model, prompt, TEXTS, batch_size=2)
    assert np.abs(np.log(probabilities) - np.log(without)).max() > 1e-2, "examples change the scores"


def test_scores_do_not_depend_on_batch_size_or_order(model, prompt):
    one, _ = score(model, prompt, TEXTS, batch_size=1)
    all_at_once, _ = score(model, prompt, TEXTS, batch_size=8)
    backwards, _ = score(model, prompt, TEXTS[::-1], batch_size=2)
    np.testing.assert_allclose(np.log(all_at_once), np.log(one), atol=1e-4)
    np.testing.assert_allclose(np.log(backwards[::-1]), np.log(one), atol=1e-4)


def test_greedy_generation_among_the_answers_gives_the_calibrated_kinds(model, prompt):
    """As in another program, which has the prompt's text and classifier.json."""
    kinds = list(prompt.answers)
    scored, _ = score(model, prompt, TEXTS, batch_size=3)
    rivals = np.log(np.sort(scored, axis=1)[:, -2:])
    gap = float(np.median(rivals[:, 1] - rivals[:, 0]))  # so that the offsets turn some of the answers
    offsets = dict.fromkeys(kinds, 0.0) | {kinds[scored.sum(axis=0).argmin()]: 10 * gap}
    calibration = Calibration(offsets, temperature=1.3)
    expected = [kinds[column] for column in calibration.apply(scored).argmax(axis=1)]
    assert expected != [kinds[column] for column in scored.argmax(axis=1)]
    classifier = describe_classifier(prompt, calibration)
    assert list(classifier["answer_tokens"]) == kinds
    kind_of = {token: kind for kind, token in classifier["answer_tokens"].items()}
    for text, kind in zip(TEXTS, expected, strict=True):
        if len(prompt.note_tokens(text)) <= classifier["note_tokens"]:
            asked = classifier["before"] + text.strip() + classifier["after"]
            inputs = prompt.tokenizer(asked, add_special_tokens=False, return_tensors="pt")
            bias = {(token,): value for token, value in classifier["logit_bias"].items()}
            allowed = {"prefix_allowed_tokens_fn": lambda *_: list(kind_of), "sequence_bias": bias}
            (*_, token) = model.generate(**inputs, **allowed, do_sample=False, max_new_tokens=1)[0].tolist()
            assert kind_of[token] == kind


def test_free_generation_is_read_as_a_kind_by_label_and_by_letter(model, prompt, monkeypatch):
    def write(input_ids, **_):
        answers = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(answer) for answer in prompt.answers.values()], True, prompt.tokenizer.pad_token_id
        )
        return torch.cat([input_ids, answers], dim=1)

    monkeypatch.setattr(model, "generate", write)
    assert generate(model, prompt, ["kettle"] * 4, batch_size=4)[0] == list(prompt.answers)


def test_letter_decides_though_the_model_writes_on(model, toy_base, monkeypatch):
    prompt = build_prompt(load_tokenizer(toy_base), ALIKE, max_length=200)
    written = torch.tensor([prompt.tokenizer("B. because")["input_ids"]])
    monkeypatch.setattr(model, "generate", lambda input_ids, **_: torch.cat([input_ids, written], dim=1))
    assert generate(model, prompt, ["kettle"])[0] == [ALIKE[1]]
