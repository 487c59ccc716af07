"""The base model: finding it, loading it in 4 bits, putting an adapter on it."""

import hashlib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import psutil

from onelap import UserError, find_path
from onelap.machine import gguf, hub

WEIGHTS = "*.safetensors"
REQUIRED = ["config.json", "tokenizer*", WEIGHTS]
SAMPLES, SAMPLE_BYTES = 256, 4096  # of each file of weights
MAX_UNREAD = 0.1  # of the notes, without a warning
AMPLE = 4  # times the size of the weights is free: then they stay unpacked


def locate_base(name: str) -> Path:
    """Find a base's folder: local, unpacked from a GGUF file, or downloaded by `onelap fetch`. Raises UserError."""
    path = find_path(name)
    if path.suffix == ".gguf" and path.is_file():
        path = gguf.unpack(path)
    if not path.is_dir():
        path = hub.find_downloaded(name)
    missing = [pattern for pattern in REQUIRED if not any(path.glob(pattern))]
    if missing:
        raise UserError(f"base_model {path}: expected a Hugging Face model folder, found no {' and no '.join(missing)}")
    return path


def is_downloaded(name: str) -> bool:
    """Tell whether the base is on this machine, so that nothing has to be fetched."""
    try:
        return locate_base(name).is_dir()
    except UserError:
        return False


def load_tokenizer(base: Path):
    """Load the base's tokenizer, padding on the left. Raises UserError where it has no end token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left", local_files_only=True, trust_remote_code=False)
    if tokenizer.eos_token is None:
        raise UserError(f"base_model {base}: expected a tokenizer with an end token (eos_token), found none")
    if not tokenizer.is_fast:
        raise UserError(f"base_model {base}: expected a fast tokenizer (tokenizer.json), found a slow one")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def warn_of_unknown_script(tokenizer, texts: Iterable[str]) -> str:
    """Say how many texts the base can hardly read, because most of their tokens are parts of a character, or nothing.

    A character that training has not shown the tokenizer often enough falls apart into its bytes.
    """
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    parts = {token for token in set(chain(*rows)) if "\ufffd" in tokenizer.decode([token])}
    unread = sum(2 * sum(token in parts for token in row) > len(row) for row in rows)
    if unread < MAX_UNREAD * len(rows):
        return ""
    return (
        f"The base can hardly read {unread} of {len(rows)} notes: most of their tokens are single bytes of characters. "
        "Take a base that knows their language; params/laptop_multilingual.yaml names one."
    )


def load_base(base: Path, precision, to_be_sharded: bool = False, unpacked: bool | None = None):
    """Load the frozen base with NF4 weights and double quantization, in eval mode.

    On a CPU with ample memory, or where they shall be `unpacked`, the weights keep the values that NF4 gave them, and
    are stored in the compute format: nothing is unpacked again at each step.

    `precision` is a `Precision`. `prepare_model_for_kbit_training` is not used: it would turn embeddings and head into
    float32 copies, 0.6 GB on a 3B model. A base that is `to_be_sharded` stays in the system's memory, its 4-bit weights
    packed into a number format that `fully_shard` can slice.
    """
    from accelerate.utils.memory import clear_device_cache
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.integrations import sdpa_attention
    from transformers.utils import logging

    from onelap.machine.memory import cap_memory

    logging.disable_progress_bar()
    clear_device_cache(garbage_collection=True)  # of an earlier model
    cap_memory(precision.device)
    if not precision.has_flash_attention:
        # The memory-efficient kernel has no grouped heads: asked for them, PyTorch silently takes its slowest one
        # (huggingface/transformers#48633). So keys and values are repeated.
        sdpa_attention.use_gqa_in_sdpa = lambda *_: False
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    storage = precision.compute if to_be_sharded else None
    quantization = BitsAndBytesConfig(**nf4, bnb_4bit_compute_dtype=precision.compute, bnb_4bit_quant_storage=storage)
    model = AutoModelForCausalLM.from_pretrained(
        base,
        quantization_config=quantization,
        dtype=precision.compute,
        device_map={"": "cpu" if to_be_sharded else precision.device},
        attn_implementation="sdpa",  # Qwen2-family models can overflow in float16 with eager attention
        local_files_only=True,
        trust_remote_code=False,  # or it asks, at a terminal
    )
    if unpacked is None:
        size = model.num_parameters() * precision.compute.itemsize
        unpacked = precision.device == "cpu" and not to_be_sharded and AMPLE * size < psutil.virtual_memory().available
    if unpacked:
        model = model.dequantize(precision.compute)
    # On CPUs with AVX512-BF16 bitsandbytes would repack the weights at the first forward pass in eval mode for a faster
    # kernel, which has no backward pass: after one validation pass most LoRA matrices would silently get no gradient.
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False).eval()


def load_adapter(model, adapter: Path):
    """Put a saved adapter on a base model, and return it in eval mode."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter, local_files_only=True).eval()


def hash_base(base: Path) -> str:
    """SHA-256 of samples from all over a base's weights: tells bases apart quickly, whatever their size."""
    digest = hashlib.sha256()
    for file in sorted(base.glob(WEIGHTS)):
        with file.open("rb") as stream:
            for sample in range(SAMPLES):
                stream.seek(file.stat().st_size * sample // SAMPLES)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()
