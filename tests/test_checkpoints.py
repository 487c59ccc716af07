"""Training that stops anywhere, and resumes as if it had not."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest
import torch
from filelock import FileLock
from transformers import TrainerCallback

from onelap import UserError
from onelap.arms.base import load_tokenizer
from onelap.arms.prompts import build_prompt
from onelap.machine import tensors
from onelap.machine.precision import choose_precision
from onelap.qlora import checkpoints
from onelap.qlora.training import prepare_trainer, train
from tests.conftest import TOY_RECIPE, TOY_WORDS, toy_notes


class Stop(TrainerCallback):
    """Stops the machine at a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def build(toy_base):
    """A function that makes a trainer of 10 steps in two epochs: validation every third step, checkpoints at each."""
    notes = pd.DataFrame(toy_notes(48))
    prompt = build_prompt(load_tokenizer(toy_base), sorted(TOY_WORDS), 160)

    def build(folder, **changes):
        recipe = replace(TOY_RECIPE, epochs=2.0, evaluations=4, checkpoint_minutes=0.0, **changes)
        return prepare_trainer(toy_base, prompt, choose_precision(), recipe, notes[:40], notes[40:], folder)

    return build


@pytest.fixture
def make(build, tmp_path):
    """`build`, in a folder of this test."""
    return lambda folder, **changes: build(tmp_path / folder, **changes)


@pytest.fixture(scope="module")
def whole(build, tmp_path_factory):
    """The folder of an adapter that was trained without a stop, and its log."""
    folder = tmp_path_factory.mktemp("whole")
    return folder / "adapter", train(build(folder / "training"), folder / "adapter", 600)


@pytest.fixture(scope="module")
def training_stopped_at_7(build, tmp_path_factory):
    """The folder of a training that was stopped at its fourth step, resumed, and stopped at its seventh."""
    folder = tmp_path_factory.mktemp("stopped")
    for step in (4, 7):
        train_until(step, build(folder / "training"), folder / "adapter")
    return folder / "training"


def train_until(step, trainer, adapter):
    """Train until the machine stops at this step."""
    trainer.add_callback(Stop(step))
    with pytest.raises(KeyboardInterrupt):
        train(trainer, adapter, 600)


def adapter_bytes(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def test_training_resumed_three_times_ends_with_the_same_adapter_bit_for_bit(make, whole, tmp_path, capsys):
    for step in (2, 5, 7):  # in the first epoch, at its end, in the second
        train_until(step, make("parts"), tmp_path / "b")
    parts = train(make("parts"), tmp_path / "b", 600)
    assert re.findall(r"Resuming from checkpoint-(\d+)\.", capsys.readouterr().out) == ["2", "5", "7"]
    assert adapter_bytes(whole[0]) == adapter_bytes(tmp_path / "b")
    columns = ["step", "epoch", "loss", "learning_rate", "gradient_norm", "validation_loss", "validation_macro_f1"]
    pd.testing.assert_frame_equal(whole[1][columns], parts[columns])
    assert parts["elapsed_seconds"].is_monotonic_increasing


def test_finished_training_is_not_repeated(make, whole, tmp_path, capsys):
    shutil.copytree(whole[0].with_name("training"), tmp_path / "t")
    log = (tmp_path / "t/log.jsonl").read_bytes()
    train(make("t"), tmp_path / "b", 600)
    assert "Resuming from checkpoint-10." in capsys.readouterr().out
    assert adapter_bytes(whole[0]) == adapter_bytes(tmp_path / "b")
    assert (tmp_path / "t/log.jsonl").read_bytes() == log


@pytest.mark.parametrize("damage", ["marker", "truncated", "tampered", "gone"])
def test_damaged_checkpoint_is_skipped(make, whole, training_stopped_at_7, tmp_path, capsys, damage):
    shutil.copytree(training_stopped_at_7, tmp_path / "t")
    steps = sorted(checkpoints.list_checkpoints(tmp_path / "t"))
    assert steps[-1] == 7 and len(steps) <= 2, "only the newest and the best so far are kept"
    newest = tmp_path / "t/checkpoint-7"
    if damage == "marker":
        (newest / "complete.json").unlink()
    elif damage == "truncated":
        state = newest / "state.safetensors"
        state.write_bytes(state.read_bytes()[:1000])
    elif damage == "tampered":
        state = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))
        (newest / "trainer_state.json").write_text(json.dumps(state | {"global_step": 1}), encoding="utf-8")
    else:
        (newest / "adapter_model.safetensors").unlink()
    train(make("t"), tmp_path / "b", 600)
    assert re.search(r"checkpoint-7 is skipped: checkpoint-7", capsys.readouterr().out)
    assert adapter_bytes(whole[0]) == adapter_bytes(tmp_path / "b")


