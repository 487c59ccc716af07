"""Memory and time of a training, predicted from the model's shape and the notes' tokens before it is started.

All sizes are in GB (10⁹ bytes), all rates in floating-point operations a second.
"""

import tempfile
import time
import timeit
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch

from onelap import PROJECT
from onelap.arms.base import is_downloaded, load_tokenizer, locate_base, warn_of_unknown_script
from onelap.arms.prompts import Prompt, build_prompt
from onelap.arms.scoring import padded
from onelap.machine import hub
from onelap.machine.memory import SPARE_GB, peak_memory_gb
from onelap.machine.precision import Precision
from onelap.machine.store import read_json
from onelap.notes.duplicates import drop_duplicates
from onelap.notes.fields import Fields
from onelap.notes.vault import locate_notes, read_notes
from onelap.qlora.recipe import Recipe, micro_batches

EMBEDDED = str(PROJECT / "data" / "embedded_base")
NF4_BYTES = 0.516  # a weight, with double quantization (Dettmers et al. 2023, arXiv 2305.14314, section 3)
# CUDA's context and kernels; Python, its libraries and what malloc keeps, more with a CUDA build of torch (measured).
CONTEXT_GB = {"cuda": 0.65, "cpu": 1.37 if torch.version.cuda else 1.0}
ADAPTER_BYTES = {"cuda": 10, "cpu": 16}  # a LoRA weight: itself, gradient and Adam's two moments, 8-bit on a card
OVERHEAD = 1.15  # optimizer, data, log, checkpoints and first passes (embedded lap: 1.09 to 1.15, n = 3)
MEASURED_STEPS, MEASURED_SECONDS = 3, 8.0  # at most, on each of two batches, and on both
EFFICIENCY = 0.35  # share of the measured matrix-product rate that a training step reaches; an aim, not yet measured
# On a CPU twice the activations stay in the process: glibc cannot use an aligned block that was freed for the next one
# of its size (docs/LOG.md).
FRAGMENTATION = {"cuda": 1.0, "cpu": 1.9}
CPU_LIMIT = 1e9  # linear weights; nobody trains more on a CPU
# Peak operations a second in float16 with float32 accumulation (NVIDIA's whitepapers), GB.
CARDS = {"RTX 2070": (29.9e12, 8.0), "RTX 4070 Ti": (80.2e12, 12.0)}


@dataclass(frozen=True)
class Shape:
    """The part of a model's configuration that decides memory and time."""

    hidden: int
    intermediate: int
    layers: int
    attention: int  # width of queries: heads times their size, which need not be the hidden size
    key_value: int  # width of keys and values
    vocabulary: int
    tied: bool  # whether input embeddings and head are the same matrix

    @classmethod
    def read(cls, base: Path) -> "Shape":
        """Read a model folder's config.json."""
        config = read_json(base / "config.json")
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        size = config.get("head_dim") or hidden // heads
        attention, key_value = heads * size, config.get("num_key_value_heads", heads) * size
        sizes = config["intermediate_size"], config["num_hidden_layers"], attention, key_value, config["vocab_size"]
        return cls(hidden, *sizes, config.get("tie_word_embeddings", True))

    @property
    def linear(self) -> int:
        """Count the weights of the linear layers in all blocks, which are quantized."""
        return self.layers * self.hidden * (2 * self.attention + 2 * self.key_value + 3 * self.intermediate)

    def adapter(self, rank: int) -> int:
        """Count the LoRA weights on q, k, v, o, gate, up and down of every block."""
        outer = 2 * self.attention + 2 * self.key_value + 3 * self.intermediate
        return self.layers * rank * (7 * self.hidden + outer)


SHAPES = {  # of the models that params/ names, from their config.json; so a plan needs no download
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(576, 1536, 30, 576, 192, 49152, tied=True),
    "Qwen/Qwen3-0.6B": Shape(1024, 3072, 28, 2048, 1024, 151936, tied=True),
    "Qwen/Qwen3-4B-Instruct-2507": Shape(2560, 9728, 36, 4096, 1024, 151936, tied=True),
    "Qwen/Qwen2.5-3B-Instruct": Shape(2048, 11008, 36, 2048, 256, 151936, tied=True),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(4096, 14336, 32, 4096, 1024, 128256, tied=False),
}


