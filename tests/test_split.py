"""The split: sources on one side, kinds in proportion."""

import pandas as pd
import pytest

from onelap import UserError
from onelap.split import grouped, split_notes


def notes_of(sources: int, each: int, kinds: str = "aaabbc") -> pd.DataFrame:
    rows = [
        {"id": f"{source}-{number}", "text": "", "kind": kinds[number % len(kinds)], "source": f"s{source}"}
        for source in range(sources)
        for number in range(each)
    ]
    return pd.DataFrame(rows)


def test_no_source_is_on_both_sides_and_kinds_keep_their_shares():
    notes = notes_of(20, 12)
    split = split_notes(notes, 0.2, 0.15, seed=0)
    assert split.groupby("source")["part"].nunique().max() == 1
    shares = split["part"].value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.2, abs=0.03)
    assert shares["validation"] == pytest.approx(0.15, abs=0.03)
    by_part = split.groupby("part")["kind"].value_counts(normalize=True).unstack()
    assert by_part.loc["test"].to_dict() == pytest.approx({"a": 0.5, "b": 1 / 3, "c": 1 / 6}, abs=0.05)


@pytest.mark.parametrize(("test", "validation"), [(0.4, 0.1), (0.1, 0.3), (0.45, 0.2)])
def test_shares_come_out_as_asked(test, validation):
    shares = split_notes(notes_of(40, 6), test, validation, seed=0)["part"].value_counts(normalize=True)
    assert shares["test"] == pytest.approx(test, abs=0.03)
    assert shares["validation"] == pytest.approx(validation, abs=0.03)


def test_the_same_seed_gives_the_same_split_and_another_one_another():
    notes = notes_of(20, 12)
    first, again, other = (split_notes(notes, 0.2, 0.15, seed)["part"] for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)


def test_without_sources_every_note_stands_for_itself():
    notes = notes_of(1, 60)
    assert not grouped(notes)
    split = split_notes(notes, 0.2, 0.15, seed=0)
    assert set(split["part"]) == {"train", "validation", "test"}


def test_notes_of_unknown_source_do_not_hang_together():
    notes = pd.concat([notes_of(6, 10), notes_of(1, 40).assign(source="")], ignore_index=True)
    notes["id"] = [str(number) for number in range(len(notes))]
    split = split_notes(notes, 0.2, 0.2, seed=0)
    assert grouped(notes)
    assert set(split.loc[split["source"] == "", "part"]) == {"train", "validation", "test"}
    assert split[split["source"] != ""].groupby("source")["part"].nunique().max() == 1


def test_a_kind_of_two_sources_stays_learnable_and_one_of_a_single_source_too():
    notes = pd.concat([notes_of(10, 12, "aab"), notes_of(1, 30, "d").assign(source="only")], ignore_index=True)
    notes["id"] = [str(number) for number in range(len(notes))]
    split = split_notes(notes, 0.2, 0.15, seed=0)
    assert (split.loc[split["kind"] == "d", "part"] == "train").all()


def test_kinds_that_cannot_be_split_are_named():
    """Three sources of one kind each: two of the kinds would not be in train."""
    notes = pd.concat([notes_of(1, 10, kind).assign(source=kind) for kind in "abc"], ignore_index=True)
    notes["id"] = [str(number) for number in range(len(notes))]
    with pytest.raises(UserError, match="none is left to train on"):
        split_notes(notes, 0.3, 0.3, seed=0)