def test_checkpoint_of_another_training_is_removed(make, tmp_path, capsys):
    train_until(3, make("t"), tmp_path / "a")
    train(make("t", learning_rate=5e-4), tmp_path / "a", 600)
    assert "The checkpoints here are of another training (recipe): removed." in capsys.readouterr().out
    train(make("other", learning_rate=5e-4), tmp_path / "b", 600)
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "b")


def test_moved_training_resumes_with_its_best_adapter(make, whole, tmp_path):
    train_until(7, make("here"), tmp_path / "b")
    (tmp_path / "here").rename(tmp_path / "there")
    train(make("there"), tmp_path / "b", 600)
    assert adapter_bytes(whole[0]) == adapter_bytes(tmp_path / "b")


def test_training_ended_by_its_budget_is_not_resumed(make, tmp_path):
    train(make("t"), tmp_path / "a", 0)
    trainer = make("t")
    train(trainer, tmp_path / "b", 600)
    assert trainer.state.global_step == 1
    assert adapter_bytes(tmp_path / "a") == adapter_bytes(tmp_path / "b")


def test_resumed_training_keeps_the_smaller_settings(make, tmp_path):
    trainer = make("t")
    trainer._descend([torch.zeros(100)] * 8)
    train_until(2, trainer, tmp_path / "a")
    resumed = make("t")
    train(resumed, tmp_path / "a", 600)
    assert resumed.rungs == trainer.rungs == [f"micro_batch_tokens={trainer.tokens}"]
    assert resumed.tokens == trainer.tokens < make("other").tokens


def test_folders_with_other_names_are_left_alone(make, tmp_path):
    for name in ("checkpoint-2 (copy)", "checkpoint-best"):
        (tmp_path / "t" / name).mkdir(parents=True)
    train_until(3, make("t"), tmp_path / "a")
    train(make("t"), tmp_path / "a", 600)
    assert (tmp_path / "t/checkpoint-2 (copy)").exists() and (tmp_path / "t/checkpoint-best").exists()


def test_second_training_in_one_folder_is_refused(make, tmp_path, monkeypatch):
    monkeypatch.setattr("onelap.qlora.training.LOCK_SECONDS", 0.2)
    trainer = make("t")
    (tmp_path / "t").mkdir(exist_ok=True)
    with (
        FileLock(tmp_path / "t/.lock"),
        pytest.raises(UserError, match="another process is training there; wait for it or end it"),
    ):
        train(trainer, tmp_path / "a", 600)


def test_full_disk_loses_no_complete_checkpoint(make, whole, tmp_path):
    """A file system of 3 MB fills up while a checkpoint is written; later there is room again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        train_until(3, make("disk/t"), tmp_path / "b")
        filler = disk / "filler"
        used = sum(path.stat().st_size for path in disk.rglob("*") if path.is_file())
        filler.write_bytes(b"x" * (3 * 2**20 - used - 100_000))
        with pytest.raises(Exception, match="No space left"):
            train(make("disk/t"), tmp_path / "b", 600)
        filler.unlink()
        assert checkpoints.newest_complete(disk / "t")[0].name == "checkpoint-3"
        train(make("disk/t"), tmp_path / "b", 600)
        assert adapter_bytes(whole[0]) == adapter_bytes(tmp_path / "b")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_checkpoint_holds_json_and_safetensors_only(make, tmp_path):
    train_until(1, make("t"), tmp_path / "a")
    assert {path.suffix for path in (tmp_path / "t/checkpoint-1").iterdir()} == {".json", ".safetensors"}


def test_state_is_read_as_it_was_written(tmp_path):
    shared = torch.arange(4.0)
    state = {
        "groups": [{"betas": [0.9, 0.95], "params": [0, 1]}],
        "state": {"0": {"step": torch.tensor(3.0), "map": shared}, "1": {"map": shared[1:]}},
        "none": None,
    }
    tensors.write_state(tmp_path, state)
    copy = tensors.read_state(tmp_path)
    assert copy["groups"] == state["groups"] and copy["none"] is None
    assert torch.equal(copy["state"]["1"]["map"], shared[1:]) and copy["state"]["0"]["step"] == 3


def test_random_numbers_continue_from_their_stored_state(tmp_path):
    def draw():
        return torch.rand(1).item()

    tensors.write_state(tmp_path, tensors.random_state())
    expected = draw()
    tensors.set_random_state(tensors.read_state(tmp_path))
    assert draw() == expected
