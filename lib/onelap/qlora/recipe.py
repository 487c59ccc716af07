"""The hyper-parameters of a training."""

import os
from dataclasses import dataclass, fields

from onelap import UserError


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one training; the notebook's parameters say what each means."""

    epochs: float
    learning_rate: float
    effective_batch: int
    micro_batch: int
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    gradient_checkpointing: bool
    label_temperature: float
    evaluations: int
    seed: int
    checkpoint_minutes: float = 10.0
    report_to: str = "none"
    allow_upload: bool = False

    @classmethod
    def of(cls, parameters: dict) -> "Recipe":
        """Pick the hyper-parameters from all parameters of a lap."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})

    @property
    def accumulation(self) -> int:
        """Micro-batches an optimizer step, in each of the processes that share the training."""
        return accumulation_steps(self.effective_batch, self.micro_batch, processes())


def processes() -> int:
    """Count the processes that share this training, from what their launcher has set."""
    return int(os.environ.get("WORLD_SIZE", 1))


def accumulation_steps(effective_batch: int, micro_batch: int, shared_by: int = 1) -> int:
    """Compute micro-batches an optimizer step of each process. Raises UserError where they do not fill the batch."""
    steps, rest = divmod(effective_batch, micro_batch * shared_by)
    if rest:
        shared = f" times {shared_by} processes; begin the run with another one" if shared_by > 1 else ""
        found = f"found {micro_batch}{shared}"
        raise UserError(f"micro_batch: expected a divisor of effective_batch {effective_batch}, {found}")
    return steps
