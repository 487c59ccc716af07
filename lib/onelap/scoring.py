"""The probability that a model gives each kind's label tokens, in one forward pass a note.

What stands before the notes is computed once and its keys and values are used again for each
batch. The answers hang on the end of the prompt as branches of a tree: every answer token sees
the prompt and the earlier tokens of its own answer, not the other answers. So answers of several
tokens get their exact sequence likelihood without a forward pass for each.
"""

import copy
import time
from pathlib import Path

import numpy as np
import torch

from onelap.prompts import Prompt
from onelap.runs import read_json, write_json

PROBE_NOTES, PROBE_BATCH = 32, 8
LEAST = 1e-100
PARITY = 1e-3  # in probability; a reloaded adapter differs by rounding only


@torch.no_grad()
def score(model, prompt: Prompt, texts: list[str], batch_size: int) -> tuple[np.ndarray, float]:
    """Probabilities of shape (notes, kinds), in the order of `prompt.answers`, and seconds a note.

    p(kind) is the softmax over the kinds of log p(answer tokens | prompt). Notes are batched
    by length, which saves padding and does not depend on their order. Raises FloatingPointError
    where the model overflows.
    """
    model.eval()
    start = time.perf_counter()
    rests = [prompt.rest(text) for text in texts]
    by_length = sorted(range(len(texts)), key=lambda index: (len(rests[index]), rests[index]))
    probabilities = np.empty((len(texts), len(prompt.answers)))
    prefix = model(torch.tensor([prompt.before], device=model.device), use_cache=True).past_key_values
    for first in range(0, len(texts), batch_size):
        chosen = by_length[first : first + batch_size]
        scores = answer_log_likelihoods(model, prompt, [rests[index] for index in chosen], prefix)
        if not torch.isfinite(scores).all():
            raise FloatingPointError(f"the model gives scores that are not finite in {model.dtype}")
        # A long answer's likelihood is soon too small for float32, and nothing is impossible.
        probabilities[chosen] = torch.softmax(scores.double(), dim=-1).clamp_min(LEAST).cpu().numpy()
    return probabilities, (time.perf_counter() - start) / len(texts)


def leave_probe(model, prompt: Prompt, texts: list[str], file: Path) -> None:
    """Write down what a model that was just trained says of the first of these notes."""
    probabilities, _ = score(model, prompt, texts[:PROBE_NOTES], PROBE_BATCH)
    write_json(file, {"probabilities": probabilities.tolist()})


def check_probe(model, prompt: Prompt, texts: list[str], file: Path) -> float:
    """The largest difference in probability to what `leave_probe` wrote; RuntimeError where it is above `PARITY`."""
    probabilities, _ = score(model, prompt, texts[:PROBE_NOTES], PROBE_BATCH)
    difference = float(np.abs(probabilities - read_json(file)["probabilities"]).max())
    if not difference <= PARITY:
        raise RuntimeError(
            f"the adapter loaded from disk differs from the one that was trained by {difference:.4f} in probability "
            f"(at most {PARITY} expected): base, prompt or libraries changed since 03_train; run it again"
        )
    return difference


def answer_log_likelihoods(model, prompt: Prompt, rests: list[list[int]], prefix) -> torch.Tensor:
    """log p(answer | prompt) in float32, shape (notes, kinds), for notes of any lengths.

    `rests` follow `prompt.before`, whose keys and values are in `prefix`, a batch of one.
    """
    answers = list(prompt.answers.values())
    # The last token of an answer is only predicted, never read.
    branches = [answer[:-1] for answer in answers]
    ids, mask, positions = _lay_out(rests, branches, len(prompt.before), prompt.tokenizer.pad_token_id)
    cache = copy.deepcopy(prefix)  # the model appends to it
    cache.batch_repeat_interleave(len(rests))
    output = model(
        input_ids=ids.to(model.device),
        attention_mask=_additive(mask, model.dtype).to(model.device),
        position_ids=positions.to(model.device),
        past_key_values=cache,
        logits_to_keep=sum(map(len, branches)) + 1,
    )
    log_p = torch.log_softmax(output.logits.float(), dim=-1)
    columns, offset = [], 1
    for answer, branch in zip(answers, branches, strict=True):
        # The prompt's last token predicts the first token, each branch token the one after it.
        read_at = [0, *range(offset, offset + len(branch))]
        columns.append(log_p[:, read_at, answer].sum(dim=-1))
        offset += len(branch)
    return torch.stack(columns, dim=-1)


def _lay_out(rests: list[list[int]], branches: list[list[int]], before: int, pad: int) -> tuple[torch.Tensor, ...]:
    """Token ids (B, T), what may be attended (B, T, before + T), positions (B, T): padding, note, branches."""
    longest = max(map(len, rests))
    total = longest + sum(map(len, branches))
    ids = torch.full((len(rests), total), pad)
    positions = torch.zeros((len(rests), total), dtype=torch.long)
    allowed = torch.zeros((len(rests), total, before + total), dtype=torch.bool)
    # Everybody sees what is before; padding too, since a row without any allowed column gives NaN.
    allowed[:, :, :before] = True
    inside = allowed[:, :, before:]
    for row, tokens in enumerate(rests):
        start = longest - len(tokens)
        ids[row, start:longest] = torch.tensor(tokens)
        positions[row, start:longest] = before + torch.arange(len(tokens))
        inside[row, start:longest, start:longest] = torch.ones(len(tokens), len(tokens)).tril().bool()
        at = longest
        for branch in branches:
            end = at + len(branch)
            ids[row, at:end] = torch.tensor(branch, dtype=torch.long)
            positions[row, at:end] = before + len(tokens) + torch.arange(len(branch))
            inside[row, at:end, start:longest] = True
            inside[row, at:end, at:end] = torch.ones(len(branch), len(branch)).tril().bool()
            at = end
    return ids, allowed, positions


def _additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The 4-D mask (B, 1, T, columns) that transformers hands to attention as it is: 0 or the lowest number."""
    blocked = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    return blocked.unsqueeze(1)
