"""Nested state with tensors as safetensors and JSON: a file from elsewhere can be wrong, but cannot run code."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def write_state(folder: Path, state: dict) -> None:
    """Write tensors to `state.safetensors`, all else to `state.json`; `state` is nested dicts, lists and tuples."""
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _take_apart(state, tensors, "")
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(skeleton), encoding="utf-8")


def read_state(folder: Path) -> dict:
    """Read what `write_state` wrote."""
    skeleton = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return _put_together(skeleton, load_file(folder / "state.safetensors"))


def random_state() -> dict:
    """Return the state of the random generators that a training draws from."""
    numpy_state = np.random.get_state(legacy=False)
    key = torch.from_numpy(numpy_state["state"].pop("key").astype(np.int64))
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": numpy_state, "key": key, "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict) -> None:
    """Restore what `random_state` returned."""
    random.setstate(state["python"])
    numpy_state = state["numpy"]
    numpy_state["state"]["key"] = state["key"].numpy().astype(np.uint32)
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _take_apart(value: object, tensors: dict[str, torch.Tensor], name: str) -> object:
    """JSON with a mark for each tensor, dict, list and tuple: JSON alone has neither tuples nor numbers as keys."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().clone()  # two of them may share memory, which safetensors refuses
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _take_apart(one, tensors, f"{name}.{key}")] for key, one in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_take_apart(one, tensors, f"{name}.{i}") for i, one in enumerate(value)]}
    return value


def _put_together(value: object, tensors: dict[str, torch.Tensor]) -> object:
    if not isinstance(value, dict):
        return value
    [(form, content)] = value.items()
    if form == "tensor":
        return tensors[content]
    if form == "dict":
        return {key: _put_together(one, tensors) for key, one in content}
    return {"list": list, "tuple": tuple}[form](_put_together(one, tensors) for one in content)
