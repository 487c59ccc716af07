"""Duplicates and near-duplicates: which notes are, and which are not."""

import random

import pandas as pd

from onelap.notes.duplicates import drop_duplicates, near_duplicates

RAW = "moved the beans under glass last night, frost took half of the row outside anyway. next year wait for may"
TIDY = (
    "Moved the beans under glass last night; frost took half of the row outside anyway. Next year I will wait for May."
)
JAPANESE = (
    "昨夜、豆の苗を温室に移した。外の列は霜で半分やられた。来年は五月まで待つことにする。焦っても良いことはない。"
)
OTHER = "The committee chose gravel over bark for the paths, because bark has to be bought again every second spring."


def pairs_of(*texts, kinds=None):
    ids = [str(number) for number in range(len(texts))]
    return near_duplicates(pd.DataFrame({"id": ids, "text": texts, "kind": kinds or ["a"] * len(texts)}))


def test_tidied_copy_is_a_near_duplicate_in_any_script():
    pairs = pairs_of(RAW, OTHER, TIDY, JAPANESE, JAPANESE.replace("半分", "ほとんど"))
    assert sorted(map(tuple, pairs[["id", "like"]].values)) == [("0", "2"), ("3", "4")]


def test_note_inside_a_longer_one_is_a_near_duplicate_of_another_kind():
    (pair,) = pairs_of(OTHER, f"{RAW}\n\n{OTHER}\n\n{JAPANESE}", kinds=["a", "b"]).to_dict(orient="records")
    assert pair["shared"] > 0.9 and not pair["same_kind"]


def test_common_phrase_is_not_a_near_duplicate():
    assert pairs_of(f"{RAW} Thanks and regards, Mia", f"{OTHER} Thanks and regards, Mia").empty


def test_template_in_every_note_is_not_a_near_duplicate():
    """Sixty short notes under one heading of forty letters."""
    words = ["beans", "glass", "paths", "frost", "bark", "tulip", "spade", "hedge", "slug", "wasp", "onion", "gate"]
    choices = [" ".join(random.Random(number).choices(words, k=12)) for number in range(60)]
    assert pairs_of(*[f"Weekly garden review, third allotment, north side: {choice}" for choice in choices]).empty


def test_many_copies_of_one_text_are_all_near_duplicates():
    copies = [f"{RAW} Copy number {number} of it." for number in range(80)]
    pairs = pairs_of(OTHER, *copies)
    assert set(pairs["id"]) | set(pairs["like"]) == {str(number) for number in range(1, 81)}


def test_common_web_address_is_not_a_near_duplicate():
    address = "https://example.org/gardening/vegetables/beans/under-glass-in-early-spring"
    assert pairs_of(f"{address} beans need warmth", f"sow in May, said Ruth: {address}").empty


def test_exact_duplicate_ignores_case_and_punctuation_and_the_test_note_is_kept():
    texts = ["Buy milk, and bread today", "buy milk and bread today!", "e\u0301te\u0301", "\u00e9t\u00e9", "🎈", "🎉"]
    notes = pd.DataFrame({"id": list("abcdef"), "text": texts, "kind": list("kkkkkk")})
    kept, dropped = drop_duplicates(notes, frozen_parts={})
    assert list(kept["id"]) == ["a", "c", "e", "f"]
    kept, dropped = drop_duplicates(notes, frozen_parts={"a": "train", "b": "test"})
    assert list(kept["id"]) == ["b", "c", "e", "f"]
    assert dropped[["id", "same_as"]].values.tolist() == [["a", "b"], ["d", "c"]]


def test_notes_too_short_to_compare_are_not_near_duplicates():
    assert pairs_of("milk", "milk", "", "🎈").empty
