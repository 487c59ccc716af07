"""Checkpoints of a training: safetensors and JSON, and whole or not at all.

checkpoint-<step>/
  adapter_model.safetensors, adapter_config.json   what was learnt
  state.safetensors, state.json                    optimizer, schedule, gradient scaler, random numbers
  trainer_state.json                               the Trainer's counters
  complete.json                                    written last: the SHA-256 of every file above

Nothing in them is pickled, so a checkpoint from elsewhere can be wrong but cannot run code.
"""

import json
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from onelap import UserError
from onelap.machine.store import hash_files, read_json, write_json

MARKER = "complete.json"


def checkpoint_path(training: Path, step: int) -> Path:
    """Where the checkpoint of this step is, or would be."""
    return training / f"checkpoint-{step}"


def write_state(folder: Path, state: dict) -> None:
    """Tensors to `state.safetensors`, all else to `state.json`; `state` is nested dicts, lists and tuples."""
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _taken_apart(state, tensors, "")
    save_file(tensors, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(skeleton), encoding="utf-8")


def read_state(folder: Path) -> dict:
    """What `write_state` wrote."""
    skeleton = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return _put_together(skeleton, load_file(folder / "state.safetensors"))


def seal(folder: Path) -> None:
    """Put the files on the disk for good, then the marker that says so."""
    files = sorted(path for path in folder.iterdir() if path.name != MARKER)
    for file in files:
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
    write_json(folder / MARKER, {file.name: hash_files(file) for file in files})


def discard(folder: Path) -> None:
    """Remove a checkpoint, its marker first."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def found_in(training: Path) -> dict[int, Path]:
    """{step: folder} of all checkpoints, whole or not; folders with names of somebody else's are left alone."""
    matches = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in training.glob("checkpoint-*")]
    return {int(match[1]): path for match, path in matches if match and path.is_dir()}


def newest_complete(training: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint to go on from, and a line for each newer one that is not whole.

    One whose best adapter so far is gone cannot be gone on from either.
    """
    found, skipped = found_in(training), []
    for step in sorted(found, reverse=True):
        problem = _problem(found[step])
        if problem is None:
            best = read_json(found[step] / "trainer_state.json")["best_global_step"]
            problem = _problem(checkpoint_path(training, best)) if best else None
        if problem is None:
            return found[step], skipped
        skipped.append(f"{found[step].name} is passed over: {problem}")
    return None, skipped


def _problem(folder: Path) -> str | None:
    """Why a checkpoint is not as it was written; None where it is."""
    try:
        written = read_json(folder / MARKER) if (folder / MARKER).exists() else None
    except UserError as error:
        return str(error)
    if written is None:
        return f"{folder.name} was not written to its end"
    for name, digest in written.items():
        if not (folder / name).is_file() or hash_files(folder / name) != digest:
            return f"{folder.name}/{name} is not as it was written"
    return None


def random_state() -> dict:
    """State of the generators that training draws from."""
    numpy_state = np.random.get_state(legacy=False)
    key = torch.from_numpy(numpy_state["state"].pop("key").astype(np.int64))
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": numpy_state, "key": key, "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict) -> None:
    """Go on where `random_state` was taken."""
    random.setstate(state["python"])
    numpy_state = state["numpy"]
    numpy_state["state"]["key"] = state["key"].numpy().astype(np.uint32)
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _taken_apart(value: object, tensors: dict[str, torch.Tensor], name: str) -> object:
    """JSON with a mark where a tensor was. JSON alone knows neither tuples nor keys that are numbers."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().clone()  # two of them may share memory, which safetensors refuses
        return {"tensor": name}
    if isinstance(value, dict):
        pairs = [[key, _taken_apart(one, tensors, f"{name}.{key}")] for key, one in value.items()]
        return {"dict": pairs}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_taken_apart(one, tensors, f"{name}.{i}") for i, one in enumerate(value)]}
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
