"""A run that stopped: what is kept, what is done again, and what forbids going on."""

import json
import os
import shutil

import pytest

from onelap import UserError
from onelap.lap.history import find_run
from onelap.lap.parameters import NOTEBOOKS, read_parameters
from onelap.lap.resume import STEPS, check_unchanged, reopen, why_again
from onelap.lap.run import Run, versions
from onelap.lap.runner import run_lap
from onelap.machine.store import hash_files, write_json
from onelap.notes.read import FIELD_PARAMETERS, Fields, read_notes
from tests.conftest import toy_notes, write_jsonl

WRITE = """
from pathlib import Path
executed = Path(run_dir) / "executed.txt"
before = executed.read_text() if executed.exists() else ""
executed.write_text(before + {name!r} + " ")
for file in {files!r}:
    path = Path(run_dir) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(len(before)))
"""
FILES = {
    "01_data_prep": ["dataset/train.jsonl"],
    "02_baseline": ["arms/base/metrics.json", "arms/tfidf/metrics.json"],
    "03_train": ["adapter/adapter_model.safetensors", "training/log.jsonl", "training/probe.json"],
    "04_evaluate": ["arms/qlora/metrics.json", "adapter/calibration.json"],
    "05_compare": ["comparison.json"],
}


@pytest.fixture
def lap(notebook, tmp_path):
    """A finished run of five small notebooks, and how to take it up: returns which of them were executed."""
    run = Run.create("toy", {}, tmp_path / "run")
    notebooks = [
        notebook(name, 'run_dir: str = "."  # folder', WRITE.format(name=name, files=files))
        for name, files in FILES.items()
    ]

    def again():
        before = len((run.path / "executed.txt").read_text(encoding="utf-8").split())
        run_lap(run, {}, notebooks)
        return [name[:2] for name in (run.path / "executed.txt").read_text(encoding="utf-8").split()[before:]]

    run_lap(run, {}, notebooks)
    return run, again


def test_a_step_for_every_notebook():
    assert list(STEPS) == [path.stem for path in NOTEBOOKS]


def test_what_is_whole_is_kept(lap, capsys):
    run, again = lap
    assert again() == []
    assert capsys.readouterr().out.count("kept") == 5
    assert {name: why_again(run, name) for name in STEPS} == dict.fromkeys(STEPS)


@pytest.mark.parametrize(
    ("damage", "executed"),
    [
        ("arms/tfidf/metrics.json", ["02", "05"]),
        ("adapter/adapter_model.safetensors", ["03", "04", "05"]),
        ("dataset/train.jsonl", ["01", "02", "03", "04", "05"]),
        ("comparison.json", ["05"]),
        ("04_evaluate.ipynb", ["04", "05"]),
    ],
)
@pytest.mark.parametrize("how", ["removed", "changed"])
def test_what_is_missing_or_changed_is_made_again_with_all_that_rests_on_it(lap, damage, executed, how):
    run, again = lap
    if how == "removed":
        (run.path / damage).unlink()
    elif damage.endswith(".ipynb"):
        return  # what a reader saved over it is theirs
    else:
        (run.path / damage).write_text("other", encoding="utf-8")
    assert again() == executed


def test_a_notebook_that_was_interrupted_is_executed_again(lap):
    run, again = lap
    run.update(notebooks={"03_train": {"status": "interrupted"}})
    assert again() == ["03", "04", "05"]


@pytest.fixture
def begun(toy_base, tmp_path):
    """A run that read its notes and its base, and its parameters."""
    base = shutil.copytree(toy_base, tmp_path / "base")
    notes = write_jsonl(tmp_path / "notes.jsonl", toy_notes(30))
    parameters, _ = read_parameters(None)
    parameters |= {"notes_path": str(notes), "base_model": str(base)}
    run = Run.create("toy", parameters, tmp_path / "run")
    fields = Fields.parse(*(parameters[name] for name in FIELD_PARAMETERS))
    run.update(hashes={"notes": read_notes(notes, fields).digest, "base": hash_files(base)})
    return run, parameters, notes, base


def refusal(run, parameters):
    with pytest.raises(UserError, match="--force-new, which leaves this run as it is") as caught:
        check_unchanged(run, parameters)
    return str(caught.value)


def test_an_unchanged_run_may_go_on(begun):
    run, parameters, _, _ = begun
    check_unchanged(run, parameters)


def test_what_has_changed_is_named(begun):
    run, parameters, notes, base = begun
    assert "epochs was 4.0 and is 3.0" in refusal(run, parameters | {"epochs": 3.0})
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


def test_a_run_that_another_process_works_on_is_refused(begun, onelap):
    run, *_ = begun
    with run.locked():
        result = onelap("run", "--resume", run.path)
    assert result.returncode == 2
    assert "is at work there; let it end, or end it" in result.stderr and result.stderr.count("\n") == 1


def test_changed_parameters_are_refused_on_the_command_line(begun, complaint):
    run, *_ = begun
    assert "epochs was 4.0 and is 2.0" in complaint("run", "--resume", run.path, "-p", "epochs=2")
    assert json.loads(run.record_path.read_text(encoding="utf-8"))["status"] == "running"


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "params/embedded.yaml", "--force-new"], ["run", "--resume", "nowhere"]]
)
def test_what_to_take_up_must_be_said(complaint, arguments):
    assert complaint(*arguments)


@pytest.mark.parametrize("damaged", ["params.yaml", "run.json"])
@pytest.mark.parametrize("content", ["", "{a: [", None])
def test_a_damaged_record_is_one_clear_line(begun, complaint, damaged, content):
    run, *_ = begun
    if content is None:
        (run.path / damaged).unlink()
    else:
        (run.path / damaged).write_text(content, encoding="utf-8")
    assert damaged in complaint("run", "--resume", run.path)


def test_time_counts_up_to_the_last_sign_of_life(begun):
    """Killed in the evening, taken up in the morning, after somebody has looked at a notebook."""
    run, *_ = begun
    write_json(run.record_path, run.record | {"session_started": "2026-01-01T00:00:00+00:00"})
    (run.path / "01_data_prep.ipynb").touch()
    os.utime(run.record_path, (1767225600 + 600,) * 2)  # 2026-01-01 00:10 UTC
    with run.locked():
        reopen(run)
    assert run.record["spent_seconds"] == 600
    assert 3000 - 5 < run.seconds_left(1.0, 0) <= 3000


def test_a_lock_file_of_a_dead_process_is_no_lock(begun):
    run, *_ = begun
    (run.path / ".lock").write_text("99999999", encoding="utf-8")
    with run.locked():
        reopen(run)
    assert run.record["process"]["pid"] == os.getpid()


def test_a_run_is_found_from_anywhere(begun, monkeypatch):
    """Kernels work in the run folder, where a relative path would mean another one."""
    run, *_ = begun
    monkeypatch.chdir(run.path.parent)
    assert find_run("run", run.path.parent).path == run.path
