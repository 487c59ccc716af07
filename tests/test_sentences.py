"""The verdict and its numbers in words, and in tables."""

import pandas as pd

from onelap.verdict.compare import compare
from onelap.verdict.metrics import measure, measure_sure
from onelap.verdict.sentences import name_of, percent, points_with_interval, state_verdict, with_interval
from onelap.verdict.tables import arms_table, cost_table, disagreements_table, mistakes_table, pairs_table, show_rows
from tests.predictions import KINDS, clusters_of, predict


def test_name_of_keeps_the_identifier_of_an_arm_without_a_name():
    assert name_of("base_unbiased") == "untuned, label bias removed" and name_of("of my own") == "of my own"


def test_numbers_are_written_rounded_and_never_as_minus_zero():
    assert percent(0.475) == "48 %" and percent(-0.001) == "0 %" and percent(None) == "–"
    assert with_interval({"value": 0.48, "low": 0.384, "high": 0.577}) == "48 % (38 to 58)"
    assert with_interval({"value": None, "low": None, "high": None}) == "–"
    assert points_with_interval({"value": 0.4, "low": 0.27, "high": 0.551}) == "+40 points, 95 % interval 27 to 55"


def test_state_verdict_says_so_when_qlora_lost():
    def pair(a, b, value, verdict):
        difference = {"value": value, "low": value - 0.1, "high": value + 0.1}
        return {"a": a, "b": b, "n": 88, "difference": difference, "verdict": verdict, "more_notes": 1234}

    tuned, cheap = pair("base", "qlora", 0.55, "better"), pair("tfidf", "qlora", -0.2, "worse")
    accuracy = {"base": 0.21, "qlora": 0.76, "tfidf": 0.82, "majority": 0.2, "blend": 0.84}
    assert state_verdict(accuracy, tuned, cheap, "blend") == (
        "untuned: 21 % → QLoRA: 76 % on 88 frozen test notes (+55 points, 95 % interval 45 to 65): "
        "fine-tuning helped; TF-IDF: 82 %: QLoRA lost to it; "
        "new notes are sorted by: probe and TF-IDF together (84 %)"
    )
    unclear = state_verdict(accuracy, tuned, cheap | {"verdict": "cannot_tell"}, "qlora")
    assert "TF-IDF: 82 %: cannot tell it from QLoRA (about 1,200 more test notes, from new sources, would)" in unclear
    assert state_verdict(accuracy | {"majority": 0.34}, tuned, cheap, "tfidf").startswith(
        "untuned: 21 % (always the most frequent kind: 34 %) → QLoRA: 76 %"
    ), "what lies below one answer for all is not an achievement to beat"


def test_cost_table_has_every_arm_and_generated_answers_the_slowest_last():
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
    assert list(table.index) == ["TF-IDF", "QLoRA", "QLoRA, generated and parsed", "general model"]
    assert list(table["notes a second"]) == ["2,000", "2", "1", "0.5"]
    assert list(table["3,600 notes"]) == ["2 s", "30 min", "60 min", "2.0 h"]
    assert list(table["GB of the process"]) == ["0.50", "1.25", "1.25", "–"]
    assert list(table["GB of the card"]) == ["0.00", "2.50", "3.00", "–"]
    for measured in [*arms.values(), arms["qlora"]["generating"]]:
        measured["peak_memory_gb"]["card"] = None
    assert "GB of the card" not in cost_table(arms, 100)
    assert cost_table(arms, 100)["100 notes"]["TF-IDF"] == "under 1 s"


def test_arms_table_has_the_name_and_the_identifier_of_each_arm():
    predictions = predict("aabb", "aabc")
    measured = measure(predictions, clusters_of(4, 1), KINDS) | {"sure_enough": measure_sure(predictions, 0.0)}
    table = arms_table({"tfidf": measured})
    (row,) = table.itertuples()
    assert table.loc["TF-IDF", "sure, right of these"] == "100 % / 75 %"
    assert (row.Index, row.arm) == ("TF-IDF", "tfidf") and row[2] == "75 % (30 to 95)"


def test_pairs_table_has_the_difference_in_points_and_the_verdict():
    truth = "a" * 60
    gain = compare("base", predict(truth, "b" * 30 + "a" * 30), "qlora", predict(truth, truth), clusters_of(60, 4))
    same = compare("tfidf", predict(truth, truth), "qlora", predict(truth, truth), clusters_of(60, 4))
    table = pairs_table([gain, same])
    assert list(table.index) == ["untuned → QLoRA", "TF-IDF → QLoRA"]
    assert table["points (95 % interval)"].iloc[0].startswith("+50 (+")
    assert list(table["verdict"]) == ["better", "cannot_tell"]
    assert list(table["more notes needed"]) == ["", "no number"]


def test_mistakes_table_lists_the_surest_wrong_answers_first():
    predictions = pd.concat([predict("ab", "ba", 0.6), predict("bc", "ac", 0.9)], ignore_index=True)
    predictions["id"] = list("wxyz")
    table = mistakes_table(predictions, None, 2)
    assert table.to_dict(orient="list") == {
        "id": ["y", "w"], "kind": ["b", "a"], "predicted": ["a", "b"], "probability": ["90 %", "60 %"],
    }  # fmt: skip
    texts = pd.Series({"w": "first", "x": "second", "y": "third", "z": "fourth"})
    assert list(mistakes_table(predictions, texts, 5)["text"]) == ["third", "first", "second"]


def test_mistakes_table_of_an_arm_without_mistakes_is_empty():
    assert len(mistakes_table(predict("ab", "ab"), pd.Series({"0": "text", "1": "text"}), 5)) == 0


def test_disagreements_table_compares_the_notes_that_both_have():
    a, b = predict("aabc", "abba"), predict("aabca", "babbb")
    table = disagreements_table("old", a, "new", b.iloc[[4, 3, 2, 1, 0]], pd.Series({"0": "one"}))
    assert list(table.columns) == ["id", "kind", "old", "new", "change", "text"]
    assert dict(zip(table["id"], table["change"], strict=True)) == {"0": "lost", "1": "gained", "3": "both wrong"}
    assert table["text"][table["id"] == "0"].item() == "one"


def test_show_rows_cuts_long_texts_and_shows_markup_as_text():
    shown = show_rows(pd.DataFrame({"id": ["x", "y"], "text": ["<script>alert()</script>\nend", "a" * 5000]})).to_html()
    assert "<script>" not in shown and "&lt;script&gt;alert()&lt;/script&gt;\nend" in shown
    assert "a" * 600 + "…" in shown and "a" * 601 not in shown
