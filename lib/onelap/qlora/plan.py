"""How much memory and time a training takes, before it is started.

Memory is predicted from a model's shape, by the parts named in `memory`; hours from the
notes' tokens at a device's rate, or from some real steps on the longest batches where the base is here.
All sizes are in units of 10⁹ bytes (GB), all rates in floating-point operations a second.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch

from onelap import PROJECT
from onelap.arms.base import is_downloaded, load_tokenizer, locate_base, on_hub
from onelap.arms.prompts import Prompt, build_prompt
from onelap.arms.shapes import SHAPES, Shape
from onelap.machine.memory import SPARE_GB, peak_memory_gb
from onelap.machine.precision import Precision
from onelap.notes.duplicates import drop_duplicates
from onelap.notes.read import FIELD_PARAMETERS, Fields, locate_notes, read_notes
from onelap.qlora.recipe import Recipe

EMBEDDED = str(PROJECT / "data" / "embedded_base")
NF4 = 0.516  # bytes a weight with double quantization (Dettmers et al. 2023, arXiv 2305.14314, section 3)
# CUDA's context and kernels; Python, its libraries and malloc's rest, more with a CUDA build of torch (measured).
CONTEXT_GB = {"cuda": 0.65, "cpu": 1.37 if torch.version.cuda else 1.0}
ADAPTER_BYTES = {"cuda": 10, "cpu": 16}  # a LoRA weight: itself, gradient and Adam's two moments, 8-bit on a card
AROUND = 1.15  # what optimizer, data, log, checkpoints and first passes add (embedded lap: 1.09 to 1.15, n = 3)
MEASURED_STEPS = 3  # on each of two batches
EFFICIENCY = 0.35  # share of the measured matrix-product rate that a training step reaches; the aim, until measured


def shape_of(base_model: str) -> Shape:
    """Of a model on this machine or one of `SHAPES`. Raises UserError for any other."""
    return SHAPES.get(on_hub(base_model)[0]) or Shape.read(locate_base(base_model))


def memory(
    shape: Shape, rank: int, dropout: float, tokens: int, checkpointing: bool, device: str, width: int
) -> dict[str, float]:
    """Predicted peak in GB by part; `tokens` is those of the longest micro-batch, `device` "cpu" or one like "cuda:0".

    `width` is that of an activation in bytes, 2 or 4. Activations a token and block: what autograd keeps of norms,
    projections, SwiGLU and LoRA (tests/test_plan.py counts it); with dropout each matrix keeps its own input and what
    was dropped, one byte a value on a card. With checkpointing only each block's input and one block's.
    """
    device = device.partition(":")[0]
    mask = 1 if device == "cuda" else width
    norms = {2: 20.6, 4: 32}[width]  # in 16 bits they keep float32 copies besides
    block = norms * shape.hidden + width * (4 * shape.intermediate + 2.5 * shape.key_value + 116)
    if dropout:
        block += 4 * width * shape.hidden + mask * (6 * shape.hidden + shape.intermediate)
    kept = width * shape.hidden * shape.layers + block if checkpointing else block * shape.layers
    parts = {
        "weights, NF4": NF4 * shape.linear,
        "embeddings and head": width * shape.vocabulary * shape.hidden * (1 if shape.tied else 2),
        "adapter, gradients, optimizer": ADAPTER_BYTES[device] * shape.adapter(rank),
        "activations": kept * tokens,
        "one matrix unpacked": 4 * shape.hidden * shape.intermediate,
        "context": CONTEXT_GB[device] * 1e9,
    }
    return {part: size / 1e9 for part, size in parts.items()}


def visible_gb(parts: dict[str, float], device: str) -> float:
    """What of `memory`'s parts `peak_memory_gb` sees: all, but on a card not CUDA's own context."""
    return sum(size for part, size in parts.items() if device == "cpu" or part != "context")


def floats_a_token(shape: Shape, checkpointing: bool) -> float:
    """Floating-point operations of a training step for each token; attention adds some per cent at 512 tokens.

    Two a weight forward and two backward for what flows through (the frozen weights get no gradient
    of their own), and two more where activations are computed again.
    """
    return (6 if checkpointing else 4) * shape.linear


def matmul_rate(precision: Precision) -> float:
    """Measured operations a second of large matrix products in this device's compute format."""
    size = 4096 if precision.device != "cpu" else 1024
    a, b = (torch.randn(size, size, device=precision.device, dtype=precision.compute) for _ in range(2))

    def seconds() -> float:
        start = time.perf_counter()
        (a @ b).sum().item()  # .item() waits for the card
        return time.perf_counter() - start

    seconds()
    return 2 * size**3 / min(seconds() for _ in range(10))


