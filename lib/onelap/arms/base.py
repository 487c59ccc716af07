"""The base model: finding it, loading it in 4 bits, putting an adapter on it.

A base is a local Hugging Face folder or the name of a model that `onelap fetch` has downloaded, as
`owner/name@revision`; both are loaded in the same way, and nothing is looked up on the network. A
revision is a commit: without one, another download may bring another model.
"""

import hashlib
from pathlib import Path

from onelap import PROJECT, UserError, find_path
from onelap.arms.shapes import SHAPES
from onelap.machine.store import read_yaml

WEIGHTS = "*.safetensors"
NEEDED = ["config.json", "tokenizer*", WEIGHTS]
SAMPLED_PIECES, SAMPLED_BYTES = 256, 4096  # of each file
FETCHED = [WEIGHTS, "*.json", "*.txt", "*.jinja", "*.model"]


def locate_base(name: str) -> Path:
    """The folder of a base model. Raises UserError where it is no model or not downloaded."""
    path = find_path(name)
    if not path.is_dir():
        path = _downloaded(name)
    missing = [pattern for pattern in NEEDED if not any(path.glob(pattern))]
    if missing:
        raise UserError(f"base_model {path}: expected a Hugging Face model folder, found no {' and no '.join(missing)}")
    return path


def on_hub(name: str) -> tuple[str, str | None]:
    """Repository and revision of `owner/name@revision`; no revision is the newest one."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def fetch_base(name: str) -> Path:
    """Download weights, configuration and tokenizer from the model hub, which is told name and revision only.

    Raises UserError where the hub does not answer or refuses (no network, unknown name, a
    licence that must be accepted first).
    """
    try:
        return _snapshot(name)
    except Exception as error:  # whatever the network, the hub or the disk comes up with
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"base_model {name}: not downloaded: {reason}") from None


def is_downloaded(base_model: str) -> bool:
    """Whether the base is on this machine, so that nothing has to be fetched."""
    try:
        return locate_base(base_model).is_dir()
    except UserError:
        return False


def _downloaded(name: str) -> Path:
    """The folder in which the hub's client keeps a model that was fetched."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return _snapshot(name, local_files_only=True)
    except (HFValidationError, LocalEntryNotFoundError):
        raise UserError(
            f"base_model {name}: there is no such folder, and no model of that name and revision has been downloaded; "
            f"`{_fetch_command(name)}` downloads it{download_size(name)}"
        ) from None


def _snapshot(name: str, **options) -> Path:
    """The same files when they are fetched and when they are found, or the client calls the download incomplete."""
    from huggingface_hub import snapshot_download

    repository, revision = on_hub(name)
    return Path(snapshot_download(repository, revision=revision, allow_patterns=FETCHED, **options))


def download_size(name: str) -> str:
    """How much there is to download, to be put after a comma; empty for a model that is not known here."""
    shape = SHAPES.get(on_hub(name)[0])
    return f", {shape.download_gb:.1f} GB" if shape else ""


def _fetch_command(name: str) -> str:
    """What to type; by one of the parameter files, if one names this base."""
    files = sorted((PROJECT / "params").glob("*.yaml"))
    naming = [file.name for file in files if read_yaml(file).get("base_model") == name]
    return f"onelap fetch params/{naming[0]}" if naming else f"onelap fetch params/one_lap.yaml -p base_model={name}"


def load_tokenizer(base: Path):
    """The base's tokenizer, padding on the left. Raises UserError where it has no end token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left", trust_remote_code=False)
    if tokenizer.eos_token is None:
        raise UserError(f"base_model {base}: expected a tokenizer with an end token (eos_token), found none")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(base: Path, precision, to_be_sharded: bool = False):
    """The frozen base with NF4 weights and double quantization, in eval mode.

    `precision` is a `Precision`. `prepare_model_for_kbit_training` is not used: it would turn
    embeddings and head into float32 copies, 0.6 GB on a 3B model. A base that is `to_be_sharded` is left in
    the system's memory, its 4-bit weights packed into a number format that `fully_shard` can slice.
    """
    from accelerate.utils.memory import clear_device_cache
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    from onelap.machine.memory import cap_memory

    logging.disable_progress_bar()
    clear_device_cache(garbage_collection=True)  # of an earlier model
    cap_memory(precision.device)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision.compute,
        bnb_4bit_quant_storage=precision.compute if to_be_sharded else None,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base,
        quantization_config=quantization,
        dtype=precision.compute,
        device_map={"": "cpu" if to_be_sharded else precision.device},
        # Qwen2-family models can overflow in float16 with eager attention.
        attn_implementation="sdpa",
        local_files_only=True,
        trust_remote_code=False,  # or it asks, at a terminal
    )
    _keep_trainable_on_cpu(model)
    return model.requires_grad_(False).eval()


def sample_base(base: Path) -> str:
    """SHA-256 of pieces from all over a base's weights: tells bases apart in no time, whatever the size."""
    digest = hashlib.sha256()
    for file in sorted(base.glob(WEIGHTS)):
        size = file.stat().st_size
        with file.open("rb") as stream:
            for piece in range(SAMPLED_PIECES):
                stream.seek(size * piece // SAMPLED_PIECES)
                digest.update(stream.read(SAMPLED_BYTES))
    return digest.hexdigest()


def load_adapter(model, adapter: Path):
    """Put a saved adapter on a base model; returns the model in eval mode."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter).eval()


def _keep_trainable_on_cpu(model) -> None:
    """Stop bitsandbytes from repacking the weights at the first forward pass in eval mode.

    On CPUs with AVX512-BF16 it does so for a faster kernel that has no backward pass: after one
    validation pass most LoRA matrices would silently get no gradient.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
