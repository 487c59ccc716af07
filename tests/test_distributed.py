"""The same training in one process and in two, which average their gradients by gloo on the CPU."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from onelap.parameters import read_parameters
from onelap.runs import Run
from tests.conftest import TOY_WORDS, toy_notes


@pytest.fixture
def launch(toy_base, tmp_path):
    """Train the same notes with this many processes; returns the log and the finished process."""

    def call(name, processes):
        run = Run.open(tmp_path / name)
        notes = pd.DataFrame(toy_notes(60)).assign(id=[str(number) for number in range(60)])
        run.write_dataset(
            notes.assign(part=["train"] * 44 + ["validation"] * 8 + ["test"] * 8), {"kinds": sorted(TOY_WORDS)}
        )
        parameters, _ = read_parameters(None)
        parameters |= {"base_model": str(toy_base), "max_length": 160, "lora_dropout": 0.0, "micro_batch": 2}
        parameters |= {"epochs": 1.0, "evaluations": 2}
        run.params_path.write_text(yaml.safe_dump(parameters), encoding="utf-8")
        # What `accelerate launch` calls where there are several cards; it starts one process only on a CPU.
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [*command, "-m", "onelap.train", str(run.path)],
            capture_output=True,
            text=True,
            timeout=280,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"6 steps by {processes} processes" in done.stdout
        return pd.read_json(run.training_path / "log.jsonl", lines=True), run

    return call


def test_two_processes_learn_what_one_learns(launch):
    one, first = launch("one", 1)
    two, second = launch("two", 2)
    for column in ("loss", "learning_rate", "gradient_norm", "validation_loss", "validation_macro_f1"):
        np.testing.assert_allclose(two[column].dropna(), one[column].dropna(), rtol=2e-3, err_msg=column)
    assert len(one["loss"].dropna()) == 6
    for run in (first, second):
        assert (run.adapter_path / "adapter_model.safetensors").exists()