def memory(
    shape: Shape, rank: int, dropout: float, tokens: int, checkpointing: bool, device: str, width: int
) -> dict[str, float]:
    """Predict the peak in GB by part, for a longest micro-batch of so many `tokens`.

    `device` is "cpu" or one like "cuda:0"; `width` is that of an activation in bytes, 2 or 4. Activations a token and
    block are what autograd keeps of norms, projections, SwiGLU and LoRA (tests/test_plan.py counts it); with dropout
    each matrix keeps its own input and the mask, one byte a value on a card. Checkpointing keeps inputs and one block.
    """
    device = device.partition(":")[0]
    mask = 1 if device == "cuda" else width
    norms = {2: 20.6, 4: 32}[width]  # in 16 bits they keep float32 copies besides
    block = norms * shape.hidden + width * (4 * shape.intermediate + 2.5 * shape.key_value + 116)
    if shape.attention != shape.hidden:  # as in Qwen3, which also normalizes queries and keys, in float32
        block += 2 * width * (shape.attention - shape.hidden) + 4 * (shape.attention + shape.key_value)
    if dropout:
        block += 4 * width * shape.hidden + mask * (6 * shape.hidden + shape.intermediate)
    kept = width * shape.hidden * shape.layers + block if checkpointing else block * shape.layers
    parts = {
        "frozen weights": (NF4_BYTES if device == "cuda" else width) * shape.linear,  # unpacked on a CPU
        "embeddings and head": width * shape.vocabulary * shape.hidden * (1 if shape.tied else 2),
        "adapter, gradients, optimizer": ADAPTER_BYTES[device] * shape.adapter(rank),
        "activations": FRAGMENTATION[device] * kept * tokens,
        "one matrix unpacked": 4 * shape.hidden * shape.intermediate,
        "context": CONTEXT_GB[device] * 1e9,
    }
    return {part: size / 1e9 for part, size in parts.items()}


def visible_gb(parts: dict[str, float], device: str) -> float:
    """Add up the parts that `peak_memory_gb` sees: all, but on a card not CUDA's own context."""
    return sum(size for part, size in parts.items() if device == "cpu" or part != "context")


def matmul_rate(precision: Precision) -> float:
    """Measure the operations a second of large matrix products in this device's compute format."""
    size = 4096 if precision.device != "cpu" else 1024
    a, b = (torch.randn(size, size, device=precision.device, dtype=precision.compute) for _ in range(2))
    times = timeit.repeat(lambda: (a @ b).sum().item(), number=1, repeat=11)  # .item() waits for the card
    return 2 * size**3 / min(times)


@dataclass(frozen=True)
class Workload:
    """The tokens that a training reads, padding included."""

    batches: int  # micro-batches an epoch
    tokens: int  # in all micro-batches of an epoch
    longest: int  # in the largest micro-batch
    validation: tuple[int, int]  # batches and tokens of a validation pass

    @classmethod
    def of(cls, train: list[int], validation: list[int], batch: int, tokens: int) -> "Workload":
        """Count from the lengths of the prompts; batches of like notes are split by `tokens`, but not in validation."""
        sizes = _pass_sizes(train, batch, tokens)
        validation_sizes = _pass_sizes(validation, batch, batch * max(validation, default=0))
        return cls(len(sizes), sum(sizes), max(sizes), (len(validation_sizes), sum(validation_sizes)))


def workload_of(trainer) -> Workload:
    """Count the workload of a `KindTrainer`."""
    widths = (trainer.widths(part["input_ids"]) for part in (trainer.train_dataset, trainer.eval_dataset))
    return Workload.of(*widths, trainer.recipe.effective_batch, trainer.recipe.micro_batch_tokens)


def _pass_sizes(lengths: list[int], batch: int, tokens: int) -> list[int]:
    """Tokens of each forward pass when batches are made of notes sorted by length, longest first."""
    ordered = sorted(lengths, reverse=True)
    batches = (ordered[first:][:batch] for first in range(0, len(ordered), batch))
    return [len(one) * notes[one[0]] for notes in batches for one in micro_batches(notes, tokens)]


@dataclass(frozen=True)
class Pace:
    """Seconds of a batch: a fixed part, and a part for each token."""

    batch: float
    token: float

    def seconds(self, batches: float, tokens: float) -> float:
        """Compute the seconds of so many batches with so many tokens in all."""
        return self.batch * batches + self.token * tokens


def training_seconds(workload: Workload, epochs: float, evaluations: int, step: Pace, forward: Pace) -> float:
    """Predict the seconds of all steps and all validation passes."""
    passes = forward.seconds(*workload.validation) * evaluations
    return OVERHEAD * (step.seconds(workload.batches, workload.tokens) * epochs + passes)


