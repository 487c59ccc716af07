"""Nested state with tensors as safetensors and JSON: a file from elsewhere can be wrong, but cannot run code."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def write_state(folder: Path, state: dict) -> None:
    """Write tensors to `state.safetensors` and all else to `state.json`, where tuples become lists."""
    tensors: dict[str, torch.Tensor] = {}

    def store(tensor: torch.Tensor) -> dict:
        name = str(len(tensors))
        tensors[name] = tensor.detach().cpu().clone()  # two of them may share memory, which safetensors refuses
        return {"tensor": name}

    text = json.dumps(state, default=store)
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(text, encoding="utf-8")


def read_state(folder: Path) -> dict:
    """Read what `write_state` wrote; keys that were numbers are text now."""
    tensors = load_file(folder / "state.safetensors")

    def restore(value: dict) -> object:
        return tensors[value["tensor"]] if value.keys() == {"tensor"} else value

    return json.loads((folder / "state.json").read_text(encoding="utf-8"), object_hook=restore)


def random_state() -> dict:
    """Return the state of torch's random generators, from which a training draws."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None}


def set_random_state(state: dict) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
