"""The same training in one process, in two, and in two that share the base; by gloo on the CPU."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from onelap import UserError
from onelap.checkpoints import checkpoint_path, discard
from onelap.parameters import read_parameters
from onelap.runs import Run
from onelap.train import train_run
from onelap.training import ENDED
from tests.conftest import TOY_WORDS, toy_notes

SHARE_OF_THE_BASE = """
import os, sys, time
from pathlib import Path

if os.environ["RANK"] == "1":  # its clock runs away: by it, the hours are spent after one step
    monotonic, began = time.monotonic, time.monotonic()
    time.monotonic = lambda: began + 1e6 * (monotonic() - began)

from onelap.runs import Run
from onelap.train import train_run

frozen = [weight for weight in train_run(Run(Path(sys.argv[1])), True).model.parameters() if not weight.requires_grad]
print("share", sum(weight.to_local().nbytes for weight in frozen) / sum(weight.nbytes for weight in frozen))
"""


@pytest.fixture(scope="module")
def prepare(toy_base, tmp_path_factory):
    """A run folder in which everything is ready for a training of six steps."""
    folder = tmp_path_factory.mktemp("distributed")

    def prepare(name, **changed):
        run = Run.open(folder / name)
        notes = pd.DataFrame(toy_notes(60)).assign(id=[str(number) for number in range(60)])
        run.write_dataset(
            notes.assign(part=["train"] * 44 + ["validation"] * 8 + ["test"] * 8), {"kinds": sorted(TOY_WORDS)}
        )
        parameters, _ = read_parameters(None)
        parameters |= {"base_model": str(toy_base), "max_length": 160, "lora_dropout": 0.0, "micro_batch": 2}
        parameters |= {"epochs": 1.0, "evaluations": 2} | changed
        run.params_path.write_text(yaml.safe_dump(parameters), encoding="utf-8")
        return run

    return prepare


def launch(run, processes, *program):
    """Train it with this many processes; what was printed, and the log."""
    # What `accelerate launch` calls where there are several cards; it starts one process only on a CPU.
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--no-python"]
    done = subprocess.run(
        [*command, sys.executable, *program],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, pd.read_json(run.training_path / "log.jsonl", lines=True)


@pytest.fixture(scope="module")
def two(prepare):
    run = prepare("two")
    return run, *launch(run, 2, "-m", "onelap.train", str(run.path))


def assert_same_training(log, other, tolerance):
    for column in ("loss", "learning_rate", "gradient_norm", "validation_loss", "validation_macro_f1"):
        np.testing.assert_allclose(log[column].dropna(), other[column].dropna(), rtol=tolerance, err_msg=column)
    assert len(log["loss"].dropna()) == 6


def test_two_processes_learn_what_one_learns(prepare, two):
    run, said, log = two
    assert "6 steps by 2 processes" in said
    alone = prepare("alone")
    assert_same_training(log, launch(alone, 1, "-m", "onelap.train", str(alone.path))[1], 2e-3)
    for folder in (run, alone):
        assert (folder.adapter_path / "adapter_model.safetensors").exists()


def test_two_processes_that_share_the_base_and_no_clock_learn_the_same_and_take_it_up_again(prepare, two):
    run = prepare("shared", gradient_checkpointing=True)
    said, log = launch(run, 2, "-c", SHARE_OF_THE_BASE, str(run.path))
    shares = [float(line.split()[1]) for line in said.splitlines() if line.startswith("share")]
    assert shares == pytest.approx([0.5, 0.5], abs=0.01)
    assert_same_training(log, two[2], 1e-4)

    learnt = load_file(run.adapter_path / "adapter_model.safetensors")
    for name, weight in load_file(two[0].adapter_path / "adapter_model.safetensors").items():
        np.testing.assert_allclose(learnt[name], weight, atol=1e-4, err_msg=name)

    (run.training_path / ENDED).unlink()
    discard(checkpoint_path(run.training_path, 6))
    said, log = launch(run, 2, "-m", "onelap.train", str(run.path), "--shard")
    assert "Going on from checkpoint-3." in said
    assert_same_training(log, two[2], 1e-4)


def test_what_cannot_be_shared_is_refused(prepare, monkeypatch):
    run = prepare("refused")
    with pytest.raises(UserError, match="--shard: expected several processes, found one"):
        train_run(run, sharded=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="expected --shard after the run, found Accelerate's --use_fsdp"):
        train_run(run, sharded=False)