def measure(trainer) -> tuple[Pace, Pace]:
    """Measure the pace of training steps without optimizer, and of forward passes, on a longest and a middling batch.

    No weight changes, and the training's random numbers stay the same. Where steps are slow, fewer are made.
    """
    model, size = trainer.model, trainer.args.per_device_train_batch_size
    rows = sorted(trainer.train_dataset, key=lambda row: len(row["input_ids"]), reverse=True)
    widths, samples, paces = trainer.widths([row["input_ids"] for row in rows]), [], []
    for start in (0, len(rows) // 2):  # so many notes that a step is one pass
        samples.append(rows[start:][: max(1, min(size, trainer.tokens // widths[start]))])
    with torch.random.fork_rng():
        for learning, step in ((True, trainer.training_step), (False, trainer.compute_loss)):
            model.train(learning)
            points, began = [], time.perf_counter()
            for notes in samples * (1 + MEASURED_STEPS):
                start = time.perf_counter()
                if len(points) >= len(samples) and start - began > MEASURED_SECONDS:
                    break
                batch = trainer._prepare_inputs(trainer.data_collator(notes))
                with torch.set_grad_enabled(learning), trainer.accelerator.autocast():
                    loss = step(model, batch, num_items_in_batch=len(notes))
                model.zero_grad()
                loss.item()  # waits for the card
                points.append((len(notes) * trainer.widths(batch["prompts"])[0], time.perf_counter() - start))
            warm = points[len(samples) :] if len(points) >= 2 * len(samples) else points  # the first ones warm up
            paces.append(_fit_pace(warm))
    return paces[0], paces[1]


def _fit_pace(points: list[tuple[int, float]]) -> Pace:
    """A line, which never falls, through the median seconds at the largest and the smallest batch."""
    medians = {tokens: np.median([seconds for size, seconds in points if size == tokens]) for tokens, _ in points}
    (large, slow), (small, fast) = max(medians.items()), min(medians.items())
    token = max(0.0, (slow - fast) / (large - small)) if large > small else 0.0
    token = min(token, fast / small) or slow / large
    return Pace(max(0.0, float(fast - token * small)), float(token))


@dataclass(frozen=True)
class Forecast:
    """Predicts memory and hours of a training on these notes; its methods take all parameters of a lap."""

    shape: Shape
    notes: list[int]  # tokens of every training note, uncut
    around: int  # tokens of prompt and answer
    validation: int  # number of validation notes
    device: str
    width: int  # bytes of an activation
    rate: float  # operations a second of matrix products
    memory_gb: float  # memory that is available
    machine: str  # the machine that is meant, in words
    here: bool = True  # whether that is this machine
    warning: str = ""  # that the base can hardly read the notes

    def cost(self, parameters: dict) -> tuple[dict[str, float], float]:
        """Predict memory by part in GB, and hours."""
        room, checkpointing = parameters["max_length"] - self.around, parameters["gradient_checkpointing"]
        lengths = [padded(min(note, room) + self.around) for note in self.notes]
        batches = parameters["effective_batch"], parameters["micro_batch_tokens"]
        workload = Workload.of(lengths, lengths[: self.validation], *batches)
        rank, dropout = parameters["lora_rank"], parameters["lora_dropout"]
        parts = memory(self.shape, rank, dropout, workload.longest, checkpointing, self.device, self.width)
        # Two operations a weight forward and two backward (the frozen weights get no gradient of their own), and two
        # more where activations are computed again; attention adds some per cent at 512 tokens.
        weights = self.shape.linear / (EFFICIENCY * self.rate)
        step, forward = Pace(0.0, (6 if checkpointing else 4) * weights), Pace(0.0, 2 * weights)
        seconds = training_seconds(workload, parameters["epochs"], parameters["evaluations"], step, forward)
        return parts, seconds / 3600

    def excess(self, parameters: dict) -> tuple[float, float]:
        """Compute the excess of memory and of hours, as shares of what is available; zeros where the training fits."""
        parts, hours = self.cost(parameters)
        too_large, too_slow = sum(parts.values()) / self.memory_gb - 1, hours / parameters["time_budget_hours"] - 1
        return max(0.0, too_large), max(0.0, too_slow)

    def propose(self, parameters: dict) -> tuple[dict, list[str]]:
        """Change parameters so that the training fits, or comes nearest to it; changes that cost least come first."""
        changes, excess = {}, sum(self.excess(parameters))
        for name, value, cost in self._changes(parameters):
            changed = parameters | {name: value}
            rest = sum(self.excess(changed))
            if rest < excess:
                parameters, excess, changes[name] = changed, rest, f"{name}={value} ({cost})"
        return parameters, list(changes.values())

    def _changes(self, parameters: dict) -> Iterator[tuple[str, object, str]]:
        too_large, too_slow = self.excess(parameters)
        if too_large:
            for part in (2, 4, 8):
                yield "micro_batch_tokens", parameters["micro_batch_tokens"] // part, "the result stays the same"
            yield "gradient_checkpointing", True, "half again the time"
        if too_slow:
            yield "gradient_checkpointing", False, "the result stays the same"
        for covered in (0.95, 0.9, 0.75, 0.5):
            length = int(np.quantile(self.notes, covered)) + self.around
            if 64 <= length < parameters["max_length"]:
                cut = sum(note + self.around > length for note in self.notes)
                yield "max_length", length, f"{cut} of {len(self.notes)} training notes lose text"
        if too_slow:
            for share in (0.75, 0.5, 0.25):
                yield "epochs", round(parameters["epochs"] * share, 2), "fewer passes over the notes"


def forecast(parameters: dict, precision: Precision) -> Forecast:
    """Make a forecast from the parameters of a lap; reads the notes, and of the base only its configuration.

    Where the base is not on this machine, tokens are counted by the embedded base's tokenizer: too many rather than too
    few, because its vocabulary is small. Raises UserError for notes or a base that cannot be read.
    """
    notes, prompt = _notes_and_prompt(parameters)
    name = parameters["base_model"]
    shape = SHAPES.get(hub.split_name(name)[0]) or Shape.read(locate_base(name))
    kept = round(len(notes) * (1 - parameters["test_share"] - parameters["validation_share"]))
    lengths = [len(prompt.note_tokens(text)) for text in notes["text"]][:kept]
    around = parameters["max_length"] - prompt.note_budget
    work = shape, lengths, around, round(len(notes) * parameters["validation_share"])
    known = is_downloaded(name)  # else the tokens are those of another base
    warning = warn_of_unknown_script(prompt.tokenizer, notes["text"]) if known else ""
    width = precision.compute.itemsize
    if precision.device != "cpu":
        # CUDA's context is among the parts, and once torch has asked for the free memory it is no longer free.
        free = torch.cuda.mem_get_info()[0] / 1e9 + CONTEXT_GB["cuda"] - SPARE_GB
        return Forecast(*work, "cuda", width, matmul_rate(precision), free, "free on this card", warning=warning)
    if shape.linear < CPU_LIMIT:
        free = psutil.virtual_memory().available / 1e9
        return Forecast(*work, "cpu", width, matmul_rate(precision), free, "free on this machine", warning=warning)
    assumed = [
        Forecast(*work, "cuda", 2, rate, size - SPARE_GB, f"on an {card}; there is no card here", False, warning)
        for card, (rate, size) in CARDS.items()
    ]
    return next((one for one in assumed if not one.excess(parameters)[0]), assumed[-1])


def rehearse(parameters: dict, precision: Precision) -> tuple[float, float]:
    """Predict hours of training and GB at the peak from some real steps on the longest notes; needs the base."""
    from onelap.qlora.training import prepare_trainer  # takes seconds, which a forecast need not wait for

    notes, prompt = _notes_and_prompt(parameters)
    tested, validated = (round(len(notes) * parameters[f"{part}_share"]) for part in ("test", "validation"))
    validation, train = notes[tested:][:validated], notes[tested + validated :]
    base, recipe = locate_base(parameters["base_model"]), Recipe.of(parameters)
    with tempfile.TemporaryDirectory() as folder:
        trainer = prepare_trainer(base, prompt, precision, recipe, train, validation, Path(folder))
        seconds = training_seconds(workload_of(trainer), recipe.epochs, recipe.evaluations, *measure(trainer))
    return seconds / 3600, peak_memory_gb()


def _notes_and_prompt(parameters: dict) -> tuple[pd.DataFrame, Prompt]:
    """The labelled notes without duplicates, shuffled, and their prompt."""
    fields = Fields.of(parameters)
    notes, _ = drop_duplicates(read_notes(locate_notes(parameters["notes_path"]), fields).notes, {})
    present = [kind for kind in fields.kinds if kind in set(notes["kind"])]
    name = parameters["base_model"]
    tokenizer = load_tokenizer(locate_base(name if is_downloaded(name) else EMBEDDED))
    return notes.sample(frac=1, random_state=0), build_prompt(tokenizer, present, parameters["max_length"])
