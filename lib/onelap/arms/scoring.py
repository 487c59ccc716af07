"""The probability that a model gives each kind's label tokens, in one forward pass a note.

What stands before the notes is computed once, and its keys and values are used again for each batch. The answers are
appended to the prompt as branches of a tree: an answer token attends to the prompt and to the earlier tokens of its own
answer, not to the other answers. So each answer gets its exact sequence likelihood in the same forward pass.
"""

import copy
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad

from onelap.arms.base import load_base
from onelap.arms.calibration import MIN_PROBABILITY
from onelap.arms.prompts import Prompt
from onelap.machine.memory import Pieces
from onelap.machine.precision import Precision, autocast
from onelap.machine.progress import ProgressLine


class Scorer:
    """One model with one prompt, of which the part before the notes is computed once."""

    @torch.no_grad()
    def __init__(self, model, prompt: Prompt, batch_size: int):
        self.model, self.prompt = model.eval(), prompt
        self.pieces = Pieces(batch_size)
        before = torch.tensor([prompt.before], device=model.device)
        with autocast(model):
            self.prefix = model(input_ids=before, use_cache=True, logits_to_keep=1).past_key_values

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """(notes, kinds), in the order of `prompt.answers`: the softmax over the kinds of log p(answer | prompt).

        Notes are batched by length, which saves padding. Raises FloatingPointError where the model overflows.
        """
        rests = [self.prompt.rest(text) for text in texts]
        by_length = sorted(range(len(texts)), key=lambda index: (len(rests[index]), rests[index]))
        progress, done = ProgressLine(len(texts), "note", after=10.0), 0

        def score_batch(batch: list[int]) -> np.ndarray:
            nonlocal done
            scores = self._in_one_pass([rests[index] for index in batch])
            done += len(batch)
            progress.show(done)
            return scores

        probabilities = np.empty((len(texts), len(self.prompt.answers)))
        probabilities[by_length] = np.concatenate(self.pieces.each(score_batch, by_length))
        return probabilities

    @torch.no_grad()
    def _in_one_pass(self, rests: list[list[int]]) -> np.ndarray:
        inputs = lay_out(self.prompt, rests, self.model.device, len(self.prompt.before))
        cache = copy.deepcopy(self.prefix)  # the model appends to it
        cache.batch_repeat_interleave(len(rests))
        with autocast(self.model):
            scores = answer_log_likelihoods(self.model, self.prompt, inputs, past_key_values=cache)
        if not torch.isfinite(scores).all():
            raise FloatingPointError(f"the model gives scores that are not finite in {self.model.dtype}")
        # A long answer's likelihood is soon too small for float32, and no kind is impossible.
        return torch.softmax(scores.double(), dim=-1).clamp_min(MIN_PROBABILITY).cpu().numpy()


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


def answer_log_likelihoods(model, prompt: Prompt, inputs: dict[str, torch.Tensor], **options) -> torch.Tensor:
    """Compute log p(answer | prompt) in float32, shape (notes, kinds), in one forward pass over `lay_out`'s inputs."""
    branches = prompt.branches
    logits = model(**inputs, **options, logits_to_keep=sum(map(len, branches)) + 1).logits
    log_p = torch.log_softmax(logits.float(), dim=-1)
    columns, offset = [], 1
    for answer, branch in zip(prompt.answers.values(), branches, strict=True):
        # The prompt's last token predicts the first token, each branch token the one after it.
        positions = [0, *range(offset, offset + len(branch))]
        columns.append(log_p[:, positions, answer].sum(dim=-1))
        offset += len(branch)
    return torch.stack(columns, dim=-1)


def lay_out(prompt: Prompt, rows: list[list[int]], device, before: int = 0) -> dict[str, torch.Tensor]:
    """Make the inputs of a forward pass, T columns wide: padding, the row's tokens, the answers' branches.

    `input_ids` and `position_ids` have the shape (rows, T), `attention_mask` (rows, 1, T, before + T): true where a
    token may attend, also to the `before` tokens that stand in front of every row, in a key-value cache.
    """
    branches, longest = prompt.branches, max(map(len, rows))
    answers = [token for branch in branches for token in branch]
    depths = [depth for branch in branches for depth in range(len(branch))]
    branch_of = torch.tensor([0] * longest + [number for number, branch in enumerate(branches, 1) for _ in branch])
    ids, positions = [], []
    for row in rows:
        padding, end = longest - len(row), before + len(row)
        ids.append([prompt.tokenizer.pad_token_id] * padding + row + answers)
        positions.append([0] * padding + [*range(before, end)] + [end + depth for depth in depths])
    columns = torch.arange(len(branch_of))
    earlier = (columns <= columns[:, None]) & ((branch_of == 0) | (branch_of == branch_of[:, None]))
    real = columns >= torch.tensor([longest - len(row) for row in rows])[:, None]
    # Every position attends to itself, padding included: attention to nothing would give NaN.
    allowed = (earlier & real[:, None] & real[:, :, None]) | (columns == columns[:, None])
    allowed = pad(allowed, (before, 0), value=True).unsqueeze(1)
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": allowed, "position_ids": torch.tensor(positions)}
    return {name: tensor.to(device) for name, tensor in inputs.items()}
