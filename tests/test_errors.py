"""Paths that nobody can have, for every argument and parameter that takes one: one clear line, exit status 2."""

import os
import sys

import pytest

from onelap import PROJECT, UserError, expand_path, find_path
from onelap.lap.history import list_runs
from onelap.lap.run import Run

PARAMS = PROJECT / "params/embedded.yaml"
NOBODY, TOO_LONG, BYTES = "~nobody at all/x", "n" * 300, os.fsdecode(b"caf\xe9")
PLACES = {
    "notes_path": ["run", PARAMS, "-p", "notes_path={}"],
    "base_model": ["plan", PARAMS, "-p", "base_model={}"],
    "embedding_model": ["run", PARAMS, "-p", "embedding_model={}"],
    "split_dir": ["run", PARAMS, "-p", "split_dir={}"],
    "PARAMS.yaml": ["plan", "{}"],
    "--run": ["run", PARAMS, "--run", "{}"],
    "--resume": ["run", "--resume", "{}"],
    "--outputs": ["runs", "--outputs", "{}"],
    "report": ["report", "{}"],
    "export": ["export", "{}", "model"],
    "export DIR": ["export", "run", "{}"],
    "sort": ["sort", "{}"],
    "sort --run": ["sort", ".", "--run", "{}"],
}
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="names are text there")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working directory with a run that has no results."""
    monkeypatch.chdir(tmp_path)
    Run.create("toy", {"seed": 0}, tmp_path / "run")
    return tmp_path


@pytest.mark.parametrize("path", [NOBODY, TOO_LONG, pytest.param(BYTES, marks=needs_linux)])
@pytest.mark.parametrize("place", PLACES)
def test_impossible_path_is_named_in_one_line(complaint, workplace, place, path):
    line = complaint(*(str(word).format(path) for word in PLACES[place]))
    assert (path if path.isascii() else r"caf\udce9") in line


@needs_linux
def test_working_directory_that_is_not_utf8_is_refused_before_a_run_starts(complaint, workplace, monkeypatch):
    (workplace / BYTES / "notes").mkdir(parents=True)
    monkeypatch.chdir(workplace / BYTES)
    assert "expected a path in UTF-8" in complaint("run", PARAMS, "-p", "notes_path=notes", "--run", workplace / "new")
    assert "expected a path in UTF-8" in complaint("run", PARAMS, "--run", "new")
    assert not (workplace / "new").exists()


@needs_linux
def test_run_in_a_folder_that_is_not_utf8_is_listed_as_damaged(workplace):
    (workplace / "run").rename(workplace / BYTES)
    assert list(list_runs(workplace)["status"]) == ["damaged"]


def test_parameter_file_with_a_long_name_names_a_folder_that_can_be_made(workplace, monkeypatch):
    monkeypatch.setattr("onelap.lap.run.PROJECT", workplace)
    assert Run.create(f"{'é' * 120}.yaml", {}, None).record["status"] == "running"


def test_path_below_a_file_is_merely_missing(workplace):
    (workplace / "file").touch()
    assert not find_path("file/below").exists()
    assert expand_path("~") != expand_path("nowhere")


@pytest.mark.parametrize("path", [NOBODY, TOO_LONG, "a\0b"])
def test_impossible_path_says_why(path):
    with pytest.raises(UserError, match=r"expected the path of a file or folder, found: .*; name another one$"):
        find_path(path)
