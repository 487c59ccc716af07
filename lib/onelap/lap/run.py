"""The run folder and its record: one lap's inputs and results."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import yaml
from filelock import FileLock, Timeout

from onelap import PROJECT, UserError, find_path, require_utf8
from onelap.machine import gpus, guard, store
from onelap.machine.dates import notes_a_year
from onelap.machine.files import printable
from onelap.machine.names import normalize
from onelap.notes.fields import Fields
from onelap.notes.split import PARTS, SET_ASIDE, FrozenSplit
from onelap.verdict.compare import TUNED

if TYPE_CHECKING:  # these take time that a command without a model need not wait for
    from onelap.arms.prompts import Prompt
    from onelap.notes.vault import Reading
    from onelap.qlora.trainer import KindTrainer

RECORDED_PACKAGES = ["torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "papermill",
                     "scikit-learn", "pandas", "numpy", "scipy", "tokenizers", "safetensors"]  # fmt: skip
WEIGHTS = "adapter_model.safetensors"  # of the adapter
SORTER = "sorter.json"  # of an arm: its calibration, and the numbers of its model if it has any
LAP_BEGAN = "ONELAP_LAP_BEGAN"  # environment variable: `time.monotonic()` when the lap began, less its breaks


def now() -> str:
    """Tell the time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Run:
    """One run folder; raises UserError where its path is not UTF-8. Notebooks get theirs with `Run.open(run_dir)`."""

    def __init__(self, path: Path):
        self.opened = time.monotonic()
        self.path = path = require_utf8(path.absolute())  # kernels work elsewhere; executed notebooks are here
        self.params_path = path / "params.yaml"  # every parameter of every notebook, resolved; written first
        self.record_path = path / "run.json"  # status, times, versions, hashes; rewritten atomically
        self.seconds_path = path / ".seconds"  # of all sessions of the lap; a line is added while it runs
        self.dataset_path = path / "dataset"  # train.jsonl validation.jsonl test.jsonl
        self.manifest_path = self.dataset_path / "manifest.json"  # what was read, and how it was split
        self.arms_path = path / "arms"  # a folder an arm: predictions.jsonl metrics.json validation.jsonl
        self.training_path = path / "training"  # log.jsonl, checkpoints
        self.adapter_path = path / "adapter"  # the best adapter, safetensors
        self.comparison_path = path / "comparison.json"  # arms, pairs, verdict and the sentence that states it

    @classmethod
    def create(cls, params: str, parameters: dict, folder: Path | None) -> "Run":
        """Make `folder` or `<UTC yyyymmdd-hhmmss>_<params>`. Raises UserError if it holds a run or cannot be made."""
        stamp, params = datetime.now(UTC).strftime("%Y%m%d-%H%M%S"), printable(params)
        path = folder or PROJECT / "outputs" / f"{stamp}_{Path(params).stem}"[:60]  # names end at 255 bytes
        while folder is None and path.exists():  # two runs that begin in the same second
            path = path.with_name(path.name + "_")
        run = cls(path)
        if run.record_path.exists():
            raise UserError(f"{path} holds a run: continue it with `onelap run --resume {path}`, or name a new folder")
        try:
            _make_private(run.path)
            store.write_text(run.params_path, yaml.safe_dump(parameters, allow_unicode=True, sort_keys=False))
        except OSError as error:
            raise UserError(f"{path}: the run folder cannot be written: {error}") from None
        predicted = dict.fromkeys(("training_seconds", "vram_gb"))
        actual = dict.fromkeys(("seconds", "training_seconds", "peak_memory_gb"))
        run.update(params=params, notebooks={}, predicted=predicted, actual=actual, **_circumstances("running"))
        return run

    @classmethod
    def open(cls, run_dir: str | Path) -> "Run":
        """Open the run folder of a notebook; it is made where it is missing, for a notebook that is run by hand."""
        run = cls(find_path(run_dir))
        _make_private(run.path)
        guard.record_in(run.path)
        if not run.record_path.exists():
            run.update(**_circumstances("by hand"))
        return run

    @property
    def parameters(self) -> dict:
        """The content of params.yaml, if any, without the run folder, which may have moved. Raises UserError."""
        stored = store.read_yaml(self.params_path) if self.params_path.exists() else {}
        return {name: value for name, value in stored.items() if name != "run_dir"}

    @property
    def scoring(self) -> dict:
        """`base_model, max_length, score_batch`: how 02_baseline scored notes. Raises UserError before that."""
        if "scoring" not in self.record:
            raise UserError(f"{self.path}: expected a run whose 02_baseline is done, found one that is not")
        return self.record["scoring"]

    @property
    def record(self) -> dict:
        """The content of run.json."""
        return store.read_json(self.record_path) if self.record_path.exists() else {}

    def locked(self) -> AbstractContextManager:
        """Keep other `onelap run` processes out, until the lock is released or its process dies. Raises UserError."""
        try:
            return FileLock(self.path / ".lock").acquire(timeout=0.2)  # a list of runs may hold it for a moment
        except Timeout:
            number = self.record.get("process", {}).get("pid", "unknown")
            raise UserError(f"{self.path}: process {number} is at work there; let it end, or end it") from None

    def update(self, **changes: object) -> None:
        """Change entries of run.json; a dictionary is merged into the one that is there."""
        store.write_json(self.record_path, _merged(self.record, changes))

    def begin_session(self) -> None:
        """Go to work: the lap's seconds, in this process and its kernels, follow those of earlier sessions."""
        spent = max(store.read_whole_lines(self.seconds_path), default=0.0)
        store.write_text(self.seconds_path, f"{spent}\n")
        os.environ[LAP_BEGAN] = str(time.monotonic() - spent)
        self.update(status="running", error=None, process={"pid": os.getpid()})

    @property
    def seconds(self) -> float:
        """Seconds of the lap in all its sessions, by a clock that nobody sets; by hand, those since this was opened."""
        return round(time.monotonic() - float(os.environ.get(LAP_BEGAN, self.opened)), 1)

    def keep_seconds(self) -> None:
        """Store the lap's seconds so far: should this process be killed, the next session goes on from there."""
        with suppress(OSError), self.seconds_path.open("a", encoding="utf-8") as file:  # a full disk is met elsewhere
            file.write(f"{self.seconds}\n")

    def seconds_left(self, hours: float, reserve: float) -> float:
        """Compute what is left of a budget for the whole lap, less a reserve for what follows; never negative."""
        return max(0.0, 3600 * hours - self.seconds - reserve)

    def require(self, path: Path, notebook: str) -> Path:
        """Return the path. Raises UserError, naming the notebook that makes it, where it is missing."""
        if not path.exists():
            missing = path.relative_to(self.path)
            raise UserError(f"{missing} is missing in {self.path}: run {notebook} with this run_dir first")
        return path

    def clear(self, *paths: Path) -> None:
        """Remove what an earlier execution of a notebook left, so that nothing stale is read."""
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    # Dataset

    def write_inventory(self, reading: "Reading", fields: Fields, counts: dict[str, int], are_samples: bool) -> None:
        """Write the manifest's first part, what was read: it is there should the notes be refused later."""
        every = pd.concat([reading.notes, reading.unlabelled])
        encodings = reading.notes.groupby("encoding")["id"].apply(list).drop("utf-8", errors="ignore")
        inventory = {
            "sample_notes": are_samples,
            "found": counts,
            "skipped": reading.skipped.to_dict(orient="records"),
            "encodings": encodings.to_dict(),
            "taken_out": dict(reading.removed),
            "fields": dataclasses.asdict(fields),
            "notes_a_year": notes_a_year(every["written"], every["modified"]),
        }
        store.write_json(self.manifest_path, inventory)

    def write_split(
        self, split: pd.DataFrame, frozen: FrozenSplit, reading: "Reading", copies: pd.DataFrame, alike: pd.DataFrame
    ) -> None:
        """Write parts and manifest of what `split_notes`, `drop_duplicates` and `near_duplicates` (alike) returned."""
        counts = split.groupby(["part", "kind"]).size().unstack(fill_value=0).reindex(PARTS, fill_value=0)
        manifest = store.read_json(self.manifest_path) | {
            "kinds": list(counts.columns),
            "notes": counts.to_dict(orient="index"),
            "sources": {part: sorted(split.loc[split["part"] == part, "source"].unique()) for part in PARTS},
            "split_by_source": frozen.by_source,
            "split": str(frozen.path),
            "set_aside": split.loc[split["part"] == SET_ASIDE, "id"].tolist(),
            "duplicates": copies.to_dict(orient="records"),
            "near_duplicates": alike[["id", "like", "shared", "same_kind"]].to_dict(orient="records"),
        }
        self.write_dataset(split, manifest)
        self.update(hashes={"notes": reading.digest})

    def write_dataset(self, notes: pd.DataFrame, manifest: dict) -> None:
        """Write `manifest` and the parts (column `part`): lines of `id, text, kind, source`, and `style` if known."""
        columns = ["id", "text", "kind", "source", *(["style"] if notes["style"].any() else [])]
        files = {part: self.dataset_path / f"{part}.jsonl" for part in PARTS}
        for part, file in files.items():
            store.write_lines(file, notes.loc[notes["part"] == part, columns].to_dict("records"))
        store.write_json(self.manifest_path, manifest)
        digest = store.hash_files(*files.values())
        if self.record.get("hashes", {}).get("data") not in (None, digest):
            # Results of other notes must not be read as if they were of these.
            self.clear(self.arms_path, self.training_path, self.adapter_path, self.comparison_path)
        parts = json.dumps({part: sorted(notes.loc[notes["part"] == part, "id"]) for part in PARTS})
        self.update(hashes={"data": digest, "split": hashlib.sha256(parts.encode()).hexdigest()})

    def read_part(self, part: str) -> pd.DataFrame:
        """Read columns `id, text, kind, source, cluster` of one part, and `style` where it is known of any note.

        Notes of one `cluster` are not independent: those of one source, unless the split went by note.
        """
        notes = pd.DataFrame(store.read_lines(self.require(self.dataset_path / f"{part}.jsonl", "01_data_prep")))
        known = (notes["source"] != "") & self.read_manifest()["split_by_source"]
        return notes.assign(cluster=("source " + notes["source"].map(normalize)).where(known, "note " + notes["id"]))

    def read_manifest(self) -> dict:
        """Read the description of the dataset: kinds, counts, skipped files."""
        return {"split_by_source": True} | store.read_json(self.require(self.manifest_path, "01_data_prep"))

    def may_show_text(self, show_text: bool) -> bool:
        """Tell whether notebooks may show the text of notes: where the parameter says so, and of the sample notes."""
        return show_text or self.read_manifest().get("sample_notes", False)

    def read_test_texts(self, show_text: bool) -> pd.Series | None:
        """Read the texts of the test notes, by id; None where notebooks may not show them."""
        return self.read_part("test").set_index("id")["text"] if self.may_show_text(show_text) else None

    # Arms

    def clear_baselines(self) -> None:
        """Remove all arms but the tuned one, which another notebook makes."""
        self.clear(*(folder for folder in self.arms_path.glob("*") if folder.name != TUNED))

    def record_baselines(
        self, base: Path, prompts: dict[str, "Prompt | str"], embedding_model: Path | None, scoring: dict
    ) -> None:
        """Record `scoring`, and hashes of the base, of each arm's prompt, and of an embedding model if there is one."""
        digests = {
            arm: hashlib.sha256(prompt.encode()).hexdigest() if isinstance(prompt, str) else prompt.digest
            for arm, prompt in prompts.items()
        }
        embeddings = {"embeddings": store.hash_files(embedding_model)} if embedding_model else {}
        hashes = {"base": store.hash_files(base), "prompts": digests} | embeddings
        self.update(base_stamp=store.stamp_files(base), hashes=hashes, scoring=scoring)

    def write_arm(
        self, arm: str, predictions: pd.DataFrame, metrics: dict, validation: pd.DataFrame, sorter: dict
    ) -> None:
        """Write `predictions.jsonl`, `metrics.json`, `validation.jsonl` (what choices rest on) and `sorter.json`."""
        folder = self.arms_path / arm
        store.write_lines(folder / "predictions.jsonl", predictions.to_dict("records"))
        store.write_lines(folder / "validation.jsonl", validation.to_dict("records"))
        store.write_json(folder / "metrics.json", metrics)
        store.write_json(folder / SORTER, sorter)
        self.update(hashes={"sorters": {arm: store.hash_files(folder / SORTER)}})

    def read_sorter(self, arm: str) -> dict:
        """Read calibration and model of an arm, as it sorts notes. Raises UserError where they are others."""
        file = self.require(self.arms_path / arm / SORTER, "02_baseline and 04_evaluate")
        self._require_own(file, self.record["hashes"].get("sorters", {}).get(arm))
        return store.read_json(file)

    def own_adapter(self) -> Path:
        """Return the adapter's folder. Raises UserError where its weights are missing or not the run's."""
        self._require_own(self.adapter_path / WEIGHTS, self.record["hashes"].get("adapter"))
        return self.adapter_path

    def _require_own(self, file: Path, digest: str | None) -> None:
        """Check a file that sorts notes. Raises UserError where it is missing or does not have this SHA-256."""
        if store.hash_files(self.require(file, "03_train and 04_evaluate")) != digest:
            raise UserError(
                f"{file}: expected the file that the run has made, found a damaged or another one; "
                f"`onelap run --resume {self.path}` makes it again"
            )

    def read_arms(self) -> dict[str, tuple[pd.DataFrame, dict]]:
        """Read {arm: (predictions, metrics)}, the tuned arm last. Raises UserError where one has other test notes."""
        self.require(self.arms_path / "base", "02_baseline")
        self.require(self.arms_path / TUNED, "04_evaluate")
        names = sorted((folder.name for folder in self.arms_path.iterdir()), key=lambda arm: (arm == TUNED, arm))
        return {name: self.read_arm(name) for name in names}

    def read_arm(self, arm: str) -> tuple[pd.DataFrame, dict]:
        """Read predictions and metrics of an arm."""
        folder = self.arms_path / arm
        predictions = pd.DataFrame(store.read_lines(folder / "predictions.jsonl"))
        if list(predictions["id"]) != list(self.read_part("test")["id"]):
            raise UserError(f"{folder} was measured on other test notes: run 02_baseline and 04_evaluate again")
        return predictions, store.read_json(folder / "metrics.json")

    def write_comparison(
        self, metrics: dict, pairs: list[dict], by_kind: dict, by_style: dict, winner: str, sentence: str
    ) -> None:
        """Write `comparison.json`; the first two pairs are with the best untuned and with the best cheap arm."""
        tuned, cheap = pairs[:2]
        comparison = {"arms": metrics, "by_style": by_style, "by_kind": by_kind, "pairs": pairs}
        comparison |= {"before": tuned["a"], "rival": cheap["a"], "winner": winner}
        comparison |= {"verdict": tuned["verdict"], "verdict_against_rival": cheap["verdict"], "sentence": sentence}
        store.write_json(self.comparison_path, comparison)

    @property
    def winner(self) -> str:
        """The arm that did best on the validation notes, and sorts new ones. Raises UserError before 05_compare."""
        comparison = store.read_json(self.require(self.comparison_path, "05_compare"))
        if "winner" not in comparison:
            raise UserError(f"{self.path.name} is of an earlier version, which named no winner; make a new run")
        return comparison["winner"]

    # Training

    def record_training(self, trainer: "KindTrainer", log: pd.DataFrame) -> None:
        """Record what a finished training took, how it ended, and hashes of its adapter and its prompt."""
        adapter = store.hash_files(self.adapter_path / WEIGHTS)
        seconds, memory = float(log["elapsed_seconds"].max()), float(log["memory_gb"].max())
        ended_by = "time_budget_hours" if trainer.state.global_step < trainer.state.max_steps else "epochs"
        self.update(rungs=trainer.rungs, precision=trainer.precision.choice, training_ended_by=ended_by)
        self.update(hashes={"adapter": adapter, "prompts": {TUNED: trainer.prompt.digest}})
        self.update(actual={"training_seconds": seconds, "peak_memory_gb": memory})

    def read_training_log(self) -> pd.DataFrame:
        """Read training/log.jsonl up to its last whole line, also while it is written; empty before the first one."""
        return pd.DataFrame(store.read_whole_lines(self.training_path / "log.jsonl"))

    def prepare_seeds(self, seeds: Iterable[int]) -> dict[int, Path]:
        """Return {seed: folder} of trainings with other seeds; those of seeds that are no longer wanted are removed."""
        folders = {seed: self.training_path / f"seed_{seed}" for seed in seeds}
        self.clear(*set(self.training_path.glob("seed_*")).difference(folders.values()))
        return folders


