"""The run that is used when none is named, and the list of runs."""

import json

import pytest

from onelap import UserError
from onelap.lap.history import differences, list_runs, newest_finished_run
from onelap.lap.run import Run


@pytest.fixture
def outputs(tmp_path):
    """Runs that differ in progress and verdict; a later name is a later start."""

    def add(number, status="done", winner="blend", compared=True):
        run = tmp_path / f"2026112{number}-090000_full"
        run.mkdir()
        record = {"status": status, "started": f"2026-11-2{number}T09:00:00+00:00"}
        (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
        if compared:
            comparison = {"sentence": "…"} | ({"winner": winner} if winner else {})
            (run / "comparison.json").write_text(json.dumps(comparison), encoding="utf-8")
        return run

    return tmp_path, add


def test_newest_finished_run_is_done_and_has_named_its_winner(outputs):
    folder, add = outputs
    good = [add(1), add(2, winner="qlora")]
    add(3, winner=None)  # as versions before did
    add(4, status="failed", compared=False)
    add(5, compared=False)
    (folder / "20261128-090000_full").mkdir()
    (folder / "20261128-090000_full/run.json").write_text("{half", encoding="utf-8")
    assert newest_finished_run(folder).path == good[1]


def test_newest_finished_run_without_any_says_how_to_make_one(outputs):
    folder, add = outputs
    add(1, status="failed")
    with pytest.raises(
        UserError, match=r"expected a finished run below .* `onelap run params/embedded.yaml` makes one"
    ):
        newest_finished_run(folder)


def test_runs_are_listed_newest_first_with_arms_result_and_seconds(outputs):
    folder, add = outputs
    first, _ = add(1), add(2, status="failed", compared=False)
    (first / "arms/tfidf").mkdir(parents=True)
    (first / "arms/base").mkdir()
    record = json.loads((first / "run.json").read_text(encoding="utf-8")) | {"actual": {"seconds": 61.5}}
    (first / "run.json").write_text(json.dumps(record), encoding="utf-8")
    table = list_runs(folder)
    assert table[["run", "status", "arms", "result"]].values.tolist() == [
        ["20261122-090000_full", "failed", "", ""],
        ["20261121-090000_full", "done", "base tfidf", "…"],
    ]
    assert table["seconds"].isna().tolist() == [True, False] and table["seconds"].iloc[1] == 61.5


def test_differences_of_runs_name_parameters_before_hashes_and_shorten_these(outputs):
    _, add = outputs
    runs = [Run(add(number)) for number in (1, 2)]
    for number, run in enumerate(runs):
        record = {"hashes": {"prompts": {"base": f"{number}123456789abcdef"}}, "versions": {"torch": "2.13.0"}}
        run.record_path.write_text(json.dumps(record), encoding="utf-8")
        run.params_path.write_text(f"epochs: {number + 1}.0\nseed: 0\n", encoding="utf-8")
    assert differences(*runs).values.tolist() == [
        ["epochs", "1.0", "2.0"],
        ["hashes.prompts.base", "0123456789ab", "1123456789ab"],
    ]
