"""Arms compared in pairs, and the verdict, on planted differences."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from onelap import UserError
from onelap.verdict.compare import best_on_validation, compare, compare_by_kind, detectable_gain
from onelap.verdict.metrics import is_right, measure, predictions_table, rate
from tests.predictions import KINDS, clusters_of, predict


def test_best_on_validation_does_not_look_at_the_test_notes():
    notes = pd.DataFrame({"id": ["x", "y"], "kind": ["a", "a"], "cluster": ["s", "t"]})
    right, wrong = [[1.0, 0, 0]] * 2, [[0, 1.0, 0]] * 2
    metrics = {}
    for arm, answers in {"lucky": (wrong, right), "chosen": (right, wrong)}.items():
        validation, test = (predictions_table(notes, np.array(part), KINDS, 0.1) for part in answers)
        metrics[arm] = measure(test, notes["cluster"], KINDS) | {"validation_accuracy": rate(is_right(validation))}
    assert metrics["lucky"]["accuracy"]["value"] == 1.0
    assert best_on_validation(metrics, ["absent", "lucky", "chosen"]) == "chosen"


def test_compare_finds_a_real_gain_and_a_real_loss_with_their_numbers():
    truth = "a" * 60
    bad, good = predict(truth, "b" * 40 + "a" * 20), predict(truth, "a" * 50 + "b" * 10)
    gain = compare("bad", bad, "good", good, clusters_of(60))
    assert (gain["gained"], gain["lost"], gain["n"]) == (40, 10, 60)
    assert gain["difference"]["value"] == pytest.approx(0.5)
    assert gain["difference"]["low"] > 0
    # Two-sided binomial test, 40 of 50: 2·P(X ≥ 40), X ~ Bin(50, ½).
    assert gain["mcnemar_p"] == pytest.approx(2.386e-5, rel=1e-3)
    assert gain["verdict"] == "better"
    assert compare("good", good, "bad", bad, clusters_of(60))["verdict"] == "worse"


def test_compare_cannot_tell_a_gain_that_is_too_small_for_n():
    truth = "a" * 40
    pair = compare("x", predict(truth, "a" * 30 + "b" * 10), "y", predict(truth, "a" * 33 + "b" * 7), clusters_of(40))
    assert pair["difference"]["value"] > 0 and pair["verdict"] == "cannot_tell"


def test_compare_cannot_tell_a_gain_in_one_source_only():
    """Sixteen notes better, all of one author: McNemar alone would call it real."""
    truth = "a" * 64
    sources = pd.Series(["lucky"] * 16 + [f"s{number // 8}" for number in range(48)])
    pair = compare("x", predict(truth, "b" * 16 + "a" * 48), "y", predict(truth, truth), sources)
    assert pair["mcnemar_p"] < 0.001 and pair["verdict"] == "cannot_tell"


def test_compare_cannot_tell_identical_arms_apart():
    same = predict("abcabc", "abcbca")
    pair = compare("x", same, "y", same, clusters_of(6, 1))
    assert (pair["gained"], pair["lost"], pair["mcnemar_p"]) == (0, 0, 1.0)
    assert pair["verdict"] == "cannot_tell" and pair["more_notes"] is None


@pytest.mark.parametrize("sources", [1, 3, 4])
def test_compare_gives_no_verdict_on_few_sources(sources):
    truth = "a" * 60
    pair = compare("x", predict(truth, "b" * 60), "y", predict(truth, truth), clusters_of(60, 60 // sources))
    assert pair["mcnemar_p"] < 1e-9 and pair["verdict"] == "cannot_tell" and pair["more_notes"] > 0


def test_compare_is_wrong_in_one_of_ten_cases_at_most_with_few_sources():
    """No true difference, sources that lean one way or the other: at most one false verdict in ten."""
    rng, wrong = np.random.default_rng(0), 0
    truth, sources = "a" * 96, clusters_of(96, 12)
    for _ in range(60):
        lean = np.repeat(1 / (1 + np.exp(-rng.normal(0, 1, 8))), 12)
        differ, up = rng.random(96) < 0.4, rng.random(96) < lean
        x = "".join("b" if d and u else "a" for d, u in zip(differ, up, strict=True))
        y = "".join("b" if d and not u else "a" for d, u in zip(differ, up, strict=True))
        wrong += compare("x", predict(truth, x), "y", predict(truth, y), sources)["verdict"] != "cannot_tell"
    assert wrong / 60 < 0.1


def test_compare_refuses_arms_on_different_notes():
    with pytest.raises(UserError, match="x and y were measured on different test notes"):
        compare("x", predict("aab", "aab"), "y", predict("aba", "aba"), clusters_of(3, 1))


def test_more_notes_as_many_as_it_says_show_the_same_difference():
    """The same difference on so many more notes: found in about four of five draws."""
    rng = np.random.default_rng(0)
    truth = "a" * 100
    few = compare(
        "x",
        predict(truth, "a" * 60 + "b" * 40),
        "y",
        predict(truth, "b" * 15 + "a" * 75 + "b" * 10),
        clusters_of(100, 1),
    )
    assert (few["gained"], few["lost"], few["verdict"]) == (30, 15, "better")
    less = compare(
        "x",
        predict(truth, "a" * 60 + "b" * 40),
        "y",
        predict(truth, "b" * 22 + "a" * 68 + "b" * 10),
        clusters_of(100, 1),
    )
    assert (less["gained"], less["lost"], less["verdict"]) == (30, 22, "cannot_tell")
    n = 100 + less["more_notes"]
    change = rng.choice([1, 0, -1], p=[0.30, 0.48, 0.22], size=(2000, n))
    gained, lost = (change == 1).sum(axis=1), (change == -1).sum(axis=1)
    found = np.mean([stats.binomtest(g, g + k).pvalue < 0.05 for g, k in zip(gained, lost, strict=True)])
    assert found == pytest.approx(0.8, abs=0.08)


def test_more_notes_are_the_fewest_that_show_a_gain_on_every_note():
    """Six of six notes gained: 2·(½)⁶ = 0.03; five of five would be 0.06."""
    pair = compare("x", predict("aaaa", "bbbb"), "y", predict("aaaa", "aaaa"), clusters_of(4, 1))
    assert (pair["verdict"], pair["more_notes"]) == ("cannot_tell", 2)


@pytest.mark.parametrize(("gained", "lost", "n"), [(5, 0, 10), (4, 0, 100), (8, 2, 100)])
def test_more_notes_give_the_power_that_is_promised(gained, lost, n):
    before, after = "b" * gained + "a" * (n - gained), "a" * gained + "b" * lost + "a" * (n - gained - lost)
    pair = compare("x", predict("a" * n, before), "y", predict("a" * n, after), clusters_of(n, 1))
    assert pair["verdict"] == "cannot_tell"
    share, rng = gained / n, np.random.default_rng(0)
    change = rng.choice([1, 0, -1], p=[share, 1 - share - lost / n, lost / n], size=(2000, n + pair["more_notes"]))
    found = [
        stats.binomtest(g, g + k).pvalue < 0.05 if g + k else False
        for g, k in zip((change == 1).sum(axis=1), (change == -1).sum(axis=1), strict=True)
    ]
    assert 0.77 < np.mean(found) < 0.95


def test_compare_by_kind_gives_no_verdict_on_a_kind_with_few_notes():
    truth = "a" * 40 + "b" * 8
    by_kind = compare_by_kind("x", predict(truth, "b" * 48), "y", predict(truth, truth), clusters_of(48), KINDS)
    assert by_kind["a"]["verdict"] == "better" and by_kind["b"] is None and by_kind["c"] is None


@pytest.mark.parametrize(("n", "points"), [(10, None), (65, 0.21), (250, 0.11)])
def test_detectable_gain_falls_with_the_number_of_notes(n, points):
    assert detectable_gain(n) == points


def test_detectable_gain_is_found_in_four_of_five_simulations():
    """Planted gains at and below the limit: McNemar finds the first four times in five, the second less often."""
    n, rng = 104, np.random.default_rng(0)
    limit = detectable_gain(n)

    def power(gain):
        change = rng.choice([1, 0, -1], p=[(1 / 3 + gain) / 2, 2 / 3, (1 / 3 - gain) / 2], size=(4000, n))
        gained, lost = (change == 1).sum(axis=1), (change == -1).sum(axis=1)
        return np.mean([stats.binomtest(g, g + k).pvalue <= 0.05 for g, k in zip(gained, lost, strict=True)])

    assert power(limit) >= 0.78 and power(limit - 0.02) < 0.8
