"""The probability that a model answers with each kind's token, or its hidden states, in one forward pass a note.

What stands before the notes is computed once, and its keys and values are used again for each batch. Rows are padded
behind their last token, where causal attention never looks: in training no mask is needed, and a GPU takes its fastest
kernel.
"""

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from onelap.arms.base import load_base
from onelap.arms.calibration import MIN_PROBABILITY
from onelap.arms.prompts import Prompt
from onelap.machine.memory import Pieces
from onelap.machine.precision import Precision, autocast
from onelap.machine.progress import ProgressLine

WIDTH = 16  # rows have a multiple of so many tokens: in bfloat16 a CPU makes code for each width, and keeps it


class Scorer:
    """One model with one prompt, of which the part before the notes is computed once."""

    @torch.no_grad()
    def __init__(self, model, prompt: Prompt, batch_size: int):
        self.model, self.prompt = model.eval(), prompt
        self.pieces = Pieces(batch_size)
        before = torch.tensor([prompt.before_ids], device=model.device)
        with autocast(model):
            self.prefix = model(input_ids=before, use_cache=True, logits_to_keep=1).past_key_values

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(notes, kinds), in the order of `prompt.answer_tokens`: the softmax over the kinds of their tokens' logits.

        Raises FloatingPointError where the model overflows, as `hidden_means` does.
        """
        return self._each(texts, self._in_one_pass)

    def hidden_means(self, texts: Sequence[str]) -> np.ndarray:
        """(notes, 1 + layers, hidden size), float32: embeddings and each layer's output, mean over a note's tokens."""
        return self._each(texts, self._means)

    @torch.no_grad()
    def _each(self, texts: Sequence[str], compute: Callable[[list[list[int]]], np.ndarray]) -> np.ndarray:
        """Compute a row a text, of batches of what follows `before`, ordered by length, which saves padding."""
        rests = [self.prompt.encode(text)[len(self.prompt.before_ids) :] for text in texts]
        by_length = sorted(range(len(texts)), key=lambda index: (len(rests[index]), rests[index]))
        progress, done = ProgressLine(len(texts), "note", after=10.0), 0

        def compute_batch(batch: list[int]) -> np.ndarray:
            nonlocal done
            rows = compute([rests[index] for index in batch])
            done += len(batch)
            progress.show(done)
            return rows

        rows = np.concatenate(self.pieces.each(compute_batch, by_length))
        return rows[np.argsort(by_length)]

    def _cache(self, notes: int):
        cache = copy.deepcopy(self.prefix)  # the model appends to it
        cache.batch_repeat_interleave(notes)
        return cache

    def _in_one_pass(self, rests: list[list[int]]) -> np.ndarray:
        with autocast(self.model):
            logits = next_token_logits(self.model, rests, past_key_values=self._cache(len(rests)))
        scores = logits[:, -1, list(self.prompt.answer_tokens.values())]
        # In double precision a far smaller probability is above zero, and no kind is impossible.
        return torch.softmax(self._finite(scores).double(), dim=-1).clamp_min(MIN_PROBABILITY).cpu().numpy()

    def _means(self, rests: list[list[int]]) -> np.ndarray:
        notes = [len(rest) - len(self.prompt.after_ids) for rest in rests]
        inputs = {"input_ids": _pad(rests).to(self.model.device), "past_key_values": self._cache(len(rests))}
        with autocast(self.model):
            layers = self.model.get_decoder()(**inputs, output_hidden_states=True).hidden_states
        means = [torch.stack([layer[row, :n].float().mean(dim=0) for layer in layers]) for row, n in enumerate(notes)]
        return self._finite(torch.stack(means)).cpu().numpy()

    def _finite(self, numbers: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(numbers).all():
            raise FloatingPointError(f"the model gives numbers that are not finite in {self.model.dtype}")
        return numbers


def score(model, prompt: Prompt, texts: list[str], batch_size: int) -> tuple[np.ndarray, float]:
    """Compute `Scorer.probabilities` of these texts, and seconds a note."""
    start = time.perf_counter()
    probabilities = Scorer(model, prompt, batch_size).probabilities(texts)
    return probabilities, (time.perf_counter() - start) / len(texts)


def load_finite_base(base: Path, precision: Precision, prompt: Prompt, texts: list[str]):
    """Load the base in this precision, or in float32 where its scores of the longest text overflow, and print that."""
    model = load_base(base, precision)
    try:
        score(model, prompt, [max(texts, key=len)], 1)
        return model
    except FloatingPointError:
        if precision.safe == precision:
            raise
    print(f"Scores are not finite in {precision.name}: scoring in {precision.safe.name} instead, slower.")
    del model  # a card may hold one, not two
    return load_base(base, precision.safe)


def padded(length: int) -> int:
    """Compute the width of a row with so many tokens."""
    return length + -length % WIDTH


def next_token_logits(model, rows: list[list[int]], last: int = 1, **options) -> torch.Tensor:
    """Compute what follows each of the `last` tokens of each row: logits, shape (rows, last, vocabulary), float32.

    The whole head is computed, but at no other token: the kinds' columns alone would save less than 1 % of the time.
    """
    ends = torch.tensor([[len(row) - last + place for place in range(last)] for row in rows])
    inputs = {"input_ids": _pad(rows).to(model.device), "logits_to_keep": ends.to(model.device)}
    return model(**inputs, **options).logits.float()


def _pad(rows: list[list[int]]) -> torch.Tensor:
    """(rows, width) token ids; what a row is padded with is never read."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return pad(ids, (0, padded(ids.shape[1]) - ids.shape[1]))
