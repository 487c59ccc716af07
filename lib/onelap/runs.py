"""The run folder: one lap's inputs, results and record.

params.yaml            every parameter of every notebook, resolved; written first
run.json               how things stand; rewritten atomically
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

from onelap import PROJECT, UserError, find_path, guard, machine
from onelap.markup import normalize

PARTS = ["train", "validation", "test"]
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
    """UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, content: object) -> None:
    """The content as JSON, atomically."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> dict:
    """Raises UserError where the file is no whole JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a JSON file, could not read it: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found a {type(content).__name__}")
    return content


def read_yaml(path: Path) -> dict:
    """Raises UserError where the file is no YAML of lines `name: value`; an empty one holds nothing."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a YAML file in UTF-8, could not read it: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected lines `name: value`, found a {type(content).__name__}")
    return content


def hash_files(*paths: Path) -> str:
    """SHA-256 over the contents of the files, and of all files in the folders, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def stamp_files(folder: Path) -> str:
    """Names, sizes and times of the files in a folder: what changes when a file does, without reading any."""
    seen = [(path.relative_to(folder).as_posix(), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return json.dumps([[name, state.st_size, state.st_mtime_ns] for name, state in seen])


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
            run.params_path.write_text(text, encoding="utf-8", newline="\n")
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
            hardware=machine.describe(),
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
                hardware=machine.describe(),
                hashes={},
            )
        return run

    @property
    def parameters(self) -> dict:
        """What params.yaml says, but for the run folder, which may have been moved since; empty where there is none.

        Raises UserError for a damaged file.
        """
        found = read_yaml(self.params_path) if self.params_path.exists() else {}
        return {name: value for name, value in found.items() if name != "run_dir"}

    @property
    def asked(self) -> dict:
        """`base_model, max_length, score_batch`: how 04_evaluate asked the adapter. Raises UserError before that."""
        found = self.record.get("asked")
        if not found:
            raise UserError(
                f"{self.path}: expected a run whose 04_evaluate is done, found none, or one of an earlier version; "
                "`onelap run` makes a new one"
            )
        return found

    @property
    def record(self) -> dict:
        """The content of run.json."""
        return read_json(self.record_path) if self.record_path.exists() else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For one `onelap run` alone; the system takes the lock back from a process that dies.

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
        """Of a budget for the whole lap, when this much is kept for what follows; never negative."""
        record = self.record
        session = datetime.now(UTC) - datetime.fromisoformat(record["session_started"])
        spent = record["spent_seconds"] + session.total_seconds()
        return max(0.0, 3600 * hours - spent - reserve)

    def require(self, path: Path, notebook: str) -> Path:
        """The path, or a UserError that names the notebook which makes it."""
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

        `texture` is a fifth column where it is known of any note.
        """
        self.dataset_path.mkdir(exist_ok=True)
        columns = ["id", "text", "kind", "source", *(["texture"] if notes["texture"].any() else [])]
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
        """Columns `id, text, kind, source, cluster` of one part, and `texture` where it is known of any note.

        Notes of one `cluster` are not independent: those of one source, unless the split went by note.
        """
        notes = read_lines(self.require(self.dataset_path / f"{part}.jsonl", "01_data_prep"))
        known = (notes["source"] != "") & self.read_manifest().get("grouped_by_source", True)
        return notes.assign(cluster=("source " + notes["source"].map(normalize)).where(known, "note " + notes["id"]))

    def read_manifest(self) -> dict:
        """What 01_data_prep says of the dataset: kinds, counts, skipped files."""
        return read_json(self.require(self.dataset_path / "manifest.json", "01_data_prep"))

    # Arms

    def write_arm(self, arm: str, predictions: pd.DataFrame, metrics: dict, validation: pd.DataFrame) -> None:
        """Write `arms/<arm>/predictions.jsonl`, `metrics.json` and `validation.jsonl`: what choices rest on."""
        folder = self.path / "arms" / arm
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / "predictions.jsonl", predictions)
        write_lines(folder / "validation.jsonl", validation)
        write_json(folder / "metrics.json", metrics)

    def read_arms(self) -> dict[str, tuple[pd.DataFrame, dict]]:
        """{arm: (predictions, metrics)}, `qlora` last. Raises UserError where an arm was measured on other notes."""
        self.require(self.path / "arms" / "base", "02_baseline")
        self.require(self.path / "arms" / "qlora", "04_evaluate")
        names = sorted(
            (folder.name for folder in (self.path / "arms").iterdir()), key=lambda arm: (arm == "qlora", arm)
        )
        return {name: self.read_arm(name) for name in names}

    def read_arm(self, arm: str) -> tuple[pd.DataFrame, dict]:
        """Predictions and metrics of an arm."""
        folder = self.path / "arms" / arm
        predictions, metrics = read_lines(folder / "predictions.jsonl"), read_json(folder / "metrics.json")
        if list(predictions["id"]) != list(self.read_part("test")["id"]):
            raise UserError(f"{folder} was measured on other test notes: run 02_baseline and 04_evaluate again")
        return predictions, metrics


def _for_the_owner_only(folder: Path) -> None:
    """A folder, and what this process and its children make from here on: nobody else here can read it (POSIX)."""
    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _merged(old: dict, new: dict) -> dict:
    both = {name: _merged(old[name], new[name]) for name in old.keys() & new if isinstance(old[name], dict)}
    return old | new | both


def write_lines(path: Path, table: pd.DataFrame) -> None:
    """A table as JSON lines in UTF-8, one row a line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in table.to_dict(orient="records"):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> pd.DataFrame:
    """The table of `write_lines`. Raises UserError for a damaged file."""
    try:
        with path.open(encoding="utf-8") as file:
            return pd.DataFrame([json.loads(line) for line in file])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected JSON lines, could not read them: {error}") from None


def this_process() -> dict:
    """Number and start, since numbers are used again."""
    return {"pid": os.getpid(), "started": psutil.Process().create_time()}


def _git_state() -> dict:
    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(PROJECT), *arguments]
            found = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
            return found.stdout.strip()
        except (OSError, UnicodeDecodeError, subprocess.CalledProcessError):
            return None

    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def versions() -> dict[str, str]:
    """Of Python and of every library that a result may depend on."""
    installed = {package: importlib.metadata.version(package) for package in RECORDED_PACKAGES}
    code = hash_files(*sorted((PROJECT / "lib" / "onelap").glob("*.py")))
    return {"python": platform.python_version(), "onelap": code[:12], **installed}
