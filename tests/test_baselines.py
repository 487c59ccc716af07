"""The cheap arms, down to the smallest vault."""

import numpy as np
import pandas as pd
import pytest

from onelap.baselines import majority, tfidf

KINDS = ["knowledge", "none"]


def test_majority_gives_the_shares_of_the_training_notes():
    train = pd.DataFrame({"text": ["a", "b", "c", "d"], "kind": ["none", "none", "none", "knowledge"]})
    np.testing.assert_allclose(majority(train, ["x", "y"], KINDS), [[0.25, 0.75], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("knowledge", "none"),
    [
        (["水は百度で沸く", "鉄は千五百度で溶ける"], ["牛乳を買う", "歯医者に電話"]),
        (["water boils", "iron melts"], ["buy milk", "call dentist"]),
    ],
)
def test_tfidf_learns_from_four_notes_of_any_script(knowledge, none):
    train = pd.DataFrame({"text": knowledge + none, "kind": ["knowledge"] * 2 + ["none"] * 2})
    probabilities, seconds = tfidf(train, knowledge + none, KINDS)
    assert list(probabilities.argmax(axis=1)) == [0, 0, 1, 1] and seconds > 0


def test_a_kind_that_was_not_trained_gets_probability_zero():
    train = pd.DataFrame({"text": ["water boils", "buy milk"], "kind": KINDS})
    probabilities, _ = tfidf(train, ["buy tea"], [*KINDS, "value"])
    assert probabilities.shape == (1, 3) and probabilities[0, 2] == 0
