"""Probabilities of unlike arms, blended."""

import numpy as np
import pandas as pd
import pytest

from onelap.arms.blend import blend, fit_weights, log_loss

KINDS = ["a", "b", "c"]


@pytest.fixture
def answers():
    """The truth of 300 notes, a good member that is unsure, and one that answers at random."""
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 3, 300)
    right = np.where(rng.random(300) < 0.8, columns, rng.integers(0, 3, 300))
    good = np.full((300, 3), 0.2)
    good[np.arange(300), right] = 0.6
    return pd.Series(np.array(KINDS)[columns]), good, rng.dirichlet([1, 1, 1], 300)


def test_blend_with_all_weight_on_one_member_is_that_member(answers):
    _, good, random = answers
    np.testing.assert_allclose(blend([good, random], [1.0, 0.0]), good, atol=1e-9)
    np.testing.assert_allclose(blend([good, random], [0.7, 0.2]), blend([random, good], [0.2, 0.7]))
    np.testing.assert_allclose(blend([good, random], [0.7, 0.2]).sum(axis=1), 1.0)


def test_member_that_answers_at_random_gets_no_weight(answers):
    truth, good, random = answers
    weights = fit_weights([good, random], truth, KINDS)
    assert weights[0] > 0.5 and weights[1] < 0.1


def test_members_that_know_different_notes_are_better_together():
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 3, 400)
    members = []
    for known in (rng.random(400) < 0.6, rng.random(400) < 0.6):
        member = np.full((400, 3), 1 / 3)
        member[known] = 0.05
        member[known, columns[known]] = 0.9
        members.append(member)
    truth = pd.Series(np.array(KINDS)[columns])
    together = log_loss(blend(members, fit_weights(members, truth, KINDS)), truth, KINDS)
    assert together < 0.8 * min(log_loss(member, truth, KINDS) for member in members)


def test_member_that_is_too_sure_gets_a_weight_below_one(answers):
    truth, good, _ = answers
    too_sure = good**5 / (good**5).sum(axis=1, keepdims=True)
    (fair,), (low,) = fit_weights([good], truth, KINDS), fit_weights([too_sure], truth, KINDS)
    assert low == pytest.approx(fair / 5, rel=0.05)


def test_probability_of_zero_does_not_veto():
    certain, fair = np.array([[1.0, 0.0, 0.0]]), np.array([[0.1, 0.8, 0.1]])
    blended = blend([certain, fair], [0.05, 1.0])
    assert np.isfinite(blended).all() and blended.argmax() == 1
    assert np.isfinite(log_loss(certain, pd.Series(["b"]), KINDS))
