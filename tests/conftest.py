"""A toy base model, toy notes, and the real command line."""

import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes on two cores: a thread each, also for what they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib
import nbformat
import pytest
import yaml
from filelock import FileLock

from onelap.arms.prompts import LETTERS
from onelap.cli import main
from onelap.lap.history import list_runs
from onelap.machine import guard, process
from onelap.machine.store import read_json, write_json
from onelap.qlora.recipe import Recipe

TOY_RECIPE = Recipe(
    epochs=1.0,
    learning_rate=1e-3,
    effective_batch=8,
    micro_batch_tokens=640,
    lora_rank=4,
    lora_alpha=8,
    lora_dropout=0.05,
    gradient_checkpointing=False,
    evaluations=2,
    seed=0,
)
TOY_WORDS = {
    "knowledge": ["boils", "melts", "weighs", "spins", "contains", "measures", "conducts", "expands", "grams"],
    "lesson": ["burnt", "forgot", "broke", "spilled", "again", "sorry", "failed", "wished", "earlier", "checked"],
    "value": ["always", "never", "honest", "kind", "gently", "matters", "believe", "courage", "patience", "dignity"],
    "decision": ["decided", "chose", "instead", "because", "option", "rejected", "agreed", "from", "now", "switch"],
    "none": ["buy", "call", "milk", "dentist", "tuesday", "parcel", "pick", "up", "ticket", "later"],
}
JAPANESE = "決めた。来月から家計簿はやめて、月に一度だけ通帳を見る。理由は続かないから。"
CANARY = "Zwieselkraut embrangles the vespertine ostler"  # stands in some notes, and may stand nowhere else
# A process in a network of its own, whose only interface is the loopback one.
ALONE = [
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    sys.executable,
    "-c",
    """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x49))  # SIOCSIFFLAGS: up, loopback, running
os.execvp(sys.argv[1], sys.argv[1:])
""",
]
FILLER = ["the", "kettle", "garden", "bicycle", "window", "letter", "engine", "river", "bread", "table", "morning"]


def toy_notes(count: int, sources: int = 6) -> list[dict]:
    """Make notes of five kinds, each with words of its own, spread evenly over the sources; those of two are raw."""
    rng = random.Random(0)
    notes = []
    for number in range(count):
        kind, source = list(TOY_WORDS)[number % 5], number // 5 % sources
        words = rng.choices(TOY_WORDS[kind], k=6) + rng.choices(FILLER, k=rng.randint(4, 30))
        rng.shuffle(words)
        style = "raw" if source < 2 else "tidied"
        notes.append({"text": " ".join(words), "kind": kind, "source": f"s{source}", "style": style})
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
    words = " ".join(["a", *TOY_WORDS, *LETTERS])  # as in a real vocabulary, each has a token of its own after a space
    tokenizer = train_tokenizer([note["text"] for note in toy_notes(100)], [words] * 10)
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


def alone() -> list[str]:
    """Return `ALONE`, to be put before a command, where this system lets users make networks; else nothing."""
    try:
        works = subprocess.run([*ALONE, "true"], capture_output=True).returncode == 0
    except OSError:
        works = False
    return ALONE if works else []


def write_toy_params(folder: Path, base: Path) -> Path:
    """Write the parameter file of a lap that takes seconds: toy notes, toy base."""
    notes = toy_notes(150)
    rng = random.Random(0)
    for note in notes[::3]:  # so some are in every part; one word each, or they would be near-duplicates
        note["text"] += f" {rng.choice(CANARY.split()[::3])}"
    parameters = {
        "notes_path": str(write_jsonl(folder / "notes.jsonl", notes)),
        "base_model": str(base),
        "split_dir": str(folder / "splits"),
        "max_length": 192,
        "epochs": 1.0,
        "evaluations": 2,
        "checkpoint_minutes": 0.0,
        "test_share": 0.3,
        "precision": "fp32",  # so that probabilities are the same on any machine, and alone or among others
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(parameters), encoding="utf-8")
    return path


@pytest.fixture
def toy_params(tmp_path, toy_base) -> Path:
    """The parameter file of a lap that takes seconds."""
    return write_toy_params(tmp_path, toy_base)


@pytest.fixture(scope="session")
def lap(toy_base, tmp_path_factory):
    """A run folder, and the process that finished it; both are made once for all test processes.

    Nothing may be changed in the folder.
    """
    own = tmp_path_factory.getbasetemp()
    home = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "lap"
    with FileLock(f"{home}.lock"):
        if not (home / "end.json").exists():
            home.mkdir()
            result = make_lap(home, toy_base)
            write_json(home / "end.json", {"stdout": result.stdout, "stderr": result.stderr})
    return home / "outputs/toy", SimpleNamespace(**read_json(home / "end.json"))


