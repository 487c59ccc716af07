"""Number formats: which one goes where on this device, decided in this one place.

It follows the compute capability: `torch.cuda.is_bf16_supported()` says yes on Turing too, which emulates bfloat16.
"""

import os
from dataclasses import dataclass, field

import torch

from onelap import UserError


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
    instructions = torch.cpu.get_capabilities()
    fast = instructions.get("avx512_bf16") or instructions.get("amx_bf16")
    if choice == "fp16" or (choice == "bf16" and not fast):
        raise UserError(f"precision: expected {'auto, bf16' if fast else 'auto'} or fp32 on this CPU, found {choice}")
    if fast and choice != "fp32":
        why = "bfloat16: this CPU multiplies it several times faster than float32"
        return Precision("cpu", torch.bfloat16, bf16=True, fp16=False, why=why)
    why = "float32: chosen" if fast else "float32: bfloat16 would be slower on this CPU"
    return Precision("cpu", torch.float32, bf16=False, fp16=False, why=why)


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
