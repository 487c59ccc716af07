"""The hyper-parameters of a training."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields

from onelap import UserError


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one training; the notebook's parameters say what each means."""

    epochs: float
    learning_rate: float
    effective_batch: int
    micro_batch_tokens: int
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    gradient_checkpointing: bool
    evaluations: int
    seed: int
    checkpoint_minutes: float = 10.0
    report_to: str = "none"
    allow_upload: bool = False

    @classmethod
    def of(cls, parameters: dict) -> "Recipe":
        """Pick the hyper-parameters from all parameters of a lap."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})


def processes() -> int:
    """Count the processes that share this training, from what their launcher has set."""
    return int(os.environ.get("WORLD_SIZE", 1))


def notes_a_process(effective_batch: int) -> int:
    """Compute a process's share of the effective batch. Raises UserError where the batch cannot be shared evenly."""
    if effective_batch % processes():
        raise UserError(f"effective_batch: expected a multiple of {processes()} processes, found {effective_batch}")
    return effective_batch // processes()


def micro_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Split notes into micro-batches of positions, longest first; of so many tokens with padding, or of one note."""
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches
