"""The arm that did best, at work: sorting with any arm of a run."""

import json
import shutil

import numpy as np
import pytest

from onelap import UserError
from onelap.daily.sort import Sorter
from onelap.lap.run import Run
from onelap.verdict.compare import SORTERS


def test_winner_is_the_sorter_with_the_highest_accuracy_on_validation(lap):
    run = Run(lap[0])
    accuracy = {arm: run.read_arm(arm)[1]["validation_accuracy"]["value"] for arm in SORTERS}
    assert accuracy[run.winner] == max(accuracy.values())
    assert "new notes are sorted by: " in json.loads(run.comparison_path.read_text(encoding="utf-8"))["sentence"]


@pytest.mark.parametrize("arm", SORTERS)
def test_each_arm_sorts_as_it_was_measured(lap, arm):
    run = Run(lap[0])
    test, (predictions, metrics) = run.read_part("test"), run.read_arm(arm)
    sorter = Sorter.load(run, arm=arm)
    answers = sorter.answer(test["text"].tolist())
    assert [answer.kind for answer in answers] == list(predictions["predicted"])
    ours, measured = (
        np.array([list(row.values()) for row in rows])
        for rows in ([answer.probabilities for answer in answers], predictions["probabilities"])
    )
    np.testing.assert_allclose(ours, measured, atol=2e-4)
    assert np.mean([answer.sure for answer in answers]) == metrics["sure_enough"]["coverage"]["value"]


def test_every_arm_with_probabilities_has_a_calibration(lap):
    run = Run(lap[0])
    for arm, (_, metrics) in run.read_arms().items():
        calibration = run.read_sorter(arm)["calibration"]
        assert metrics["sure_enough"]["threshold"] == calibration["threshold"], arm


def test_tfidf_sorts_without_the_base_and_the_probe_does_not(lap, onelap, tmp_path):
    folder = shutil.copytree(lap[0], tmp_path / "run")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record["scoring"]["base_model"] = str(tmp_path / "gone")
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "note.md").write_text("the kettle boils", encoding="utf-8")
    result = onelap("sort", tmp_path / "note.md", "--run", folder, "--arm", "tfidf")
    assert result.returncode == 0 and json.loads(result.stdout)["kind"], result.stderr
    for arm in ("probe", "blend", "qlora"):
        with pytest.raises(UserError, match="gone: there is no such folder"):
            Sorter.load(folder, arm=arm)


@pytest.mark.parametrize("arm", ["probe", "blend"])
def test_damaged_arm_is_refused(lap, tmp_path, arm):
    folder = shutil.copytree(lap[0], tmp_path / "run")
    file = folder / f"arms/{arm}/sorter.json"
    file.write_text(file.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"sorter.json: expected the file that the run has made, found a damaged or"):
        Sorter.load(folder, arm=arm)


def test_sort_command_names_the_arm_and_takes_another(lap, onelap, complaint, tmp_path):
    (tmp_path / "note.md").write_text("the kettle boils", encoding="utf-8")
    result = onelap("sort", tmp_path / "note.md", "--run", lap[0], "--arm", "tfidf")
    assert result.returncode == 0 and f"sorting with TF-IDF (tfidf) of {lap[0]}" in result.stderr
    assert json.loads(result.stdout)["kind"]
    message = complaint("sort", tmp_path / "note.md", "--run", lap[0], "--arm", "majority")
    assert "--arm: expected one of blend, probe, tfidf, qlora, found majority" in message
