"""Corrections after training, and the confidence from which an answer is sure."""

import numpy as np
import pandas as pd
import pytest

from onelap.arms.calibration import Calibration, adjust_for_skew, fit, without_label_bias

KINDS = ["common", "rare"]
TRAINED_ON = pd.Series(["common"] * 800 + ["rare"] * 200)


def test_skew_adjustment_leaves_a_model_of_mere_shares_no_preference():
    shares = np.array([[0.8, 0.2]])
    for strength, expected in ((1.0, [[0.5, 0.5]]), (0.5, [[2 / 3, 1 / 3]]), (0.0, shares)):
        adjusted = adjust_for_skew(TRAINED_ON, KINDS, strength).apply(shares)
        assert adjusted == pytest.approx(np.array(expected), abs=1e-3)


def test_skew_adjustment_leaves_certain_answers_certain():
    assert adjust_for_skew(TRAINED_ON, KINDS, 0.5).apply(np.array([[1.0, 0.0]])) == pytest.approx(
        np.array([[1.0, 0.0]])
    )


def test_label_bias_is_removed_and_differences_between_notes_stay():
    """A model that answers "common" to every note, but is a little less sure of the last one."""
    biased = np.array([[0.9999, 0.0001]] * 4 + [[0.99, 0.01]])
    unbiased = without_label_bias(biased, TRAINED_ON, KINDS).apply(biased)
    assert list(unbiased.argmax(axis=1)) == [0, 0, 0, 0, 1]
    assert unbiased.mean(axis=0) == pytest.approx([0.8, 0.2], abs=1e-3)


def test_fit_gives_a_model_twice_too_sure_a_temperature_of_two():
    rng = np.random.default_rng(0)
    honest = rng.uniform(0.02, 0.98, 4000)
    truth = pd.Series(np.where(rng.random(4000) < honest, "common", "rare"))
    logits = np.stack([np.log(honest), np.log(1 - honest)], axis=1)
    too_sure = np.exp(2 * logits) / np.exp(2 * logits).sum(axis=1, keepdims=True)
    fitted = fit(Calibration(dict.fromkeys(KINDS, 0.0)), too_sure, truth, target=0.9)
    assert fitted.temperature == pytest.approx(2.0, rel=0.1)
    assert fitted.apply(too_sure)[:, 0] == pytest.approx(honest, abs=0.05)


def test_threshold_keeps_most_notes_at_the_target_accuracy():
    confidence = np.linspace(0.99, 0.6, 40)
    truth = pd.Series(["common"] * 30 + ["rare"] * 10)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    fitted = fit(Calibration(dict.fromkeys(KINDS, 0.0)), probabilities, truth, target=0.9)
    sure = fitted.apply(probabilities).max(axis=1) >= fitted.threshold
    assert sure.sum() == 33, "30 right and 3 wrong are 91 %, one more wrong would be 88 %"


def test_threshold_is_none_where_none_reaches_the_target():
    probabilities = np.tile([0.7, 0.3], (40, 1))
    truth = pd.Series(["common", "rare"] * 20)
    assert fit(Calibration(dict.fromkeys(KINDS, 0.0)), probabilities, truth, target=0.9).threshold is None


@pytest.mark.parametrize("probabilities", [[[0.8, 0.2]] * 5, [[0.8, 0.2]] * 40, [[1.0, 0.0]] * 40])
def test_temperature_stays_one_with_few_notes_or_none_wrong(probabilities):
    truth = pd.Series(["common"] * len(probabilities))
    assert fit(Calibration(dict.fromkeys(KINDS, 0.0)), np.array(probabilities), truth, 0.9).temperature == 1.0


def test_probabilities_of_impossible_and_unseen_kinds_are_finite():
    certain = np.array([[1.0, 0.0]] * 40)
    for calibration in (
        without_label_bias(certain, TRAINED_ON, KINDS),
        adjust_for_skew(TRAINED_ON[:800], KINDS, 1.0),
    ):
        assert np.isfinite(calibration.apply(certain)).all()


def test_temperature_does_not_depend_on_the_order_of_kinds():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 200)
    truth = pd.Series([rng.choice(["a", "b", "c"], p=row) for row in p])
    temperatures = []
    for order in ("abc", "cab"):
        columns = ["abc".index(kind) for kind in order]
        temperatures.append(fit(Calibration(dict.fromkeys(order, 0.0)), p[:, columns], truth, 0.9).temperature)
    assert temperatures[0] == pytest.approx(temperatures[1], rel=1e-3) and temperatures[0] == pytest.approx(1, abs=0.3)