@dataclass(frozen=True)
class Workload:
    """What is read in a training, in tokens, padding included."""

    batches: int
    """Micro-batches an epoch."""
    tokens: int
    """Of all micro-batches of an epoch."""
    longest: int
    """Of the largest micro-batch."""
    validation: tuple[int, int]
    """Batches and tokens of a validation pass."""

    @classmethod
    def of(cls, train: list[int], validation: list[int], micro_batch: int, validation_batch: int) -> "Workload":
        """From the notes' lengths in tokens, with prompt and answers; notes of a length share a batch."""
        sizes, validation_sizes = _batch_sizes(train, micro_batch), _batch_sizes(validation, validation_batch)
        return cls(len(sizes), sum(sizes), max(sizes), (len(validation_sizes), sum(validation_sizes)))


def workload_of(trainer) -> Workload:
    """Of a `KindTrainer` that was built."""
    answers = sum(map(len, trainer.prompt.branches))
    train, validation = (
        [len(row["input_ids"]) + answers for row in rows] for rows in (trainer.train_dataset, trainer.eval_dataset)
    )
    arguments = trainer.args
    return Workload.of(train, validation, arguments.per_device_train_batch_size, arguments.per_device_eval_batch_size)


def _batch_sizes(lengths: list[int], batch: int) -> list[int]:
    """Tokens of each batch when sorted by length, longest first."""
    ordered = sorted(lengths, reverse=True)
    chunks = [ordered[first : first + batch] for first in range(0, len(ordered), batch)]
    return [len(chunk) * chunk[0] for chunk in chunks]


@dataclass(frozen=True)
class Pace:
    """Seconds of a batch: so many for the batch itself and so many for each token."""

    batch: float
    token: float

    @classmethod
    def of_rate(cls, floats: float, rate: float) -> "Pace":
        """Where nothing can be measured: operations a token at `EFFICIENCY` of a device's rate."""
        return cls(0.0, floats / (EFFICIENCY * rate))

    def seconds(self, batches: float, tokens: float) -> float:
        """Of all these batches."""
        return self.batch * batches + self.token * tokens


def training_seconds(workload: Workload, epochs: float, evaluations: int, step: Pace, forward: Pace) -> float:
    """Predicted seconds of all steps and all validation passes."""
    passes = forward.seconds(*workload.validation) * evaluations
    return AROUND * (step.seconds(workload.batches, workload.tokens) * epochs + passes)


