"""A base in a GGUF file, as Ollama and LM Studio keep it: unpacked once into a Hugging Face folder."""

import hashlib
import sys
import tempfile
from functools import cache
from pathlib import Path

from onelap import PROJECT, UserError
from onelap.machine.store import write_json

ORIGIN = "gguf.json"  # in the unpacked folder: the file's name, SHA-256 and number format


@cache  # a file may have gigabytes: it is hashed once a process
def unpack(file: Path) -> Path:
    """Return the folder `outputs/bases/NAME_HASH` with the model of a GGUF file, which is made where it is missing.

    Raises UserError for a file that cannot be read, and for a model that transformers does not know.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = PROJECT / "outputs" / "bases" / f"{file.stem}_{digest[:12]}"
    if (folder / ORIGIN).exists():
        return folder
    import torch
    from gguf import GGUFReader, LlamaFileType
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        field = GGUFReader(file).fields["general.file_type"]
        number_format = LlamaFileType(int(field.contents())).name.removeprefix("MOSTLY_")
        print(
            f"unpacking {file.name} into {folder}: its {number_format} weights are rounded, and stay so",
            file=sys.stderr,
        )
        source = {
            "pretrained_model_name_or_path": file.parent,
            "gguf_file": file.name,
            "local_files_only": True,
            "trust_remote_code": False,
        }
        tokenizer = AutoTokenizer.from_pretrained(**source)
        rest = {"dtype": torch.bfloat16, "quantization_config": GgufConfig(dequantize=True)}
        model = AutoModelForCausalLM.from_pretrained(**source, **rest)
    except Exception as error:  # of any type: the file may hold anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"base_model {file}: expected a GGUF file of a model that transformers knows: {reason}"
        ) from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as workplace:
        whole = Path(workplace) / "model"
        tokenizer.save_pretrained(whole)
        model.save_pretrained(whole)
        write_json(whole / ORIGIN, {"file": file.name, "sha256": digest, "format": number_format})
        whole.replace(folder)
    return folder
