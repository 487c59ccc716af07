"""The run folder and its record: one lap's inputs and results.

params.yaml            every parameter of every notebook, resolved; written first
run.json               the record: status, times, versions, hashes; rewritten atomically
01_data_prep.ipynb …   executed notebooks
dataset/               train.jsonl validation.jsonl test.jsonl manifest.json
arms/<arm>/            predictions.jsonl metrics.json, and validation.jsonl: predictions that choices rest on
training/              log.jsonl, checkpoints
adapter/               the best adapter, safetensors
comparison.json        arms, pairs, verdict and the sentence that states it
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import psutil
import yaml
from filelock import FileLock, Timeout

from onelap import PROJECT, UserError, find_path
from onelap.machine import gpus, guard
from onelap.machine.names import normalize
from onelap.machine.store import hash_files, read_json, read_lines, read_yaml, write_json, write_lines, write_text
from onelap.notes.split import PARTS
from onelap.verdict.compare import TUNED

RECORDED_PACKAGES = [
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "datasets",
    "accelerate",
    "papermill",
    "scikit-learn",
    "pandas",
    "numpy",
    "scipy",
    "tokenizers",
    "safetensors",
]


def now() -> str:
    """Tell the time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Run:
    """One run folder. Notebooks get theirs with `Run.open(run_dir)`."""

    def __init__(self, path: Path):
        self.path = path = path.absolute()  # kernels have another working directory
        self.record_path = path / "run.json"
        self.params_path = path / "params.yaml"
        self.dataset_path = path / "dataset"
        self.training_path = path / "training"
        self.adapter_path = path / "adapter"
        self.comparison_path = path / "comparison.json"

    @classmethod
    def create(cls, params: str, parameters: dict, folder: Path | None) -> "Run":
        """Make the folder `<UTC yyyymmdd-hhmmss>_<params name>` (or `folder`), parameters first.

        Raises UserError where `folder` already holds a run or cannot be made.
        """
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        path = folder or PROJECT / "outputs" / f"{stamp}_{Path(params).stem}"
        while folder is None and path.exists():  # two runs that begin in the same second
            path = path.with_name(path.name + "_")
        run = cls(path)
        if run.record_path.exists():
            raise UserError(
                f"{path}: already holds a run; go on with it by `onelap run --resume {path}`, or name another folder"
            )
        try:
            _for_the_owner_only(run.path)
            text = yaml.safe_dump(parameters, allow_unicode=True, sort_keys=False)
            write_text(run.params_path, text)
        except OSError as error:
            raise UserError(f"{path}: the run folder cannot be written: {error}") from None
        run.update(
            status="running",
            params=params,
            started=now(),
            session_started=now(),
            spent_seconds=0.0,
            process=this_process(),
            notebooks={},
            git=_git_state(),
            versions=versions(),
            hardware=gpus.describe(),
            hashes={},
            predicted={"training_seconds": None, "vram_gb": None},
            actual={"seconds": None, "training_seconds": None, "peak_memory_gb": None},
        )
        return run

    @classmethod
    def open(cls, run_dir: str | Path) -> "Run":
        """The run folder of a notebook; made if it is not there yet (a notebook run by hand)."""
        run = cls(find_path(run_dir))
        _for_the_owner_only(run.path)
        guard.record_in(run.path)
        if not run.record_path.exists():
            run.update(
                status="by hand",
                started=now(),
                session_started=now(),
                spent_seconds=0.0,
                versions=versions(),
                git=_git_state(),
                hardware=gpus.describe(),
                hashes={},
            )
        return run

    @property
    def parameters(self) -> dict:
        """The content of params.yaml without the run folder, which may have moved; empty where there is no such file.

        Raises UserError for a damaged file.
        """
        stored = read_yaml(self.params_path) if self.params_path.exists() else {}
        return {name: value for name, value in stored.items() if name != "run_dir"}

    @property
    def scoring(self) -> dict:
        """`base_model, max_length, score_batch`: how 04_evaluate scored the adapter. Raises UserError before that."""
        scoring = self.record.get("scoring") or self.record.get("asked")  # its name in runs of 0.1
        if not scoring:
            raise UserError(
                f"{self.path}: expected a run whose 04_evaluate is done, found one that is not, or is of an earlier "
                "version; `onelap run` makes a new one"
            )
        return scoring

    @property
    def record(self) -> dict:
        """The content of run.json."""
        return read_json(self.record_path) if self.record_path.exists() else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other `onelap run` processes out; the system takes the lock back from a process that dies.

        Raises UserError where another process holds it.
        """
        try:
            lock = FileLock(self.path / ".lock").acquire(timeout=0)
        except Timeout:
            number = self.record.get("process", {}).get("pid", "unknown")
            raise UserError(f"{self.path}: process {number} is at work there; let it end, or end it") from None
        with lock:
            yield

    def update(self, **changes: object) -> None:
        """Change entries of run.json; a dictionary is merged into the one that is there."""
        write_json(self.record_path, _merged(self.record, changes))

    def seconds_left(self, hours: float, reserve: float) -> float:
        """Compute what is left of a budget for the whole lap, less a reserve for what follows; never negative."""
        record = self.record
        session = datetime.now(UTC) - datetime.fromisoformat(record["session_started"])
        spent = record["spent_seconds"] + session.total_seconds()
        return max(0.0, 3600 * hours - spent - reserve)

    def require(self, path: Path, notebook: str) -> Path:
        """Return the path. Raises UserError, naming the notebook that makes it, where it is missing."""
        if not path.exists():
            raise UserError(
                f"{path.relative_to(self.path)} is missing in {self.path}: run {notebook} with this run_dir first"
            )
        return path

    def clear(self, *paths: Path) -> None:
        """Remove what an earlier execution of a notebook left, so that nothing stale is read."""
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    # Dataset

    def write_dataset(self, notes: pd.DataFrame, manifest: dict) -> None:
        """Write the parts (column `part`) as JSON lines of `id, text, kind, source`, and the manifest.

        `style` is a fifth column where it is known of any note.
        """
        self.dataset_path.mkdir(exist_ok=True)
        columns = ["id", "text", "kind", "source", *(["style"] if notes["style"].any() else [])]
        files = {part: self.dataset_path / f"{part}.jsonl" for part in PARTS}
        for part, file in files.items():
            write_lines(file, notes.loc[notes["part"] == part, columns])
        write_json(self.dataset_path / "manifest.json", manifest)
        digest = hash_files(*files.values())
        if self.record.get("hashes", {}).get("data") not in (None, digest):
            # Results of other notes must not be read as if they were of these.
            self.clear(self.path / "arms", self.training_path, self.adapter_path, self.comparison_path)
        parts = json.dumps({part: sorted(notes.loc[notes["part"] == part, "id"]) for part in PARTS})
        self.update(hashes={"data": digest, "split": hashlib.sha256(parts.encode()).hexdigest()})

    def read_part(self, part: str) -> pd.DataFrame:
        """Read columns `id, text, kind, source, cluster` of one part, and `style` where it is known of any note.

        Notes of one `cluster` are not independent: those of one source, unless the split went by note.
        """
        notes = read_lines(self.require(self.dataset_path / f"{part}.jsonl", "01_data_prep"))
        known = (notes["source"] != "") & self.read_manifest()["split_by_source"]
        return notes.assign(cluster=("source " + notes["source"].map(normalize)).where(known, "note " + notes["id"]))

    def read_manifest(self) -> dict:
        """Read the description of the dataset: kinds, counts, skipped files."""
        manifest = read_json(self.require(self.dataset_path / "manifest.json", "01_data_prep"))
        return {"split_by_source": manifest.get("grouped_by_source", True)} | manifest  # its name in runs of 0.1

    # Arms

    def write_arm(self, arm: str, predictions: pd.DataFrame, metrics: dict, validation: pd.DataFrame) -> None:
        """Write `predictions.jsonl`, `metrics.json` and `validation.jsonl` (what choices rest on) of an arm."""
        folder = self.path / "arms" / arm
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / "predictions.jsonl", predictions)
        write_lines(folder / "validation.jsonl", validation)
        write_json(folder / "metrics.json", metrics)

    def read_arms(self) -> dict[str, tuple[pd.DataFrame, dict]]:
        """Read {arm: (predictions, metrics)}, the tuned arm last.

        Raises UserError where an arm was measured on other notes.
        """
        self.require(self.path / "arms" / "base", "02_baseline")
        self.require(self.path / "arms" / TUNED, "04_evaluate")
        names = sorted((folder.name for folder in (self.path / "arms").iterdir()), key=lambda arm: (arm == TUNED, arm))
        return {name: self.read_arm(name) for name in names}

    def read_arm(self, arm: str) -> tuple[pd.DataFrame, dict]:
        """Read predictions and metrics of an arm."""
        folder = self.path / "arms" / arm
        predictions, metrics = read_lines(folder / "predictions.jsonl"), read_json(folder / "metrics.json")
        if list(predictions["id"]) != list(self.read_part("test")["id"]):
            raise UserError(f"{folder} was measured on other test notes: run 02_baseline and 04_evaluate again")
        return predictions, metrics


def _for_the_owner_only(folder: Path) -> None:
    """Make a folder that nobody else on this machine can read, nor what this process writes from here on (POSIX)."""
    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _merged(old: dict, new: dict) -> dict:
    both = {name: _merged(old[name], new[name]) for name in old.keys() & new if isinstance(old[name], dict)}
    return old | new | both


def this_process() -> dict:
    """Identify this process by number and start, because numbers are used again."""
    return {"pid": os.getpid(), "started": psutil.Process().create_time()}


def _git_state() -> dict:
    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(PROJECT), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
            return done.stdout.strip()
        except (OSError, UnicodeDecodeError, subprocess.CalledProcessError):
            return None

    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def versions() -> dict[str, str]:
    """List the versions of Python, of this library's code and of every library that a result may depend on."""
    installed = {package: importlib.metadata.version(package) for package in RECORDED_PACKAGES}
    code = hash_files(*sorted((PROJECT / "lib" / "onelap").rglob("*.py")))
    return {"python": platform.python_version(), "onelap": code[:12], **installed}
