"""The end of a lap when something goes wrong: tiny notebooks, one for each case, through the real runner."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from onelap import NotebookFailed, UserError
from onelap.lap.parameters import read_schema
from onelap.lap.run import Run
from onelap.lap.runner import run_lap

FINE = "answer: int = 42  # what to say\nrun_dir: str = ''  # the run folder"


@pytest.fixture
def new_run(tmp_path):
    return Run.create("toy", {"answer": 7}, tmp_path / "run")


def outputs_of(path):
    return [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]


def statuses(run):
    return run.record["status"], {name: entry["status"] for name, entry in run.record["notebooks"].items()}


def test_parameters_reach_the_notebook_and_the_terminal_shows_its_cell(new_run, notebook, capsys):
    run_lap(new_run, {"answer": 7}, [notebook("one", FINE, "print(answer, run_dir)")])
    assert outputs_of(new_run.path / "one.ipynb")[0].text == f"7 {new_run.path}\n"
    assert statuses(new_run) == ("done", {"one": "done"})
    assert "one  In [3] of 3  " in capsys.readouterr().out


def test_braces_in_every_path_are_kept(notebook, tmp_path):
    folder = tmp_path / "a{b}{answer}{0"
    folder.mkdir()
    path = notebook("one", FINE, "print(answer, run_dir)").rename(folder / "one.ipynb")
    run = Run.create("toy", {}, folder / "run")
    assert read_schema([path])["answer"].default == 42
    run_lap(run, {"answer": 7}, [path])
    assert outputs_of(run.path / "one.ipynb")[0].text == f"7 {run.path}\n"


def test_kernel_is_in_utf8_mode_and_offline(new_run, notebook):
    cell = "import os, sys, onelap; print(sys.flags.utf8_mode, os.environ['HF_HUB_OFFLINE'])"
    run_lap(new_run, {}, [notebook("modes", FINE, cell)])
    assert outputs_of(new_run.path / "modes.ipynb")[0].text == "1 1\n"


def test_failed_notebook_is_kept_and_later_ones_are_not_run(new_run, notebook):
    books = [notebook("fine", FINE), notebook("bad", FINE, "1 / 0"), notebook("later", FINE)]
    with pytest.raises(NotebookFailed, match=r"bad, In \[3\]: ZeroDivisionError: division by zero; the notebook"):
        run_lap(new_run, {}, books)
    assert statuses(new_run) == ("failed", {"fine": "done", "bad": "failed"})
    assert new_run.record["error"].startswith("bad, In [3]: ZeroDivisionError")
    assert new_run.record["notebooks"]["bad"]["started"]
    assert any(output.get("ename") == "ZeroDivisionError" for output in outputs_of(new_run.path / "bad.ipynb"))
    assert not (new_run.path / "later.ipynb").exists()


def test_user_error_in_a_notebook_keeps_its_message(new_run, notebook):
    cell = "from onelap import UserError\nraise UserError('expected notes, found none')"
    with pytest.raises(UserError, match=r"^bad: expected notes, found none$"):
        run_lap(new_run, {}, [notebook("bad", FINE, cell)])


def test_out_of_memory_comes_with_advice(new_run, notebook):
    cell = "import torch\nraise torch.OutOfMemoryError('CUDA out of memory')"
    with pytest.raises(NotebookFailed, match="a smaller micro_batch_tokens, score_batch or max_length needs less"):
        run_lap(new_run, {}, [notebook("greedy", FINE, cell)])


def test_kernel_messages_at_exit_stay_off_the_terminal(new_run, notebook, capfd):
    last_words = "import atexit, os; atexit.register(os.write, 2, b'LAST WORDS'); os.write(2, b'native words')"
    run_lap(new_run, {}, [notebook("01_a", 'run_dir: str = "x"  # folder', last_words)])
    assert "LAST WORDS" not in capfd.readouterr().err
    assert "native words" in (new_run.path / "01_a.ipynb").read_text(encoding="utf-8")


def test_messages_between_runner_and_kernel_are_encrypted(new_run, notebook):
    cell = (
        "import json; from ipykernel.connect import get_connection_file; print(*json.load(open(get_connection_file())))"
    )
    run_lap(new_run, {}, [notebook("keys", FINE, cell)])
    assert "curve_secretkey" in outputs_of(new_run.path / "keys.ipynb")[0].text.split()


def test_system_exit_0_is_a_failure(new_run, notebook):
    with pytest.raises(NotebookFailed, match=r"leaves, In \[3\]: SystemExit: 0"):
        run_lap(new_run, {}, [notebook("leaves", FINE, "raise SystemExit(0)", "print('never')")])
    assert statuses(new_run) == ("failed", {"leaves": "failed"})


def test_killed_kernel_is_reported_and_its_notebook_kept(new_run, notebook):
    cell = "print('so far', flush=True)\nimport os, signal, time; time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(NotebookFailed, match=r"killed, In \[3\]: the kernel was killed, most often because"):
        run_lap(new_run, {}, [notebook("killed", FINE, cell)])
    assert statuses(new_run) == ("failed", {"killed": "failed"})
    assert "so far" in outputs_of(new_run.path / "killed.ipynb")[0].text


def test_killed_kernel_leaves_no_output_of_its_cell_where_text_may_not_be_shown(new_run, notebook, tmp_path):
    cell = "print('a word', flush=True)\nimport os, signal, time; time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)"
    hidden = {"show_text": False, "notes_path": str(tmp_path)}
    with pytest.raises(NotebookFailed, match="the kernel was killed"):
        run_lap(new_run, hidden, [notebook("killed", FINE, cell)])
    assert "a word" not in (new_run.path / "killed.ipynb").read_text(encoding="utf-8").replace("print('a word'", "")


def test_full_disk_is_reported_and_leaves_a_readable_record(notebook, tmp_path):
    """A file system of 300 kB fills up under a notebook that prints a lot."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        run = Run.create("toy", {}, disk / "run")
        with pytest.raises(NotebookFailed, match=r"No space left .*; free some space or choose another disk"):
            run_lap(run, {}, [notebook("wordy", FINE, "print('x' * 400_000)")])
        assert statuses(run) == ("failed", {"wordy": "failed"})
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_ctrl_c_ends_the_lap_and_its_kernel(toy_params, tmp_path):
    """The real command, interrupted in its first notebook."""
    run = Run(tmp_path / "run")
    command = [Path(sys.executable).with_name("onelap"), "run", toy_params, "--run", run.path]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (kernels := kernels_of(process)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert (
        line.startswith("onelap: interrupted in 01_data_prep, In [")
        and f"`onelap run --resume {run.path}` continues" in line
    )
    assert statuses(run) == ("interrupted", {"01_data_prep": "interrupted"})
    assert (run.path / "01_data_prep.ipynb").exists()
    assert not [kernel for kernel in kernels if kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE]


def kernels_of(process):
    kernels = []
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # git, which has just ended
            kernels += [child] if any("ipykernel" in word for word in child.cmdline()) else []
    return kernels


def test_list_of_runs_distinguishes_killed_from_running(onelap, tmp_path):
    for name in ("20260101-000000_alive", "20260102-000000_dead"):
        folder = tmp_path / name
        folder.mkdir()
        record = {"status": "running", "process": {"pid": os.getpid()}, "started": name[:8], "params": "toy.yaml"}
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "20260103-000000_broken").mkdir()
    (tmp_path / "20260103-000000_broken/run.json").write_text('{"status": "do', encoding="utf-8")
    with Run(tmp_path / "20260101-000000_alive").locked():
        listed = onelap("runs", "--outputs", tmp_path).stdout
    lines = [line for line in listed.splitlines() if not line.startswith(" ")]
    assert [line.split()[:2] for line in lines] == [
        ["20260102-000000_dead", "killed"],
        ["20260101-000000_alive", "running"],
        ["20260103-000000_broken", "damaged"],
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run"], "expected PARAMS.yaml or --resume RUN"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such parameter file"),
        (["run", "params/embedded.yaml", "-p", "max_length=9"], "max_length: expected 64 to 32768, found 9"),
        (["runs", "--outputs", "nowhere"], "no runs in nowhere yet"),
        (
            ["run", "params/one_lap.yaml"],
            "has been downloaded; `onelap fetch params/one_lap.yaml` downloads it, 6.2 GB",
        ),
        (["run", "params/embedded.yaml", "-p", "base_model=C:/no model"], "there is no such folder, and no model of"),
    ],
)
def test_user_error_is_one_line_and_exit_status_2(complaint, monkeypatch, tmp_path, arguments, expected):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    assert expected in complaint(*arguments)


def test_folder_that_holds_a_run_is_not_overwritten(onelap, new_run):
    result = onelap("run", "params/embedded.yaml", "--run", new_run.path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"continue it with `onelap run --resume {new_run.path}`" in result.stderr
