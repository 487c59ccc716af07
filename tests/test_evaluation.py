"""Metrics against cases worked out by hand, and the verdict on planted ones."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from onelap import UserError
from onelap.verdict.compare import best_on_validation, compare, compare_by_kind, detectable_gain
from onelap.verdict.metrics import assess, calibration_error, measure, predictions_table, rate
from onelap.verdict.sentences import state_verdict
from onelap.verdict.tables import cost_table

KINDS = ["a", "b", "c"]


def arm(truth: str, predicted: str, confidence: float = 0.8) -> pd.DataFrame:
    """Predictions from strings such as "aab": one letter a note."""
    rest = (1 - confidence) / 2
    rows = np.array([[confidence if kind == guess else rest for kind in KINDS] for guess in predicted])
    notes = pd.DataFrame({"id": [str(number) for number in range(len(truth))], "kind": list(truth)})
    return predictions_table(notes, rows, KINDS, seconds=0.25)


def sources_of(count: int, each: int = 4) -> pd.Series:
    return pd.Series([f"s{number // each}" for number in range(count)])


def test_predictions_have_the_fields_of_the_contract():
    (row,) = arm("a", "b").to_dict(orient="records")
    assert row == {
        "id": "0",
        "kind": "a",
        "predicted": "b",
        "probabilities": {"a": 0.1, "b": 0.8, "c": 0.1},
        "seconds": 0.25,
    }


def test_rates_and_f1_by_hand():
    # a: 3 true, 2 found, 1 false alarm; b: 2 true, 1 found, 1 false alarm; c: never true, called once.
    metrics = measure(arm("aaabb", "aacab"), sources_of(5, 1), KINDS)
    assert metrics["n"] == 5
    assert metrics["accuracy"]["value"] == pytest.approx(3 / 5)
    assert metrics["recall"]["a"]["value"] == pytest.approx(2 / 3)
    assert metrics["recall"]["b"]["value"] == pytest.approx(1 / 2)
    assert metrics["recall"]["c"] == {"value": None, "low": None, "high": None, "n": 0}
    assert metrics["precision"]["a"]["value"] == pytest.approx(2 / 3)
    assert metrics["precision"]["b"]["value"] == pytest.approx(1.0)
    assert metrics["precision"]["c"] == {"value": 0.0, "low": 0.0, "high": pytest.approx(0.793, abs=1e-3), "n": 1}
    # F1: a 2/3, b 2·1·½/(1½) = 2/3, c 0.
    assert metrics["macro_f1"]["value"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert metrics["seconds_per_note"] == 0.25


def test_wilson_interval_of_the_textbook():
    """Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 gives 0.2553 to 0.3662."""
    found = rate(pd.Series([True] * 81 + [False] * 182))
    assert (found["low"], found["high"]) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


def test_calibration_error_by_hand():
    sure_and_right_half_the_time = arm("aabb", "aaaa", confidence=0.9)
    assert calibration_error(sure_and_right_half_the_time) == pytest.approx(0.4)
    mixed = pd.concat([arm("aa", "aa", 0.9), arm("aa", "bb", 0.6)])
    assert calibration_error(mixed) == pytest.approx((2 * 0.1 + 2 * 0.6) / 4)


def test_a_real_gain_a_real_loss_and_their_numbers():
    truth = "a" * 60
    bad, good = arm(truth, "b" * 40 + "a" * 20), arm(truth, "a" * 50 + "b" * 10)
    gain = compare("bad", bad, "good", good, sources_of(60))
    assert (gain["gained"], gain["lost"], gain["n"]) == (40, 10, 60)
    assert gain["difference"]["value"] == pytest.approx(0.5)
    assert gain["difference"]["low"] > 0
    # Two-sided binomial test, 40 of 50: 2·P(X ≥ 40), X ~ Bin(50, ½).
    assert gain["mcnemar_p"] == pytest.approx(2.386e-5, rel=1e-3)
    assert gain["verdict"] == "better"
    assert compare("good", good, "bad", bad, sources_of(60))["verdict"] == "worse"


def test_a_gain_too_small_for_n_cannot_be_told():
    truth = "a" * 40
    pair = compare("x", arm(truth, "a" * 30 + "b" * 10), "y", arm(truth, "a" * 33 + "b" * 7), sources_of(40))
    assert pair["difference"]["value"] > 0 and pair["verdict"] == "cannot_tell"


def test_a_gain_in_one_source_only_cannot_be_told():
    """Sixteen notes better, all of one author: McNemar alone would call it real."""
    truth = "a" * 64
    sources = pd.Series(["lucky"] * 16 + [f"s{number // 8}" for number in range(48)])
    pair = compare("x", arm(truth, "b" * 16 + "a" * 48), "y", arm(truth, truth), sources)
    assert pair["mcnemar_p"] < 0.001 and pair["verdict"] == "cannot_tell"


def test_identical_arms_cannot_be_told_apart():
    same = arm("abcabc", "abcbca")
    pair = compare("x", same, "y", same, sources_of(6, 1))
    assert (pair["gained"], pair["lost"], pair["mcnemar_p"]) == (0, 0, 1.0)
    assert pair["verdict"] == "cannot_tell" and pair["more_notes"] is None


def test_as_many_more_notes_as_it_says_would_tell():
    """The same difference on so many more notes: found in about four of five draws."""
    rng = np.random.default_rng(0)
    truth = "a" * 100
    few = compare(
        "x", arm(truth, "a" * 60 + "b" * 40), "y", arm(truth, "b" * 15 + "a" * 75 + "b" * 10), sources_of(100, 1)
    )
    assert (few["gained"], few["lost"], few["verdict"]) == (30, 15, "better")
    less = compare(
        "x", arm(truth, "a" * 60 + "b" * 40), "y", arm(truth, "b" * 22 + "a" * 68 + "b" * 10), sources_of(100, 1)
    )
    assert (less["gained"], less["lost"], less["verdict"]) == (30, 22, "cannot_tell")
    n = 100 + less["more_notes"]
    change = rng.choice([1, 0, -1], p=[0.30, 0.48, 0.22], size=(2000, n))
    gained, lost = (change == 1).sum(axis=1), (change == -1).sum(axis=1)
    found = np.mean([stats.binomtest(g, g + k).pvalue < 0.05 for g, k in zip(gained, lost, strict=True)])
    assert found == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize("sources", [1, 3, 4])
def test_few_sources_give_no_verdict_however_clear_it_looks(sources):
    truth = "a" * 60
    pair = compare("x", arm(truth, "b" * 60), "y", arm(truth, truth), sources_of(60, 60 // sources))
    assert pair["mcnemar_p"] < 1e-9 and pair["verdict"] == "cannot_tell" and pair["more_notes"] > 0


@pytest.mark.parametrize(("gained", "lost", "n"), [(4, 0, 4), (5, 0, 10), (4, 0, 100), (8, 2, 100)])
def test_the_notes_that_are_missing_give_the_power_that_is_promised(gained, lost, n):
    before, after = "b" * gained + "a" * (n - gained), "a" * gained + "b" * lost + "a" * (n - gained - lost)
    pair = compare("x", arm("a" * n, before), "y", arm("a" * n, after), sources_of(n, 1))
    assert pair["verdict"] == "cannot_tell"
    share, rng = gained / n, np.random.default_rng(0)
    change = rng.choice([1, 0, -1], p=[share, 1 - share - lost / n, lost / n], size=(2000, n + pair["more_notes"]))
    found = [
        stats.binomtest(g, g + k).pvalue < 0.05 if g + k else False
        for g, k in zip((change == 1).sum(axis=1), (change == -1).sum(axis=1), strict=True)
    ]
    assert 0.77 < np.mean(found) < 0.95 or share == 1.0


def test_intervals_hold_what_they_promise_with_few_sources():
    """No true difference, sources that lean one way or the other: at most one false verdict in ten."""
    rng, wrong = np.random.default_rng(0), 0
    truth, sources = "a" * 96, sources_of(96, 12)
    for _ in range(60):
        lean = np.repeat(1 / (1 + np.exp(-rng.normal(0, 1, 8))), 12)
        differ, up = rng.random(96) < 0.4, rng.random(96) < lean
        x = "".join("b" if d and u else "a" for d, u in zip(differ, up, strict=True))
        y = "".join("b" if d and not u else "a" for d, u in zip(differ, up, strict=True))
        wrong += compare("x", arm(truth, x), "y", arm(truth, y), sources)["verdict"] != "cannot_tell"
    assert wrong / 60 < 0.1


def test_a_class_absent_from_test_is_left_out_of_every_rate():
    metrics = measure(arm("aabb" * 5, "abab" * 5), sources_of(20), KINDS)
    assert metrics["recall"]["c"]["value"] is None and metrics["macro_f1"]["value"] == pytest.approx(0.5)


def test_a_silent_arm_has_no_calibration():
    notes = pd.DataFrame({"id": ["0", "1"], "kind": ["a", "b"]})
    assert calibration_error(predictions_table(notes, np.zeros((2, 3)), KINDS, 0.1)) is None


def test_a_kind_with_too_few_notes_or_none_gets_no_verdict():
    truth = "a" * 40 + "b" * 8
    by_kind = compare_by_kind("x", arm(truth, "b" * 48), "y", arm(truth, truth), sources_of(48), KINDS)
    assert by_kind["a"]["verdict"] == "better" and by_kind["b"] is None and by_kind["c"] is None


def test_no_answer_is_a_wrong_answer_and_no_kind_of_its_own():
    notes = pd.DataFrame({"id": ["0", "1"], "kind": ["a", "b"]})
    silent = predictions_table(notes, np.array([[1.0, 0, 0], [0, 0, 0]]), KINDS, 0.1)
    assert list(silent["predicted"]) == ["a", ""]
    metrics = measure(silent, sources_of(2, 1), KINDS)
    assert metrics["accuracy"]["value"] == 0.5 and metrics["macro_f1"]["value"] == pytest.approx(0.5)


def test_choices_between_arms_are_made_on_validation_notes():
    notes = pd.DataFrame({"id": ["x", "y"], "kind": ["a", "a"], "cluster": ["s", "t"]})
    right, wrong = [[1.0, 0, 0]] * 2, [[0, 1.0, 0]] * 2
    metrics = {
        arm: assess(notes, notes, np.array(probabilities), 0.1, {}, KINDS)[1]
        for arm, probabilities in (("lucky", wrong + right), ("chosen", right + wrong))
    }
    assert metrics["lucky"]["accuracy"]["value"] == 1.0
    assert best_on_validation(metrics, ["absent", "lucky", "chosen"]) == "chosen"


def test_arms_on_different_notes_are_refused():
    with pytest.raises(UserError, match="x and y were measured on different test notes"):
        compare("x", arm("aab", "aab"), "y", arm("aba", "aba"), sources_of(3, 1))


def test_the_sentence_may_say_that_qlora_lost():
    def pair(a, b, value, verdict):
        difference = {"value": value, "low": value - 0.1, "high": value + 0.1}
        return {"a": a, "b": b, "n": 88, "difference": difference, "verdict": verdict, "more_notes": 1234}

    tuned, cheap = pair("base", "qlora", 0.55, "better"), pair("tfidf", "qlora", -0.2, "worse")
    accuracy = {"base": 0.21, "qlora": 0.76, "tfidf": 0.82}
    assert state_verdict(accuracy, tuned, cheap) == (
        "base 21 % → qlora 76 % on 88 frozen test notes (+55 points, 95 % interval 45 to 65): "
        "fine-tuning helped; tfidf 82 %: QLoRA lost to it"
    )
    assert state_verdict(accuracy, tuned, cheap | {"verdict": "cannot_tell"}).endswith(
        "tfidf 82 %: cannot tell it from QLoRA (about 1,200 more test notes, from new sources, would)"
    )


@pytest.mark.parametrize(("n", "points"), [(10, None), (65, 0.21), (250, 0.11)])
def test_the_gain_that_so_many_notes_show(n, points):
    assert detectable_gain(n) == points


def test_the_detectable_gain_by_simulation():
    """Planted gains at and below the limit: McNemar finds the first four times in five, the second less often."""
    n, rng = 104, np.random.default_rng(0)
    limit = detectable_gain(n)

    def power(gain):
        change = rng.choice([1, 0, -1], p=[(1 / 3 + gain) / 2, 2 / 3, (1 / 3 - gain) / 2], size=(4000, n))
        gained, lost = (change == 1).sum(axis=1), (change == -1).sum(axis=1)
        return np.mean([stats.binomtest(g, g + k).pvalue <= 0.05 for g, k in zip(gained, lost, strict=True)])

    assert power(limit) >= 0.78 and power(limit - 0.02) < 0.8


def test_cost_is_told_by_arm_with_generating_and_for_a_year():
    arms = {
        "tfidf": {"seconds_per_note": 0.0005, "peak_memory_gb": {"process": 0.5, "card": 0.0}},
        "endpoint": {"seconds_per_note": 2.0, "peak_memory_gb": {"process": None, "card": None}},
        "qlora": {
            "seconds_per_note": 0.5,
            "peak_memory_gb": {"process": 1.25, "card": 2.5},
            "generating": {"seconds_per_note": 1.0, "peak_memory_gb": {"process": 1.25, "card": 3.0}},
        },
    }
    table = cost_table(arms, 3600)
    assert list(table.index) == ["tfidf", "qlora", "qlora, generated and parsed", "endpoint"]
    assert list(table["notes a second"]) == ["2,000", "2", "1", "0.5"]
    assert list(table["3,600 notes"]) == ["2 s", "30 min", "60 min", "2.0 h"]
    assert list(table["GB of the process"]) == ["0.50", "1.25", "1.25", "–"]
    assert list(table["GB of the card"]) == ["0.00", "2.50", "3.00", "–"]
    for measured in [*arms.values(), arms["qlora"]["generating"]]:
        measured["peak_memory_gb"]["card"] = None
    assert "GB of the card" not in cost_table(arms, 100)
    assert cost_table(arms, 100)["100 notes"]["tfidf"] == "under 1 s"
