"""Resuming a run that stopped: what is kept, what is repeated, and what rules resuming out."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import nbformat
import pytest

from onelap import UserError
from onelap.lap.history import find_run
from onelap.lap.parameters import NOTEBOOKS, read_parameters
from onelap.lap.resume import STEPS, check_unchanged, reason_to_repeat
from onelap.lap.run import Run, versions
from onelap.lap.runner import run_lap
from onelap.machine.store import hash_files
from onelap.notes.fields import Fields
from onelap.notes.vault import read_notes
from tests.conftest import toy_notes, write_jsonl

WRITE = """
import time
from pathlib import Path
executed = Path(run_dir) / "executed.txt"
before = executed.read_text() if executed.exists() else ""
executed.write_text(before + {name!r} + " ")
for file in {files!r}:
    path = Path(run_dir) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(time.time_ns()))
"""
FILES = {
    "01_data_prep": ["dataset/train.jsonl"],
    "02_baseline": ["arms/base/metrics.json", "arms/tfidf/metrics.json", "arms/qwen/metrics.json"],
    "03_train": ["adapter/adapter_model.safetensors", "training/log.jsonl", "training/answers.json"],
    "04_evaluate": ["arms/qlora/metrics.json", "arms/qlora/sorter.json"],
    "05_compare": ["comparison.json"],
}


@pytest.fixture(scope="module")
def small_lap(tmp_path_factory):
    """A finished run of five small notebooks, and the notebooks. Nothing may be changed in it."""
    folder = tmp_path_factory.mktemp("lap")
    run, notebooks = Run.create("toy", {}, folder / "run"), []
    for name, files in FILES.items():
        code = ['run_dir: str = "."  # folder', WRITE.format(name=name, files=files)]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in code])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.cells[0].metadata["tags"] = ["parameters"]
        notebooks.append(folder / f"{name}.ipynb")
        nbformat.write(notebook, notebooks[-1])
    run_lap(run, {}, notebooks)
    return run, notebooks


@pytest.fixture
def finished(small_lap, tmp_path):
    """A copy of the finished run, and a function that resumes it and returns which notebooks were executed."""
    original, notebooks = small_lap
    run = Run(shutil.copytree(original.path, tmp_path / "run"))
    executed = run.path / "executed.txt"

    def resume():
        executed.write_text("", encoding="utf-8")
        run_lap(run, {}, notebooks)
        return [name[:2] for name in executed.read_text(encoding="utf-8").split()]

    return run, resume


def test_every_notebook_has_a_step():
    assert list(STEPS) == [path.stem for path in NOTEBOOKS]


def test_finished_notebooks_are_kept(finished, capsys):
    run, resume = finished
    assert resume() == []
    assert capsys.readouterr().out.count("kept") == 5
    assert {name: reason_to_repeat(run, name) for name in STEPS} == dict.fromkeys(STEPS)


@pytest.mark.parametrize(
    ("file", "damage", "executed"),
    [
        ("arms/tfidf/metrics.json", "changed", ["02", "05"]),
        ("arms/qwen/metrics.json", "removed", ["02", "05"]),  # begins with the letter of the tuned arm
        ("arms/qlora/metrics.json", "removed", ["04", "05"]),
        ("adapter/adapter_model.safetensors", "changed", ["03", "04", "05"]),
        ("dataset/train.jsonl", "removed", ["01", "02", "03", "04", "05"]),
        ("comparison.json", "changed", ["05"]),
    ],
)
def test_missing_or_changed_file_repeats_its_notebook_and_those_that_read_it(finished, file, damage, executed):
    run, resume = finished
    if damage == "removed":
        (run.path / file).unlink()
    else:
        (run.path / file).write_text("other", encoding="utf-8")
    assert resume() == executed


def test_executed_notebook_is_repeated_if_missing_but_not_if_a_reader_has_saved_it(finished):
    run, resume = finished
    (run.path / "02_baseline.ipynb").write_text("saved by a reader", encoding="utf-8")
    (run.path / "04_evaluate.ipynb").unlink()
    assert resume() == ["04", "05"]


def test_interrupted_notebook_is_repeated(finished):
    run, resume = finished
    run.update(notebooks={"03_train": {"status": "interrupted"}})
    assert resume() == ["03", "04", "05"]


@pytest.fixture
def started(toy_base, tmp_path):
    """A run that read its notes and its base, and its parameters."""
    base = shutil.copytree(toy_base, tmp_path / "base")
    notes = write_jsonl(tmp_path / "notes.jsonl", toy_notes(30))
    parameters, _ = read_parameters(None)
    parameters |= {"notes_path": str(notes), "base_model": str(base)}
    run = Run.create("toy", parameters, tmp_path / "run")
    fields = Fields.of(parameters)
    run.update(hashes={"notes": read_notes(notes, fields).digest, "base": hash_files(base)})
    return run, parameters, notes, base


def refusal(run, parameters):
    with pytest.raises(UserError, match="--force-new, which leaves this run as it is") as caught:
        check_unchanged(run, parameters)
    return str(caught.value)


def test_unchanged_run_can_be_resumed(started):
    run, parameters, _, _ = started
    check_unchanged(run, parameters)


def test_changes_that_rule_resuming_out_are_named(started):
    run, parameters, notes, base = started
    assert "epochs was 6.0 and is 3.0" in refusal(run, parameters | {"epochs": 3.0})
    assert refusal(run, parameters | {"epochs": 3.0}).count(" was ") == 1
    run.update(versions={"torch": "2.0"})
    assert f"version of torch was '2.0' and is '{versions()['torch']}'" in refusal(run, parameters)
    run.update(versions={"torch": versions()["torch"], "papermill": "0"})
    check_unchanged(run, parameters)
    rows = toy_notes(30)
    rows[3]["kind"] = "none"
    write_jsonl(notes, rows)
    (base / "config.json").write_text("{}", encoding="utf-8")
    message = refusal(run, parameters)
    assert f"the labelled notes in {notes} are not those that were read" in message
    assert f"the base in {base} has other files" in message


def test_run_of_an_earlier_version_cannot_be_resumed(started):
    run, parameters, _, _ = started
    stored = {{"style_field": "texture_field"}.get(name, name): value for name, value in parameters.items()}
    run.params_path.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(UserError, match=r"^run is of an earlier version and cannot be resumed; --force-new starts af"):
        check_unchanged(run, parameters)


def test_run_in_use_by_another_process_is_refused(started, onelap):
    run, *_ = started
    with run.locked():
        result = onelap("run", "--resume", run.path)
    assert result.returncode == 2
    assert "is at work there; let it end, or end it" in result.stderr and result.stderr.count("\n") == 1


def test_changed_parameters_are_refused_on_the_command_line(started, complaint):
    run, *_ = started
    assert "epochs was 6.0 and is 2.0" in complaint("run", "--resume", run.path, "-p", "epochs=2")
    assert json.loads(run.record_path.read_text(encoding="utf-8"))["status"] == "running"


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "params/embedded.yaml", "--force-new"], ["run", "--resume", "nowhere"]]
)
def test_run_needs_parameters_or_a_run_to_resume(complaint, arguments):
    assert complaint(*arguments)


@pytest.mark.parametrize("damaged", ["params.yaml", "run.json"])
@pytest.mark.parametrize("content", ["", "{a: [", None])
def test_damaged_record_is_one_clear_line(started, complaint, damaged, content):
    run, *_ = started
    if content is None:
        (run.path / damaged).unlink()
    else:
        (run.path / damaged).write_text(content, encoding="utf-8")
    assert damaged in complaint("run", "--resume", run.path)


SESSION = """
import sys
from pathlib import Path
from onelap.lap.run import Run
from onelap.lap.runner import run_lap
run_lap(Run(Path(sys.argv[1])), {}, [Path(sys.argv[2])])
"""
KILL = "import os, signal, time; time.sleep(6); os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"
ASK = "from onelap.lap.run import Run; print(Run.open(run_dir).seconds_left(1.0, reserve=600))"


def shift_clock(run, years):
    """Leave a run as if this machine's clock had jumped since: all dates that are stored, and those of its files."""
    text = run.record_path.read_text(encoding="utf-8")
    shifted = re.sub(r"\b(20\d\d)-", lambda date: f"{int(date[1]) - years}-", text)
    assert shifted != text
    run.record_path.write_text(shifted, encoding="utf-8")
    for file in run.path.iterdir():
        os.utime(file, (file.stat().st_mtime - years * 365 * 86400,) * 2)