def measure(trainer) -> tuple[Pace, Pace]:
    """Pace of training steps, but for the optimizer, and of forward passes, on the longest batch and a middling one.

    Nothing is learnt from them, and the training's random numbers stay the same.
    """
    model, size = trainer.model, trainer.args.per_device_train_batch_size
    rows = sorted(trainer.train_dataset, key=lambda row: len(row["input_ids"]), reverse=True)
    samples = [rows[:size], rows[len(rows) // 2 :][:size]]
    answers = sum(map(len, trainer.prompt.branches))
    paces = []
    with torch.random.fork_rng():
        for learning in (True, False):
            model.train(learning)
            points = []
            for notes in samples * (1 + MEASURED_STEPS):
                batch = trainer._prepare_inputs(trainer.data_collator(notes))
                start = time.perf_counter()
                with torch.set_grad_enabled(learning), trainer.accelerator.autocast():
                    if learning:
                        loss = trainer.training_step(model, batch, len(notes))
                    else:
                        loss = trainer.compute_loss(model, batch)
                model.zero_grad()
                loss.item()  # waits for the card
                longest = max(map(len, batch["input_ids"])) + answers
                points.append((len(notes) * longest, time.perf_counter() - start))
            paces.append(_fitted(points[len(samples) :]))  # the first ones warm up
    return paces[0], paces[1]


def _fitted(points: list[tuple[int, float]]) -> Pace:
    """The median seconds at the largest and the smallest batch, and a line through them that never falls."""
    table = {tokens: np.median([seconds for found, seconds in points if found == tokens]) for tokens, _ in points}
    (large, slow), (small, fast) = max(table.items()), min(table.items())
    token = max(0.0, (slow - fast) / (large - small)) if large > small else 0.0
    token = min(token, fast / small) or slow / large
    return Pace(max(0.0, float(fast - token * small)), float(token))


LARGE = 1e9  # linear weights, beyond which nobody trains on a CPU
CARDS = {  # peak operations a second in float16 with float32 accumulation (NVIDIA's whitepapers), GB free
    "RTX 2070": (29.9e12, 8.0),
    "RTX 4070 Ti": (80.2e12, 12.0),
}


@dataclass(frozen=True)
class Setting:
    """The parameters that decide what a training costs."""

    max_length: int
    epochs: float
    micro_batch: int
    effective_batch: int
    gradient_checkpointing: bool
    lora_rank: int
    lora_dropout: float
    evaluations: int

    @classmethod
    def of(cls, parameters: dict) -> "Setting":
        """From all parameters of a lap."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Forecast:
    """What a training on these notes would cost, before anything is loaded."""

    shape: Shape
    notes: list[int]
    """Tokens of every training note, uncut."""
    around: int
    """Tokens of prompt and answers."""
    validation: int
    """Number of validation notes."""
    device: str
    width: int
    """Bytes of an activation."""
    rate: float
    """Operations a second of matrix products."""
    memory_gb: float
    """What there is of it."""
    on: str
    """Which machine is meant, in words."""
    here: bool
    """Whether that is this machine."""
    hours: float
    """What may be spent."""

    def cost(self, setting: Setting) -> tuple[dict[str, float], float]:
        """Predicted memory by part in GB, and hours."""
        room = setting.max_length - self.around
        lengths = [min(note, room) + self.around for note in self.notes]
        workload = Workload.of(lengths, lengths[: self.validation], setting.micro_batch, setting.effective_batch)
        rank, dropout, checkpointing = setting.lora_rank, setting.lora_dropout, setting.gradient_checkpointing
        parts = memory(self.shape, rank, dropout, workload.longest, checkpointing, self.device, self.width)
        step = Pace.of_rate(floats_a_token(self.shape, checkpointing), self.rate)
        forward = Pace.of_rate(2 * self.shape.linear, self.rate)
        return parts, training_seconds(workload, setting.epochs, setting.evaluations, step, forward) / 3600

    def exceeded(self, setting: Setting) -> tuple[float, float]:
        """How much too large memory and hours are, as shares of what there is; zeros where it fits."""
        parts, hours = self.cost(setting)
        return max(0.0, sum(parts.values()) / self.memory_gb - 1), max(0.0, hours / self.hours - 1)

    def proposal(self, setting: Setting) -> tuple[Setting, list[str]]:
        """The changes that make it fit, or come nearest to it: those that cost least first."""
        changes, excess = {}, sum(self.exceeded(setting))
        for name, value, cost in self._changes(setting):
            changed = replace(setting, **{name: value})
            rest = sum(self.exceeded(changed))
            if rest < excess:
                setting, excess, changes[name] = changed, rest, f"{name}={value} ({cost})"
        return setting, list(changes.values())

    def _changes(self, setting: Setting) -> Iterator[tuple[str, object, str]]:
        too_large, too_slow = self.exceeded(setting)
        if too_large:
            for size in range(setting.micro_batch - 1, 0, -1):
                if setting.effective_batch % size == 0:
                    yield "micro_batch", size, "the result stays the same"
            yield "gradient_checkpointing", True, "half again the time"
        if too_slow:
            yield "gradient_checkpointing", False, "the result stays the same"
        for covered in (0.95, 0.9, 0.75, 0.5):
            length = int(np.quantile(self.notes, covered)) + self.around
            if 64 <= length < setting.max_length:
                cut = sum(note + self.around > length for note in self.notes)
                yield "max_length", length, f"{cut} of {len(self.notes)} training notes lose text"
        if too_slow:
            for share in (0.75, 0.5, 0.25):
                yield "epochs", round(setting.epochs * share, 2), "fewer passes over the notes"


def forecast(parameters: dict, precision: Precision) -> Forecast:
    """From the parameters of a lap: reads the notes, and of the base its configuration only.

    Where the base is not on this machine, tokens are counted by the embedded base's tokenizer, whose
    vocabulary is small: rather too many than too few. Raises UserError for notes or a base that
    cannot be read.
    """
    notes, prompt = _notes_and_prompt(parameters)
    kept = round(len(notes) * (1 - parameters["test_share"] - parameters["validation_share"]))
    lengths = [len(prompt.note_tokens(text)) for text in notes["text"]]
    shape, setting = shape_of(parameters["base_model"]), Setting.of(parameters)
    around = sum(map(len, [prompt.before, prompt.after, *prompt.branches]))
    validation = round(len(notes) * parameters["validation_share"])

    def on(device: str, width: int, rate: float, memory_gb: float, words: str, here: bool = True) -> Forecast:
        hours = parameters["time_budget_hours"]
        return Forecast(shape, lengths[:kept], around, validation, device, width, rate, memory_gb, words, here, hours)

    width = precision.compute.itemsize
    if precision.device != "cpu":
        # CUDA's context is among the parts, and once it has been asked not free any more.
        free = torch.cuda.mem_get_info()[0] / 1e9 + CONTEXT_GB["cuda"] - SPARE_GB
        return on("cuda", width, matmul_rate(precision), free, "free on this card")
    if shape.linear < LARGE:
        return on("cpu", width, matmul_rate(precision), psutil.virtual_memory().available / 1e9, "free on this machine")
    assumed = [
        on("cuda", 2, rate, size - SPARE_GB, f"on an {card}; there is no card here", here=False)
        for card, (rate, size) in CARDS.items()
    ]
    return next((one for one in assumed if not one.exceeded(setting)[0]), assumed[-1])


def rehearse(parameters: dict, precision: Precision) -> tuple[float, float]:
    """Hours of training and GB at the peak, from some real steps on the longest notes; the base must be here."""
    from onelap.qlora.training import prepare_trainer

    notes, prompt = _notes_and_prompt(parameters)
    tested, validated = (round(len(notes) * parameters[f"{part}_share"]) for part in ("test", "validation"))
    validation, train = notes[tested:][:validated], notes[tested + validated :]
    base, recipe = locate_base(parameters["base_model"]), Recipe.of(parameters)
    with tempfile.TemporaryDirectory() as folder:
        trainer = prepare_trainer(base, prompt, precision, recipe, train, validation, Path(folder))
        seconds = training_seconds(workload_of(trainer), recipe.epochs, recipe.evaluations, *measure(trainer))
    return seconds / 3600, peak_memory_gb()


def _notes_and_prompt(parameters: dict) -> tuple[pd.DataFrame, Prompt]:
    """The labelled notes without duplicates, shuffled, and the prompt they are put in."""
    found = Fields.parse(*(parameters[name] for name in FIELD_PARAMETERS))
    notes, _ = drop_duplicates(read_notes(locate_notes(parameters["notes_path"]), found).notes, {})
    present = [kind for kind in found.kinds if kind in set(notes["kind"])]
    name = parameters["base_model"]
    tokenizer = load_tokenizer(locate_base(name if is_downloaded(name) else EMBEDDED))
    prompt = build_prompt(tokenizer, present, parameters["max_length"])
    return notes.sample(frac=1, random_state=0), prompt
