"""Checkpoints of a training: complete, or not used.

checkpoint-<step>/
  adapter_model.safetensors, adapter_config.json   the LoRA weights
  state.safetensors, state.json                    optimizer, schedule, gradient scaler, random numbers
  trainer_state.json                               the Trainer's counters
  complete.json                                    written last: the SHA-256 of every file above
"""

import os
import re
import shutil
from pathlib import Path

from onelap import UserError
from onelap.machine.store import hash_files, read_json, write_json

MARKER = "complete.json"


def checkpoint_path(training: Path, step: int) -> Path:
    """Name the folder of a step's checkpoint."""
    return training / f"checkpoint-{step}"


def seal(folder: Path) -> None:
    """Flush the files to the disk, then write the marker that makes the checkpoint complete."""
    files = sorted(path for path in folder.iterdir() if path.name != MARKER)
    for file in files:
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
    write_json(folder / MARKER, {file.name: hash_files(file) for file in files})


def discard(folder: Path) -> None:
    """Remove a checkpoint, its marker first."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def list_checkpoints(training: Path) -> dict[int, Path]:
    """List {step: folder} of all checkpoints, complete or not; folders with other names are left out."""
    matches = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in training.glob("checkpoint-*")]
    return {int(match[1]): path for match, path in matches if match and path.is_dir()}


def newest_complete(training: Path) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint that is complete, its best adapter so far too, and a line for each newer one."""
    paths, problems = list_checkpoints(training), []
    for step in sorted(paths, reverse=True):
        problem = _problem_of(paths[step])
        if problem is None:
            best = read_json(paths[step] / "trainer_state.json")["best_global_step"]
            problem = _problem_of(checkpoint_path(training, best)) if best else None
        if problem is None:
            return paths[step], problems
        problems.append(f"{paths[step].name} is skipped: {problem}")
    return None, problems


def _problem_of(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint; None where it is as it was written."""
    try:
        hashes = read_json(folder / MARKER)
    except UserError:
        return f"{folder.name} was not written to its end"
    for name, digest in hashes.items():
        if not (folder / name).is_file() or hash_files(folder / name) != digest:
            return f"{folder.name}/{name} is not as it was written"
    return None