def _make_private(folder: Path) -> None:
    """Make a folder that only its owner can read, like everything that this process writes from here on (POSIX)."""
    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _merged(old: dict, new: dict) -> dict:
    both = {name: _merged(old[name], new[name]) for name in old.keys() & new if isinstance(old[name], dict)}
    return old | new | both


def _circumstances(status: str) -> dict:
    """Describe what a run starts from: time, code, versions and hardware; its hashes are still to come."""
    machine = {"versions": versions(), "hardware": gpus.describe()}
    return {"status": status, "started": now(), "git": _git_state(), **machine, "hashes": {}}


def _git_state() -> dict:
    """The commit of this code, and whether it is changed; both None where git cannot tell."""
    command = ["git", "-C", str(PROJECT), "status", "--porcelain=2", "--branch"]
    try:
        lines = subprocess.check_output(command, stderr=subprocess.DEVNULL, encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": lines[0].removeprefix("# branch.oid "), "dirty": any(line[0] != "#" for line in lines)}


def versions() -> dict[str, str]:
    """List the versions of Python, of this library's code and of every library that a result may depend on."""
    installed = {package: importlib.metadata.version(package) for package in RECORDED_PACKAGES}
    code = store.hash_files(*sorted((PROJECT / "lib" / "onelap").rglob("*.py")))
    return {"python": platform.python_version(), "onelap": code[:12], **installed}
