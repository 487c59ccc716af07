"""The same training in one process, in two, and in two that share the base; by gloo on the CPU."""

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from onelap import PROJECT, UserError
from onelap.lap.parameters import read_parameters
from onelap.lap.run import Run
from tests.conftest import TOY_WORDS, toy_notes

TOOLS = PROJECT / "tools"
sys.path.append(str(TOOLS))
from several_gpus import train_run  # noqa: E402

# Three trainings in one launch, because launching takes longer than training.
TRAININGS = """
import os, shutil, sys, time
from pathlib import Path

second = os.environ["RANK"] == "1"
if second:  # its clock is fast: by it, the hours are spent after one step
    monotonic, began = time.monotonic, time.monotonic()
    time.monotonic = lambda: began + 1e6 * (monotonic() - began)

import torch
import several_gpus
from onelap.lap.run import Run
from onelap.qlora.checkpoints import checkpoint_path, discard
from onelap.qlora.training import FINISHED

whole, shared = sys.argv[1:]
sys.argv = ["several_gpus", whole]
several_gpus.main()

run = Run(Path(shared))
frozen = [weight for weight in several_gpus.train_run(run, sharded=True).model.parameters() if not weight.requires_grad]
print("share", sum(weight.to_local().nbytes for weight in frozen) / sum(weight.nbytes for weight in frozen))
torch.distributed.barrier()

if second:
    shutil.copy(run.training_path / "log.jsonl", run.path)
    (run.training_path / FINISHED).unlink()
    discard(checkpoint_path(run.training_path, 6))
torch.distributed.barrier()
sys.argv = ["several_gpus", shared, "--shard"]
several_gpus.main()
"""


@pytest.fixture(scope="module")
def prepare(toy_base, tmp_path_factory):
    """A run folder in which everything is ready for a training of six steps."""
    folder = tmp_path_factory.mktemp("distributed")

    def prepare(name, **changed):
        run = Run.open(folder / name)
        notes = pd.DataFrame(toy_notes(64)).assign(id=[str(number) for number in range(64)])
        run.write_dataset(
            notes.assign(part=["train"] * 48 + ["validation"] * 8 + ["test"] * 8), {"kinds": sorted(TOY_WORDS)}
        )
        parameters, _ = read_parameters(None)
        parameters |= {"base_model": str(toy_base), "max_length": 160, "micro_batch_tokens": 320, "precision": "fp32"}
        parameters |= {"epochs": 1.0, "evaluations": 2} | changed
        run.params_path.write_text(yaml.safe_dump(parameters), encoding="utf-8")
        return run

    return prepare


@pytest.fixture(scope="module")
def launched(prepare):
    """A run that two processes trained, another in which they shared the base, and what was printed."""
    if sys.platform == "win32":
        pytest.skip("PyTorch has no NCCL there, and so several processes are refused")
    runs = prepare("whole"), prepare("shared", gradient_checkpointing=True)
    # `accelerate launch` calls this where there are several GPUs; on a CPU it starts one process only.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--no-python"]
    done = subprocess.run(
        [*command, sys.executable, "-c", TRAININGS, *(str(run.path) for run in runs)],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOOLS)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return *runs, done.stdout


def log_of(folder):
    return pd.read_json(folder / "log.jsonl", lines=True)


def assert_same_training(log, other, tolerance):
    for column in ("loss", "learning_rate", "gradient_norm", "validation_loss", "validation_macro_f1"):
        np.testing.assert_allclose(log[column].dropna(), other[column].dropna(), rtol=tolerance, err_msg=column)
    assert len(log["loss"].dropna()) == 6


def assert_same_adapter(run, other):
    learnt = load_file(run.adapter_path / "adapter_model.safetensors")
    for name, weight in load_file(other.adapter_path / "adapter_model.safetensors").items():
        np.testing.assert_allclose(learnt[name], weight, atol=1e-4, err_msg=name)


def test_two_processes_learn_what_one_learns(launched, prepare):
    whole, _, output = launched
    assert "6 steps by 2 processes" in output
    alone = prepare("alone")
    train_run(alone, sharded=False)
    assert_same_training(log_of(whole.training_path), log_of(alone.training_path), 2e-3)
    for run in (whole, alone):
        assert (run.adapter_path / "adapter_model.safetensors").exists()


def test_two_processes_with_a_sharded_base_hold_half_of_it_each_and_learn_the_same(launched):
    whole, shared, output = launched
    assert [float(share) for share in re.findall("share (.+)", output)] == pytest.approx([0.5, 0.5], abs=0.01)
    assert_same_training(log_of(shared.path), log_of(whole.training_path), 1e-4)


def test_training_with_a_sharded_base_is_resumed(launched):
    whole, shared, output = launched
    assert "Resuming from checkpoint-3." in output
    assert_same_training(log_of(shared.training_path), log_of(whole.training_path), 1e-4)
    assert_same_adapter(shared, whole)


def test_two_processes_stop_by_one_clock(launched):
    whole, *_ = launched
    assert len(log_of(whole.training_path)["loss"].dropna()) == 6


def test_training_that_cannot_be_shared_is_refused(prepare, monkeypatch):
    run = prepare("refused", effective_batch=6)
    with pytest.raises(UserError, match="--shard: expected several processes, found one"):
        train_run(run, sharded=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="expected --shard after the run, found Accelerate's --use_fsdp"):
        train_run(run, sharded=False)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="effective_batch: expected a multiple of 4 processes, found 6"):
        train_run(run, sharded=False)
