"""How much memory and time a training takes, before it is started.

Memory is predicted from a model's shape, by the parts named in `memory`; hours from the
notes' tokens and, where the base is on this machine, from some real steps on the longest batches.
All sizes are in units of 10⁹ bytes (GB), all rates in floating-point operations a second.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from onelap.models import locate_base
from onelap.precision import Precision
from onelap.runs import read_json

NF4 = 0.516  # bytes a weight with double quantization (Dettmers et al. 2023, arXiv 2305.14314, section 3)
CONTEXT_GB = {"cuda": 0.65, "cpu": 0.62}  # CUDA context and kernels; Python with its libraries (measured)
ADAPTER_BYTES = {"cuda": 10, "cpu": 16}  # a LoRA weight: itself, gradient and Adam's two moments, 8-bit on a card
EFFICIENCY = 0.35  # share of the measured matrix-product rate that a training step reaches; the aim, until measured


@dataclass(frozen=True)
class Shape:
    """What of a model's configuration decides memory and time."""

    hidden: int
    intermediate: int
    layers: int
    key_value: int
    """Width of keys and values: heads times their size."""
    vocabulary: int
    tied: bool
    """Whether input embeddings and head are the same matrix."""

    @classmethod
    def read(cls, base: Path) -> "Shape":
        """From a model folder's config.json."""
        config = read_json(base / "config.json")
        heads = config["num_attention_heads"]
        head_size = config.get("head_dim") or config["hidden_size"] // heads
        return cls(
            config["hidden_size"],
            config["intermediate_size"],
            config["num_hidden_layers"],
            config.get("num_key_value_heads", heads) * head_size,
            config["vocab_size"],
            config.get("tie_word_embeddings", True),
        )

    @property
    def linear(self) -> int:
        """Weights of the linear layers in all blocks, those that are quantized."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.key_value
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    def adapter(self, rank: int) -> int:
        """LoRA weights on q, k, v, o, gate, up and down of every block."""
        widths = 4 * self.hidden + 2 * (self.hidden + self.key_value) + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * widths


SHAPES = {  # of the models that params/ names, from their config.json; so a plan needs no download
    "Qwen/Qwen2.5-3B-Instruct": Shape(2048, 11008, 36, 256, 151936, tied=True),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(4096, 14336, 32, 1024, 128256, tied=False),
}


def shape_of(base_model: str) -> Shape:
    """Of a model on this machine or one of `SHAPES`. Raises UserError for any other."""
    return SHAPES.get(base_model) or Shape.read(locate_base(base_model))


def memory(shape: Shape, rank: int, tokens: int, checkpointing: bool, device: str) -> dict[str, float]:
    """Predicted peak in GB by part; `tokens` is those of the longest micro-batch, `device` "cuda" or "cpu".

    Activations a token and block: what autograd keeps of norms, projections, SwiGLU and LoRA,
    20.6 h + 5 kv + 9.5 I + 232 bytes in 16 bits (counted on the installed Qwen2 and Llama), twice
    that in float32; with checkpointing only each block's input and one block's.
    """
    wide = 1 if device == "cuda" else 2  # 16-bit or 32-bit activations
    block = wide * (20.6 * shape.hidden + 5 * shape.key_value + 9.5 * shape.intermediate + 232)
    kept = 2 * wide * shape.hidden * shape.layers + block if checkpointing else block * shape.layers
    parts = {
        "weights, NF4": NF4 * shape.linear,
        "embeddings and head": 2 * wide * shape.vocabulary * shape.hidden * (1 if shape.tied else 2),
        "adapter, gradients, optimizer": ADAPTER_BYTES[device] * shape.adapter(rank),
        "activations": kept * tokens,
        "one matrix unpacked": 4 * shape.hidden * shape.intermediate,
        "context": CONTEXT_GB[device] * 1e9,
    }
    return {part: size / 1e9 for part, size in parts.items()}


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
    """What has to be read, in tokens, and how often."""

    train: list[int]
    """Tokens of every training note with its prompt and answers."""
    scored: int
    """Tokens of one validation pass."""
    micro_batch: int
    epochs: float
    evaluations: int

    @property
    def longest(self) -> int:
        """Tokens of the largest micro-batch, padding included."""
        return self.micro_batch * max(self.train)

    @property
    def trained(self) -> float:
        """Tokens of all training steps; notes of a length share a batch, so padding is a small part."""
        return self.epochs * sum(self.train)


def hours(workload: Workload, shape: Shape, checkpointing: bool, rate: float) -> float:
    """Predicted hours of training and validation passes at `EFFICIENCY` of a matrix-product rate."""
    backward_too = floats_a_token(shape, checkpointing) * workload.trained
    forward = 2 * shape.linear * workload.scored * workload.evaluations
    return (backward_too + forward) / (EFFICIENCY * rate) / 3600
