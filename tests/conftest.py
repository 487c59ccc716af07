"""A toy base model, toy notes, and the real command line."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

TOY_WORDS = {
    "knowledge": ["boils", "melts", "weighs", "spins", "contains", "measures", "conducts", "expands", "grams"],
    "lesson": ["burnt", "forgot", "broke", "spilled", "again", "sorry", "failed", "wished", "earlier", "checked"],
    "none": ["buy", "call", "milk", "dentist", "tuesday", "parcel", "pick", "up", "ticket", "later"],
}
FILLER = ["the", "kettle", "garden", "bicycle", "window", "letter", "engine", "river", "bread", "table", "morning"]


def toy_notes(count: int, sources: int = 6) -> list[dict]:
    """Notes of three kinds with words of their own, spread evenly over the sources."""
    rng = random.Random(0)
    notes = []
    for number in range(count):
        kind = list(TOY_WORDS)[number % 3]
        words = rng.choices(TOY_WORDS[kind], k=6) + rng.choices(FILLER, k=rng.randint(4, 30))
        rng.shuffle(words)
        notes.append({"text": " ".join(words), "kind": kind, "source": f"s{number // 3 % sources}"})
    return notes


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory) -> Path:
    """A Qwen2 of two layers with random weights and a byte-level tokenizer, as a model folder."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tools.make_base import train_tokenizer

    folder = tmp_path_factory.mktemp("toy_base")
    tokenizer = train_tokenizer([note["text"] for note in toy_notes(60)], [])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def toy_params(tmp_path, toy_base) -> Path:
    """A parameter file for a lap of seconds: toy notes, toy base."""
    parameters = {
        "notes_path": str(write_jsonl(tmp_path / "notes.jsonl", toy_notes(90))),
        "base_model": str(toy_base),
        "split_dir": str(tmp_path / "splits"),
        "max_length": 192,
        "epochs": 1.0,
        "evaluations": 2,
        "test_share": 0.3,
    }
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(parameters), encoding="utf-8")
    return path


@pytest.fixture
def onelap():
    """The installed command, run as a user would: returns the finished process."""

    def call(*arguments: object, **options) -> subprocess.CompletedProcess:
        command = [str(Path(sys.executable).with_name("onelap")), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=280, **options)

    return call


@pytest.fixture
def notebook(tmp_path):
    """Write a small notebook with the given code cells; returns its path."""

    def write(name: str, *cells: str) -> Path:
        node = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        node.cells[0].metadata["tags"] = ["parameters"]
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(node, path)
        return path

    return write


def pytest_configure():
    # Kernels started by the tests find this environment's packages, and no hub.
    os.environ["PYTHONUTF8"] = "1"
