"""What happens beside a training: its log, its end when time is up, its checkpoints."""

import json
import math
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from onelap.machine.gpus import cards
from onelap.machine.memory import peak_memory_gb
from onelap.machine.progress import ProgressLine
from onelap.machine.store import write_text

TEMPERATURE_EVERY = 10.0  # seconds; asking the driver takes a tenth of one


class TrainingLog(TrainerCallback):
    """Writes `training/log.jsonl` as things happen, and says how far the training is.

    One line for each step (loss, learning rate, norm of the gradient, seconds), for each pass over the
    validation notes, and for each concession to memory; all with elapsed seconds, memory and the
    card's temperature.
    """

    def __init__(self, path: Path):
        self.path = path
        self.started = time.perf_counter()
        self.asked, self.temperature = -math.inf, None

    def on_train_begin(self, args, state, control, **_):
        """Go on with the log of an interrupted training as it was at the checkpoint."""
        if not state.is_world_process_zero:
            return
        kept = [line for line in _whole_lines(self.path) if line["step"] <= state.global_step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        before = max((line["elapsed_seconds"] for line in kept), default=0.0)
        self.started = self.last = time.perf_counter() - before
        self.line, self.first_step = ProgressLine(state.max_steps, "step"), state.global_step

    def on_step_begin(self, args, state, control, **_):
        """Start the step's clock, after a validation pass has run."""
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        """Stop the step's clock, before a validation pass runs."""
        self.step_seconds = time.perf_counter() - self.last

    def on_log(self, args, state, control, logs, **_):
        """One line for each training step and for each validation pass, from one process."""
        if not state.is_world_process_zero:
            return
        if not math.isfinite(logs.get("loss", logs.get("eval_loss", 0.0))):
            raise FloatingPointError(f"the loss is not finite at step {state.global_step}")
        if "loss" in logs:
            self.write(
                state,
                loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                gradient_norm=logs["grad_norm"],
                step_seconds=round(self.step_seconds, 4),
            )
            self.line.show(state.global_step, self.first_step, f", loss {logs['loss']:.3f}")
        elif "eval_loss" in logs:
            self.write(
                state, **{f"validation_{name}": logs[f"eval_{name}"] for name in ("loss", "accuracy", "macro_f1")}
            )

    def write(self, state, **content: object) -> None:
        """Add a line about the step that the Trainer's `state` is at."""
        elapsed = round(time.perf_counter() - self.started, 2)
        line = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4)} | content
        line |= {"elapsed_seconds": elapsed, "memory_gb": peak_memory_gb(), "temperature": self._temperature()}
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line) + "\n")

    def _temperature(self) -> float | None:
        """Of the card, in degrees Celsius, some seconds old at most."""
        if torch.cuda.is_available() and time.monotonic() - self.asked > TEMPERATURE_EVERY:
            self.asked = time.monotonic()
            self.temperature = next((card.temperature for card in cards()), None)
        return self.temperature


class Budget(TrainerCallback):
    """Ends training when its seconds are spent, with one more validation pass; the best adapter so far is kept."""

    def __init__(self, seconds: float):
        self.ends = time.monotonic() + seconds

    def on_step_end(self, args, state, control, **_):
        """At least one step is made."""
        if _agreed(args, time.monotonic() >= self.ends):
            control.should_evaluate = control.should_save = control.should_training_stop = True


class Checkpoints(TrainerCallback):
    """Asks for a checkpoint whenever so many minutes have passed since the last one."""

    def __init__(self, minutes: float):
        self.seconds = 60 * minutes

    def on_train_begin(self, args, state, control, **_):
        """What was done before does not count."""
        self.saved = time.monotonic()

    def on_step_end(self, args, state, control, **_):
        """Between two steps, where the state is whole."""
        if _agreed(args, time.monotonic() - self.saved >= self.seconds):
            control.should_save = True

    def on_save(self, args, state, control, **_):
        """Also after a checkpoint that a validation pass asked for."""
        self.saved = time.monotonic()


def _agreed(args, decision: bool) -> bool:
    """The first process's decision, where several share a training: their clocks differ, and all must do the same."""
    if args.world_size == 1:
        return decision
    told = torch.tensor(float(decision), device=args.device)
    torch.distributed.broadcast(told, 0)
    return bool(told)


def _whole_lines(path: Path) -> list[dict]:
    """Of a log whose last line may have been cut off."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