def make_lap(home: Path, base: Path) -> subprocess.CompletedProcess:
    """Run a lap on the toy notes in a vault of hostile files, which is killed in training and resumed.

    It has no network where the system allows that, and home and temporary folders of its own beside the run folder.
    """
    params, vault = write_toy_params(home, base), write_hostile_vault(home / "vault")
    shutil.move(home / "notes.jsonl", vault)
    places = {"HOME": home / "home", "TMPDIR": home / "temporary"}
    for place in places.values():
        place.mkdir()
    environment = os.environ | {name: str(place) for name, place in places.items()}
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # where it keeps its fonts, which take time to find
    folder = home / "outputs/toy"
    command = [Path(sys.executable).with_name("onelap"), "run", params, "--run", folder, "-p", f"notes_path={vault}"]
    process = subprocess.Popen([*alone(), *command], stdout=subprocess.DEVNULL, env=environment)
    while not list(folder.glob("training/checkpoint-*/complete.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    (killed,) = list_runs(folder.parent).itertuples()
    assert killed.status == "killed"
    result = run_onelap("run", "--resume", folder, before=alone(), env=environment)
    assert result.returncode == 0, result.stderr
    return result


def write_hostile_vault(folder: Path) -> Path:
    """Write one of everything that a careless decade leaves in a folder."""
    content = {
        "good.md": b"---\nkind: lesson\n---\nAsk before cutting.",
        "crlf and spaces.txt": b"---\r\nkind: value\r\n---\r\nBe kind.\r\nAlways.",
        "cr.txt": b"---\rkind: value\r---\rOne.\rTwo.",
        "日本/メモ.md": ("---\nkind: knowledge\n---\n" + JAPANESE).encode("shift_jis"),
        "bom.md": b"\xef\xbb\xbf---\nkind: none\n---\nmilk",
        "wide.md": ("---\nkind: none\n---\n" + JAPANESE).encode("utf-16"),
        "long line.md": b"---\nkind: none\n---\n" + b"word " * 150_000,
        "rtl.md": "---\nkind: none\n---\nשלום עולם 👩‍🌾".encode(),
        "Lessons/filed.md": b"Filed by its folder.",
        "tagged.md": b"A #decision about gravel.",
        "broken but filed.md": b"---\nkind: [\n---\nStill #value.",
        "rows.jsonl": b'{"text": "a row", "kind": "none"}\n\n{"text": 3}\nnot json\n[1]\n',
        "table.csv": 'text;kind;source\n"two\nlines";value;me\nshort\n'.encode("utf-16"),
        "broken.md": b"---\nkind: [\n---\ntext",
        "unlabelled.md": b"No kind.",
        "undecided.md": b"#lesson and #value",
        "only its kind.md": b"---\nkind: lesson\n---\n# Lesson\n#lesson",
        "empty.md": b"",
        "blank.md": b"---\nkind: value\n---\n \n",
        "binary.md": b"\x00\x01\x02",
        "photo.png": b"\x89PNG",
        "no suffix": b"text",
        "huge.txt": b"x" * 1_000_001,
        ".hidden.md": b"---\nkind: lesson\n---\nhidden",
        ".obsidian/workspace.json": b"{}",
        ".obsidian/plugins/one.js": b"",
        "Templates/new.md": b"---\nkind: lesson\n---\n{{title}}",
        "_attachments/scan.txt": b"---\nkind: lesson\n---\nscan",
    }
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if hasattr(os, "mkfifo"):
        (folder / "dangling.md").symlink_to("nowhere")
        (folder / "loop").symlink_to(folder)
        (folder / "a link to below").symlink_to(folder / "日本")
        (folder / "too long.md").symlink_to("x" * 300)
        os.mkfifo(folder / "pipe.md")
        (folder / os.fsdecode(b"caf\xe9.md")).write_bytes(b"#value name in Latin-1")
    return folder


@pytest.fixture
def hostile_vault(tmp_path) -> Path:
    """A folder of hostile files."""
    return write_hostile_vault(tmp_path / "vault")


def run_onelap(*arguments: object, before: list[str] = (), **options) -> subprocess.CompletedProcess:
    """Run the installed command as a user would, and return the finished process."""
    command = [*before, str(Path(sys.executable).with_name("onelap")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=280, **options)


@pytest.fixture
def onelap():
    """`run_onelap`."""
    return run_onelap


@pytest.fixture
def complaint(capsys, monkeypatch):
    """Run the command in this process, which is quicker, and return the one line with which it refuses."""
    monkeypatch.setattr(guard, "close", lambda: None)  # it could not be opened again
    monkeypatch.setattr(guard, "attempts", list)  # those of other tests
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def call(*arguments: object) -> str:
        mask = os.umask(0o077)
        try:
            status = main([str(argument) for argument in arguments])
        finally:
            os.umask(mask)
        out, error = capsys.readouterr()
        assert out == "" or arguments[0] == "run", "only `run` first prints where it is going to write"
        assert status == 2 and error.startswith("onelap: ") and error.count("\n") == 1, error
        return error

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


def pytest_collection_modifyitems(items):
    """Let one process make the lap while the other runs tests that need none; so neither waits for it."""
    need_it = {item.path for item in items if "lap" in item.fixturenames}
    items.sort(key=lambda item: (item.path.name != "test_lap.py", item.path in need_it))


def pytest_collection_finish():
    gc.freeze()  # the libraries' hundreds of thousands of objects, which no garbage collection need visit


def pytest_configure():
    process.prepare()  # as the command does, but for the guard, which could not be opened again
    os.environ["PYTHONUTF8"] = "1"  # for kernels that the tests start
