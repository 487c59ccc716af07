"""What a training is asked to do."""

import os
from dataclasses import dataclass, fields

from onelap import UserError


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of one training."""

    epochs: float
    learning_rate: float
    effective_batch: int
    """Notes an optimizer step."""
    micro_batch: int
    """Notes a forward pass; the rest of the effective batch is accumulated."""
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    gradient_checkpointing: bool
    label_temperature: float
    """What the kinds' scores are divided by in the loss; above 1 they are driven further apart."""
    evaluations: int
    """Passes over the validation notes, evenly spread; the best one's adapter is kept."""
    seed: int
    checkpoint_minutes: float = 10.0
    """At most so much training is lost when the machine stops."""
    report_to: str = "none"
    """Who else is told what the log is told: "tensorboard" or "wandb"."""
    allow_upload: bool = False
    """Without it Weights & Biases keeps what it is told in the training folder."""

    @classmethod
    def of(cls, parameters: dict) -> "Recipe":
        """From all parameters of a lap."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})

    @property
    def accumulation(self) -> int:
        """Micro-batches an optimizer step, in each of the processes that share the training."""
        steps, rest = divmod(accumulation_steps(self.effective_batch, self.micro_batch), processes())
        if rest:
            raise UserError(
                f"effective_batch {self.effective_batch}: expected a multiple of micro_batch {self.micro_batch} times "
                f"{processes()} processes; begin the run with another micro_batch"
            )
        return steps


def processes() -> int:
    """How many share this training; what launched them says so."""
    return int(os.environ.get("WORLD_SIZE", 1))


def accumulation_steps(effective_batch: int, micro_batch: int) -> int:
    """Micro-batches an optimizer step. Raises UserError where they do not fill the batch exactly."""
    steps, rest = divmod(effective_batch, micro_batch)
    if rest or not steps:
        raise UserError(f"micro_batch: expected a divisor of effective_batch {effective_batch}, found {micro_batch}")
    return steps
