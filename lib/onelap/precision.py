"""Which number format goes where on this device, decided in this one place.

The decision follows the compute capability, never `torch.cuda.is_bf16_supported()`, which
also says yes on Turing cards that only emulate bfloat16.
"""

from dataclasses import dataclass

import torch


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
    def formats(self) -> list[dict[str, str]]:
        """Rows `what, format, why` for the lab record."""
        compute = str(self.compute).removeprefix("torch.")
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


def choose_precision() -> Precision:
    """The formats for the first CUDA device, or for the CPU where there is none."""
    if not torch.cuda.is_available():
        why = "CPU: float32; mixed precision would buy a small model little"
        return Precision("cpu", torch.float32, bf16=False, fp16=False, why=why)
    major, minor = torch.cuda.get_device_capability(0)
    name = f"{torch.cuda.get_device_name(0)}, compute capability {major}.{minor}"
    if major >= 8:
        why = f"{name}: bfloat16 in hardware, with the range of float32, so no gradient scaler"
        return Precision("cuda:0", torch.bfloat16, bf16=True, fp16=False, why=why)
    why = f"{name}: no bfloat16 in hardware, so float16 with a gradient scaler and float32 LoRA weights"
    return Precision("cuda:0", torch.float16, bf16=False, fp16=True, why=why)


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
