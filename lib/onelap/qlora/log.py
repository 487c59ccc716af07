"""Callbacks of a training: its log, and the clock that ends it and asks for checkpoints."""

import json
import math
import time
from pathlib import Path

import torch
from accelerate.utils import broadcast
from transformers import TrainerCallback

from onelap.machine.gpus import list_gpus
from onelap.machine.memory import peak_memory_gb
from onelap.machine.progress import ProgressLine
from onelap.machine.store import read_whole_lines, write_text

TEMPERATURE_SECONDS = 10.0  # between two questions to the driver, which take a tenth of a second


class TrainingLog(TrainerCallback):
    """Writes `training/log.jsonl` while the training runs, and shows its progress.

    There is one line for each step (loss, learning rate, gradient norm, seconds), for each pass over the validation
    notes, and for each concession to memory; all with elapsed seconds, memory in GB and the card's temperature in °C.
    """

    def __init__(self, path: Path):
        self.path = path
        self.started = time.perf_counter()
        self.temperature_time, self.temperature = -math.inf, None

    def on_train_begin(self, args, state, control, **_):
        """Continue the log of an interrupted training from its checkpoint."""
        kept = [line for line in read_whole_lines(self.path) if line["step"] <= state.global_step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        before = max((line["elapsed_seconds"] for line in kept), default=0.0)
        self.started = self.step_started = time.perf_counter() - before
        self.line, self.first_step = ProgressLine(state.max_steps, "step"), state.global_step

    def on_step_begin(self, args, state, control, **_):  # after a validation pass
        self.step_started = time.perf_counter()

    def on_log(self, args, state, control, logs, **_):
        """Write one line for each training step, before a validation pass, and one for each of these."""
        if not math.isfinite(logs.get("loss", logs.get("eval_loss", 0.0))):
            raise FloatingPointError(f"the loss is not finite at step {state.global_step}")
        if "loss" in logs:
            values = {"loss": logs["loss"], "learning_rate": logs["learning_rate"], "gradient_norm": logs["grad_norm"]}
            self.write(state, **values, step_seconds=round(time.perf_counter() - self.step_started, 4))
            self.line.show(state.global_step, self.first_step, f", loss {logs['loss']:.3f}")
        elif "eval_loss" in logs:
            rates = {f"validation_{name}": logs[f"eval_{name}"] for name in ("loss", "accuracy", "macro_f1")}
            self.write(state, **rates)

    def write(self, state, **content: object) -> None:
        """Add a line about the step that the Trainer's `state` is at."""
        elapsed = round(time.perf_counter() - self.started, 2)
        line = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4)} | content
        line |= {"elapsed_seconds": elapsed, "memory_gb": peak_memory_gb(), "temperature": self._temperature()}
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")

    def _temperature(self) -> float | None:
        """The card's temperature in °C, at most `TEMPERATURE_SECONDS` old."""
        if torch.cuda.is_available() and time.monotonic() - self.temperature_time > TEMPERATURE_SECONDS:
            self.temperature_time = time.monotonic()
            self.temperature = next((card.temperature for card in list_gpus()), None)
        return self.temperature


class Clock(TrainerCallback):
    """Ends a training when its time is up, validated once more; asks for a checkpoint every so many minutes."""

    def __init__(self, seconds: float, checkpoint_minutes: float):
        self.ends, self.interval = time.monotonic() + seconds, 60 * checkpoint_minutes

    def on_save(self, args, state, control, **_):  # also after a validation pass
        self.saved = time.monotonic()

    on_train_begin = on_save

    def on_step_end(self, args, state, control, **_):  # so that at least one step is made
        now = time.monotonic()
        decisions = torch.tensor([now >= self.ends, now - self.saved >= self.interval], device=args.device)
        # Where processes share a training the first one decides: their clocks differ, and all must do the same.
        is_over, is_due = broadcast(decisions.float()).bool().tolist()
        control.should_evaluate |= is_over
        control.should_training_stop |= is_over
        control.should_save |= is_over or is_due
