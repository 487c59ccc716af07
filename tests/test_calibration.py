"""Corrections after training."""

import json

import numpy as np
import pandas as pd
import pytest

from onelap.calibration import against_skew

KINDS = ["common", "rare"]
TRAINED_ON = pd.Series(["common"] * 8 + ["rare"] * 2)


def test_a_model_that_knows_only_the_shares_has_no_opinion_once_they_are_taken_out():
    knows_shares = np.array([[0.8, 0.2]])
    assert against_skew(TRAINED_ON, KINDS, 1.0).apply(knows_shares) == pytest.approx(np.array([[0.5, 0.5]]))
    assert against_skew(TRAINED_ON, KINDS, 0.5).apply(knows_shares) == pytest.approx(np.array([[2 / 3, 1 / 3]]))
    assert against_skew(TRAINED_ON, KINDS, 0.0).apply(knows_shares) == pytest.approx(knows_shares)


def test_certainty_stays_certain():
    assert against_skew(TRAINED_ON, KINDS, 0.5).apply(np.array([[1.0, 0.0]])).tolist() == [[1.0, 0.0]]


def test_it_is_kept_with_the_adapter(tmp_path):
    against_skew(TRAINED_ON, KINDS, 0.5).save(tmp_path)
    offsets = json.loads((tmp_path / "calibration.json").read_text(encoding="utf-8"))["offsets"]
    assert offsets["rare"] - offsets["common"] == pytest.approx(np.log(4) / 2)