def test_time_of_killed_session_counts_up_to_its_last_write(notebook, tmp_path):
    """Killed after some seconds, and resumed after the clock has jumped by two years, forward and backward."""
    run, parameter = Run.create("toy", {}, tmp_path / "run"), 'run_dir: str = "."  # folder'
    killed = subprocess.run([sys.executable, "-c", SESSION, run.path, notebook("01_data_prep", parameter, KILL)])
    assert killed.returncode == -signal.SIGKILL and run.record["status"] == "running"
    shown = []
    for years in (2, -4):
        shift_clock(run, years)
        run_lap(run, {}, [notebook("01_data_prep", parameter, ASK)])
        cells = nbformat.read(run.path / "01_data_prep.ipynb", as_version=4).cells
        shown.append(float(cells[-1].outputs[0].text))
        (run.path / "01_data_prep.ipynb").unlink()
    assert 2900 < shown[1] < shown[0] <= 3000 - 6, "an hour, less the reserve and what the sessions took"
    assert 3000 - shown[1] <= run.record["actual"]["seconds"] < 100


def test_lock_file_of_a_dead_process_does_not_lock(started):
    run, *_ = started
    (run.path / ".lock").write_text("99999999", encoding="utf-8")
    with run.locked():
        run.begin_session()
    assert run.record["process"]["pid"] == os.getpid()


def test_find_run_resolves_relative_paths(started, monkeypatch):
    """Kernels work in the run folder, where a relative path would mean another one."""
    run, *_ = started
    monkeypatch.chdir(run.path.parent)
    assert find_run("run", run.path.parent).path == run.path
