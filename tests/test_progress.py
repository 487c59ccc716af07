"""The line that shows the progress of long work."""

import time

import pytest

from onelap.machine.progress import PROGRESS_VARIABLE, ProgressLine, format_duration


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (12600, "3.5 h")])
def test_duration_is_written_as_people_say_it(seconds, words):
    assert format_duration(seconds) == words


def test_line_shows_what_is_done_and_the_eta(tmp_path, monkeypatch):
    file = tmp_path / "line"
    monkeypatch.setenv(PROGRESS_VARIABLE, str(file))
    line = ProgressLine(100, "step")
    line.began -= 28  # ten steps of 2.8 seconds each; forty were made in an earlier session
    line.show(50, before=40, detail=", loss 0.500")
    assert file.read_text(encoding="utf-8") == "step 50 of 100, loss 0.500, 2 min left"
    line.show(51)
    assert file.read_text(encoding="utf-8").startswith("step 50"), "updated more than once a second"
    line.due = time.monotonic()
    line.show(51)
    assert file.read_text(encoding="utf-8").startswith("step 51")


def test_short_work_leaves_no_line(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRESS_VARIABLE, str(tmp_path / "line"))
    line = ProgressLine(2, "note", after=10.0)
    line.show(1)
    line.show(2)
    assert not (tmp_path / "line").exists()
