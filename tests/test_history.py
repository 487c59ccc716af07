"""Which run is meant when none is named."""

import json

import pytest

from onelap import UserError
from onelap.lap.history import newest_good_run


@pytest.fixture
def outputs(tmp_path):
    """Runs that differ in how far they came and in what they found; a later name is a later start."""

    def add(number, status="done", verdict="better", asked=True, adapter=True):
        run = tmp_path / f"2026112{number}-090000_full"
        (run / "adapter").mkdir(parents=True) if adapter else run.mkdir()
        record = {"status": status, "started": f"2026-11-2{number}T09:00:00+00:00"}
        record |= {"asked": {"base_model": "x"}} if asked else {}
        (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
        if verdict:
            (run / "comparison.json").write_text(json.dumps({"verdict": verdict, "sentence": "…"}), encoding="utf-8")
        return run

    return tmp_path, add


def test_the_newest_run_that_was_finished_and_did_no_harm(outputs):
    folder, add = outputs
    good = [add(1), add(2, verdict="cannot_tell")]
    add(3, verdict="worse")
    add(4, status="failed", verdict=None)
    add(5, verdict=None)
    add(6, asked=False)
    add(7, adapter=False)
    (folder / "20261128-090000_full").mkdir()
    (folder / "20261128-090000_full/run.json").write_text("{half", encoding="utf-8")
    assert newest_good_run(folder).path == good[1]


def test_without_one_it_says_how_to_make_one(outputs):
    folder, add = outputs
    add(1, verdict="worse")
    with pytest.raises(
        UserError, match=r"expected a finished run below .* `onelap run params/embedded.yaml` makes one"
    ):
        newest_good_run(folder)
