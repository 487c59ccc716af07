"""Number formats: which one goes where on this device, decided in this one place.

It follows the compute capability: `torch.cuda.is_bf16_supported()` says yes on Turing too, which emulates bfloat16.
"""

import os
import timeit
from dataclasses import dataclass, field
from functools import cache, partial

import torch

from onelap import UserError

MIN_GAIN = 1.3  # in matrix products, from which the CPU computes in bfloat16: other operations gain nothing
MEASURED_SIZE = 512  # rows and columns: a few milliseconds


@dataclass(frozen=True)
class Precision:
    """The number formats of one device, and the reason for them."""

    device: str
    compute: torch.dtype  # of activations, and of NF4 weights when they are unpacked for a multiplication
    bf16: bool  # mixed precision with bfloat16
    fp16: bool  # mixed precision with float16 and a gradient scaler
    why: str = field(compare=False)

    @property
    def name(self) -> str:
        """The compute format's name, as in "bfloat16"."""
        return str(self.compute).removeprefix("torch.")

    @property
    def choice(self) -> str:
        """The argument with which `choose_precision` gives these formats."""
        return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[self.compute]

    @property
    def safe(self) -> "Precision":
        """The formats that work for any model on this device, if slowly: float32 throughout."""
        return Precision(self.device, torch.float32, bf16=False, fp16=False, why="float32: wide enough for any model")

    @property
    def has_flash_attention(self) -> bool:
        """True where PyTorch has a flash kernel: on a CPU, and in 16 bits from compute capability 8.0 on."""
        if self.device == "cpu":
            return True
        return self.compute != torch.float32 and torch.cuda.get_device_capability(self.device) >= (8, 0)

    @property
    def formats(self) -> list[dict[str, str]]:
        """The rows `what, format, why` that a notebook shows."""
        scaler = ("on", "small gradients vanish in float16") if self.fp16 else ("off", "only float16 needs one")
        kernel = "flash" if self.has_flash_attention else "memory-efficient"
        rows = [
            ("frozen linear layers", "NF4, double-quantized", "4 bits a weight, never updated (arXiv 2305.14314)"),
            ("activations, unpacked weights", self.name, self.why),
            ("embeddings, norms, head", self.name, "frozen too; float32 copies of them would only cost memory"),
            ("LoRA weights and gradients", "float32", "small updates would be rounded away in 16 bits"),
            ("gradient scaler", *scaler),
            ("attention", kernel, "training needs no mask; on a card, flash takes 16 bits and compute capability 8.0"),
        ]
        return [{"what": what, "format": name, "why": why} for what, name, why in rows]


def choose_precision(choice: str = "auto") -> Precision:
    """Choose the formats for this process's GPU, or for the CPU where there is none.

    `choice` is "auto", "bf16", "fp16" or "fp32"; all but the first override what follows from the device. Raises
    UserError where the device cannot compute in that format, and where "auto" would give the GPUs of several processes
    that share a training different formats.
    """
    if not torch.cuda.is_available():
        return _choose_for_cpu(choice)
    capabilities = [torch.cuda.get_device_capability(gpu) for gpu in range(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))]
    if choice == "auto" and min(capabilities) < (8, 0) <= max(capabilities):
        raise UserError("precision: these cards would take bf16 and fp16; begin the run with -p precision=fp16")
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    major, minor = torch.cuda.get_device_capability(device)
    name = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    if choice == "bf16" and major < 8:
        raise UserError(f"precision: bf16 needs compute capability 8.0, found {name}; use auto, fp16 or fp32")
    if choice == "bf16" or (choice == "auto" and major >= 8):
        why = f"{name}: bfloat16 in hardware, with the range of float32, so no scaler"
        return Precision(device, torch.bfloat16, bf16=True, fp16=False, why=why)
    why = f"{name}: float16 with a gradient scaler and float32 LoRA weights"
    half = Precision(device, torch.float16, bf16=False, fp16=True, why=why)
    return half.safe if choice == "fp32" else half


def _choose_for_cpu(choice: str) -> Precision:
    if choice == "fp16":
        raise UserError("precision: expected auto, bf16 or fp32 on a CPU, found fp16")
    gain = bfloat16_gain() if choice == "auto" else 0.0
    if choice == "bf16" or gain >= MIN_GAIN:
        why = "chosen" if choice == "bf16" else f"this CPU multiplies it {gain:.1f} times as fast as float32"
        return Precision("cpu", torch.bfloat16, bf16=True, fp16=False, why=f"bfloat16: {why}")
    why = "chosen" if choice == "fp32" else f"this CPU multiplies bfloat16 {gain:.1f} times as fast, which is no gain"
    return Precision("cpu", torch.float32, bf16=False, fp16=False, why=f"float32: {why}")


@cache
def bfloat16_gain() -> float:
    """Measure how many times as fast this CPU multiplies matrices in bfloat16 as in float32; some milliseconds.

    Instructions do not tell: of two CPUs with AVX512-BF16 one reached 5.7, the other 0.5 (docs/LOG.md). The formats
    take turns and the quickest product counts, so that other programs at work do not decide.
    """
    seconds = {torch.float32: [], torch.bfloat16: []}
    for number_format in [*seconds] * 7:
        matrix = torch.ones(MEASURED_SIZE, MEASURED_SIZE, dtype=number_format)
        seconds[number_format].append(timeit.timeit(partial(torch.mm, matrix, matrix), number=1))
    return min(seconds[torch.float32]) / min(seconds[torch.bfloat16])


def autocast(model) -> torch.autocast:
    """Return the context of a forward pass, in which LoRA is computed in the base's format, in training and after."""
    return torch.autocast(model.device.type, dtype=model.dtype, enabled=model.dtype != torch.float32)


def check_formats(model, precision: Precision) -> None:
    """Check every tensor before the first step. Raises TypeError for a format that fails or crawls on this device."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if precision.fp16 and tensor.dtype == torch.bfloat16:  # which such a GPU only emulates
            raise TypeError(f"{name} is bfloat16, expected none on a card without it: {precision.why}")
        if tensor.requires_grad and tensor.dtype != torch.float32:  # the scaler fails, or updates are rounded away
            raise TypeError(f"{name} is trained in {tensor.dtype}, expected torch.float32")
