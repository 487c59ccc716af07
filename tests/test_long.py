"""Tests that take minutes: `make test-long`."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

KILLS = 20
pytestmark = pytest.mark.long


def test_lap_killed_twenty_times_ends_like_an_undisturbed_one(onelap, toy_params, tmp_path):
    """Only the command gets SIGKILL, at random moments: its kernel must notice by itself."""
    assert onelap("run", toy_params, "--run", tmp_path / "whole").returncode == 0
    rng, kills = random.Random(0), 0
    arguments = [toy_params, "--run", tmp_path / "killed"]
    while kills < KILLS:
        command = [Path(sys.executable).with_name("onelap"), "run", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while not (tmp_path / "killed/run.json").exists():
            time.sleep(0.05)
        time.sleep(rng.uniform(0.5, 25))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        elif process.returncode == 0:
            # The lap ended between two kills: without its adapter the training is repeated.
            (tmp_path / "killed/adapter/adapter_model.safetensors").unlink()
        else:
            raise AssertionError(process.stderr.read())
        process.wait()
        arguments = ["--resume", tmp_path / "killed"]
    result = onelap("run", "--resume", tmp_path / "killed")
    assert result.returncode == 0, result.stderr

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for file in ("adapter/adapter_model.safetensors", "dataset/train.jsonl", "dataset/test.jsonl"):
        assert (whole / file).read_bytes() == (killed / file).read_bytes(), file
    for arm in sorted(path.name for path in (whole / "arms").iterdir()):
        first, second = (pd.read_json(run / f"arms/{arm}/predictions.jsonl", lines=True) for run in (whole, killed))
        pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))
    first, second = (json.loads((run / "comparison.json").read_text(encoding="utf-8")) for run in (whole, killed))
    assert first["sentence"] == second["sentence"]
    log = pd.read_json(killed / "training/log.jsonl", lines=True)
    assert log.dropna(subset=["loss"])["step"].is_unique
