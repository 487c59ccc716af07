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
    def formats(self) -> dict[str, str]:
        """What is stored or computed in which format, for the lab record."""
        compute = str(self.compute).removeprefix("torch.")
        return {
            "frozen weights of the layers": "NF4: 4 bits, scales double-quantized to 8 bits (QLoRA, arXiv 2305.14314)",
            "embeddings, norms and head": compute,
            "activations": compute,
            "LoRA weights, gradients, optimizer updates": "float32",
            "why": self.why,
        }


def choose_precision() -> Precision:
    """The formats for the first CUDA device, or for the CPU where there is none."""
    if not torch.cuda.is_available():
        why = "CPU: float32 throughout; mixed precision buys a small model little here"
        return Precision("cpu", torch.float32, bf16=False, fp16=False, why=why)
    major, minor = torch.cuda.get_device_capability(0)
    name = f"{torch.cuda.get_device_name(0)}, compute capability {major}.{minor}"
    if major >= 8:
        why = f"{name}: bfloat16 in hardware, with the range of float32, so no gradient scaler"
        return Precision("cuda:0", torch.bfloat16, bf16=True, fp16=False, why=why)
    why = f"{name}: no bfloat16 in hardware, so float16 with a gradient scaler and float32 LoRA weights"
    return Precision("cuda:0", torch.float16, bf16=False, fp16=True, why=why)
