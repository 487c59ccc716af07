"""Metrics of one arm, against cases worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from onelap.verdict.metrics import calibration_error, measure, predictions_table, rate
from tests.predictions import KINDS, clusters_of, predict


def test_predictions_table_has_the_fields_of_the_contract():
    (row,) = predict("a", "b").to_dict(orient="records")
    assert row == {
        "id": "0",
        "kind": "a",
        "predicted": "b",
        "probabilities": {"a": 0.1, "b": 0.8, "c": 0.1},
        "seconds": 0.25,
    }


def test_measure_counts_no_answer_as_wrong_and_not_as_a_kind():
    notes = pd.DataFrame({"id": ["0", "1"], "kind": ["a", "b"]})
    silent = predictions_table(notes, np.array([[1.0, 0, 0], [0, 0, 0]]), KINDS, 0.1)
    assert list(silent["predicted"]) == ["a", ""]
    metrics = measure(silent, clusters_of(2, 1), KINDS)
    assert metrics["accuracy"]["value"] == 0.5 and metrics["macro_f1"]["value"] == pytest.approx(0.5)


def test_measure_gives_rates_and_f1_worked_out_by_hand():
    # a: 3 true, 2 found, 1 false alarm; b: 2 true, 1 found, 1 false alarm; c: never true, called once.
    metrics = measure(predict("aaabb", "aacab"), clusters_of(5, 1), KINDS)
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


def test_measure_leaves_a_kind_out_that_is_absent_from_test():
    metrics = measure(predict("aabb" * 5, "abab" * 5), clusters_of(20), KINDS)
    assert metrics["recall"]["c"]["value"] is None and metrics["macro_f1"]["value"] == pytest.approx(0.5)


def test_measure_gives_an_arm_without_answers_no_calibration_error():
    notes = pd.DataFrame({"id": ["0", "1"], "kind": ["a", "b"]})
    assert calibration_error(predictions_table(notes, np.zeros((2, 3)), KINDS, 0.1)) is None


def test_rate_has_the_wilson_interval_of_the_textbook():
    """Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263 gives 0.2553 to 0.3662."""
    found = rate(pd.Series([True] * 81 + [False] * 182))
    assert (found["low"], found["high"]) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


def test_calibration_error_is_the_one_worked_out_by_hand():
    sure_and_right_half_the_time = predict("aabb", "aaaa", confidence=0.9)
    assert calibration_error(sure_and_right_half_the_time) == pytest.approx(0.4)
    mixed = pd.concat([predict("aa", "aa", 0.9), predict("aa", "bb", 0.6)])
    assert calibration_error(mixed) == pytest.approx((2 * 0.1 + 2 * 0.6) / 4)
