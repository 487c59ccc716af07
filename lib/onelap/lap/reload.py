"""A check that the adapter on disk (04_evaluate) answers as the model did that was just trained (03_train)."""

from pathlib import Path

import numpy as np
import torch

from onelap import UserError
from onelap.arms.prompts import Prompt
from onelap.arms.scoring import score
from onelap.machine.store import read_json, write_json

NOTES, BATCH = 32, 8
# Largest difference in probability between an adapter in memory and on disk: rounding only. In 16 bits another batch
# size changes up to 0.007.
MAX_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.03, torch.float16: 0.03}


def write_answers(model, prompt: Prompt, texts: list[str], file: Path) -> None:
    """Write the probabilities that a model gives the first of these notes, right after its training."""
    probabilities, _ = score(model, prompt, texts[:NOTES], BATCH)
    write_json(file, {"probabilities": probabilities.tolist()})


def check_answers(model, prompt: Prompt, texts: list[str], file: Path) -> float:
    """Return the largest difference in probability to `write_answers`. Raises UserError where it is not rounding."""
    probabilities, _ = score(model, prompt, texts[:NOTES], BATCH)
    difference = float(np.abs(probabilities - read_json(file)["probabilities"]).max())
    limit = MAX_DIFFERENCE[model.dtype]
    if not difference <= limit:
        raise UserError(
            f"the adapter loaded from disk differs from the one that was trained by {difference:.4f} in probability "
            f"(at most {limit} expected): base, prompt or libraries changed since 03_train; run it again"
        )
    return difference
