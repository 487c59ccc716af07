"""Which number format goes where on this device, decided in this one place.

The decision follows the compute capability, never `torch.cuda.is_bf16_supported()`, which
also says yes on Turing cards that only emulate bfloat16.
"""

import os
from dataclasses import dataclass

import torch

from onelap import UserError


@dataclass(frozen=True)
class Precision:
    """Number formats of one device, and why."""

    device: str
    compute: torch.dtype
    """Activations, and what NF4 weights are unpacked to before each multiplication."""
    bf16: bool
    """Mixed precision with bfloat16."""
    fp16: bool
    """Mixed precision with float16 and a gradient scaler."""
    why: str

    @property
    def name(self) -> str:
        """Of the compute format, as in "bfloat16"."""
        return str(self.compute).removeprefix("torch.")

    @property
    def choice(self) -> str:
        """What to ask `choose_precision` for to get these formats."""
        return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[self.compute]

    @property
    def safe(self) -> "Precision":
        """What always works on this device, if slowly: float32 throughout."""
        if self.compute == torch.float32:
            return self
        return Precision(self.device, torch.float32, bf16=False, fp16=False, why="float32: wide enough for any model")

    @property
    def formats(self) -> list[dict[str, str]]:
        """Rows `what, format, why` for the lab record."""
        compute = self.name
        scaler = "on" if self.fp16 else "off"
        rows = [
            (
                "frozen linear layers",
                "NF4, double-quantized",
                "4 bits a weight, never updated (arXiv 2305.14314)",
            ),
            ("activations, unpacked weights", compute, self.why),
            ("embeddings, norms, head", compute, "frozen too; float32 copies of them would only cost memory"),
            ("LoRA weights and gradients", "float32", "small updates would be rounded away in 16 bits"),
            (
                "gradient scaler",
                scaler,
                "small gradients vanish in float16" if self.fp16 else "only float16 needs one",
            ),
        ]
        return [{"what": what, "format": form, "why": why} for what, form, why in rows]


def choose_precision(wanted: str = "auto") -> Precision:
    """The formats for this process's CUDA device, or for the CPU where there is none.

    `wanted` is "auto", "bf16", "fp16" or "fp32"; all but the first override what follows from the device.
    Raises UserError where the device cannot do what is wanted, and where the devices of several processes that share
    a training would differ.
    """
    if not torch.cuda.is_available():
        if wanted not in ("auto", "fp32"):
            raise UserError(f"precision: expected auto or fp32 on a CPU, found {wanted}")
        why = "CPU: float32; mixed precision would buy a small model little"
        return Precision("cpu", torch.float32, bf16=False, fp16=False, why=why)
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    capabilities = [
        torch.cuda.get_device_capability(card) for card in range(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    ]
    if wanted == "auto" and min(capabilities) < (8, 0) <= max(capabilities):
        raise UserError("precision: these cards would take bf16 and fp16; begin the run with -p precision=fp16")
    major, minor = torch.cuda.get_device_capability(device)
    name = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    brain = Precision(
        device, torch.bfloat16, True, False, f"{name}: bfloat16 in hardware, with the range of float32, so no scaler"
    )
    half = Precision(
        device, torch.float16, False, True, f"{name}: float16 with a gradient scaler and float32 LoRA weights"
    )
    if wanted == "fp32":
        return half.safe
    if wanted == "bf16" and major < 8:
        raise UserError(f"precision: bf16 needs compute capability 8.0, found {name}; use auto, fp16 or fp32")
    return half if wanted == "fp16" or major < 8 else brain


def autocast(model) -> torch.autocast:
    """The context in which a model is asked: in training and after it LoRA is multiplied in the base's format."""
    return torch.autocast(model.device.type, dtype=model.dtype, enabled=model.dtype != torch.float32)


def check_formats(model, precision: Precision) -> None:
    """Before the first step: raises TypeError for a tensor in a format that would fail or crawl on this device.

    With float16 and a gradient scaler that is any bfloat16 tensor, which such a card only emulates, and any
    trainable one that is not float32: the scaler dies on it, or rounds its updates away.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if precision.fp16 and tensor.dtype == torch.bfloat16:
            raise TypeError(f"{name} is bfloat16, expected none on a card without it: {precision.why}")
        if tensor.requires_grad and tensor.dtype != torch.float32:
            raise TypeError(f"{name} is trained in {tensor.dtype}, expected torch.float32")
