"""The cheap arms, also on very few notes."""

import numpy as np
import pandas as pd
import pytest

from onelap.arms.cheap import embeddings_model, learn, majority_model, markup_model, out_of_fold, tfidf_model

KINDS = ["knowledge", "none"]


def test_majority_gives_the_shares_of_the_training_notes():
    train = pd.DataFrame({"text": ["a", "b", "c", "d"], "kind": ["none", "none", "none", "knowledge"]})
    probabilities, _ = learn(majority_model(), train, pd.Series(["x", "y"]), KINDS)
    np.testing.assert_allclose(probabilities, [[0.25, 0.75], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("knowledge", "none"),
    [
        (["水は百度で沸く", "鉄は千五百度で溶ける"], ["牛乳を買う", "歯医者に電話"]),
        (["water boils", "iron melts"], ["buy milk", "call dentist"]),
    ],
)
def test_tfidf_learns_from_four_notes_of_any_script(knowledge, none):
    train = pd.DataFrame({"text": knowledge + none, "kind": ["knowledge"] * 2 + ["none"] * 2})
    probabilities, seconds = learn(tfidf_model(), train, pd.Series(knowledge + none), KINDS)
    assert list(probabilities.argmax(axis=1)) == [0, 0, 1, 1] and seconds > 0


def test_kind_without_training_notes_gets_probability_zero():
    train = pd.DataFrame({"text": ["water boils", "buy milk"], "kind": KINDS})
    probabilities, _ = learn(tfidf_model(), train, pd.Series(["buy tea"]), [*KINDS, "value"])
    assert probabilities.shape == (1, 3) and probabilities[0, 2] == 0


def test_markup_model_sees_form_and_no_words():
    lists = [f"- one\n- two {number}" for number in range(6)]
    prose = [f"There is a long sentence about nothing much {number}" for number in range(6)]
    notes = pd.DataFrame({"text": lists + prose, "kind": ["none"] * 6 + ["knowledge"] * 6})
    model = markup_model().fit(notes["text"], notes["kind"])
    assert list(model.predict(pd.Series(["- x\n- y 1", "Another long sentence on something else 3"]))) == [
        "none",
        "knowledge",
    ]
    assert model.predict_proba(pd.Series(["- one\n- two 7"])) == pytest.approx(
        model.predict_proba(pd.Series(["- abc\n- xyz 9"]))
    )


def test_out_of_fold_probabilities_come_from_models_that_have_not_seen_the_cluster():
    """Every source has words of its own for each kind: sources of the training notes are easy, others pure chance."""
    words = iter(
        ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "ivory", "jumbo", "koala", "lemur"]
    )
    rows = []
    for source in range(6):
        for kind in KINDS:
            rows += [{"text": next(words), "kind": kind, "source": source}] * 4
    notes = pd.DataFrame(rows)
    truth = notes["kind"].map(KINDS.index)
    assert (out_of_fold(tfidf_model(), notes["text"], notes, KINDS).argmax(axis=1) == truth).all()
    apart = out_of_fold(tfidf_model(), notes["text"], notes.assign(cluster=notes["source"]), KINDS)
    assert (apart.argmax(axis=1) == truth).mean() < 0.8


def test_embeddings_model_learns_with_an_encoder_from_a_folder(toy_base):
    """The toy base stands in for a sentence-embedding model."""
    train = pd.DataFrame(
        {
            "text": ["milk milk milk", "milk milk", "kettle kettle", "kettle"],
            "kind": ["none", "none", *["knowledge"] * 2],
        }
    )
    texts = pd.Series(["milk milk milk milk", "kettle kettle kettle"])
    probabilities, seconds = learn(embeddings_model(str(toy_base)), train, texts, KINDS)
    assert list(probabilities.argmax(axis=1)) == [1, 0] and seconds > 0
