"""The split: sources and near-duplicates on one side, kinds in proportion, frozen."""

import json

import pandas as pd
import pytest

from onelap import PROJECT, UserError
from onelap.notes.duplicates import near_duplicates
from onelap.notes.split import FrozenSplit, enough_sources, locate_split, split_notes

SHARES = {"validation": 0.15, "test": 0.2}
NO_PAIRS = near_duplicates(pd.DataFrame({"id": ["x"], "text": [""], "kind": ["a"]}))


def notes_of(sources: int, each: int, kinds: str = "aaabbc") -> pd.DataFrame:
    rows = [
        {"id": f"{source}-{number}", "text": "", "kind": kinds[number % len(kinds)], "source": f"s{source}"}
        for source in range(sources)
        for number in range(each)
    ]
    return pd.DataFrame(rows).assign(style="")


def pair(first: int, second: int) -> pd.DataFrame:
    return pd.DataFrame({"first": [first], "second": [second]})


def parts_of(notes, **options):
    arguments = {
        "pairs": NO_PAIRS,
        "shares": SHARES,
        "seed": 0,
        "frozen_parts": {},
        "by_source": enough_sources(notes),
    } | options
    return split_notes(notes, **arguments)


def renumbered(*tables):
    notes = pd.concat(tables, ignore_index=True)
    notes["id"] = [str(number) for number in range(len(notes))]
    return notes


def test_split_keeps_sources_together_and_kinds_in_proportion():
    split = parts_of(notes_of(20, 12))
    assert split.groupby("source")["part"].nunique().max() == 1
    shares = split["part"].value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.2, abs=0.03)
    assert shares["validation"] == pytest.approx(0.15, abs=0.03)
    by_part = split.groupby("part")["kind"].value_counts(normalize=True).unstack()
    assert by_part.loc["test"].to_dict() == pytest.approx({"a": 0.5, "b": 1 / 3, "c": 1 / 6}, abs=0.05)


@pytest.mark.parametrize(("test", "validation"), [(0.4, 0.1), (0.1, 0.3), (0.45, 0.2)])
def test_split_has_the_requested_shares(test, validation):
    split = parts_of(notes_of(40, 6), shares={"validation": validation, "test": test})
    shares = split["part"].value_counts(normalize=True)
    assert shares["test"] == pytest.approx(test, abs=0.03)
    assert shares["validation"] == pytest.approx(validation, abs=0.03)


@pytest.mark.parametrize(("sources", "test"), [(3, 0.2), (4, 0.1), (6, 0.3), (6, 0.05)])
def test_split_of_few_large_sources_leaves_no_part_empty(sources, test):
    split = parts_of(notes_of(sources, 24), shares={"validation": 0.15, "test": test})
    assert set(split["part"]) == {"train", "validation", "test"}


def test_split_spreads_sources_of_one_kind_by_kind():
    notes = renumbered(*(notes_of(8, 10, kind).assign(source=lambda t, k=kind: k + t["source"]) for kind in "abc"))
    counts = parts_of(notes).groupby(["part", "kind"]).size()
    assert counts.loc["test"].to_dict() == {"a": 20, "b": 20, "c": 20}


def test_split_is_the_same_with_the_same_seed_only():
    first, again, other = (parts_of(notes_of(20, 12), seed=seed)["part"] for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)


def test_split_without_sources_is_by_note():
    notes = notes_of(1, 60)
    assert not enough_sources(notes)
    assert set(parts_of(notes)["part"]) == {"train", "validation", "test"}


def test_split_does_not_keep_notes_of_unknown_source_together():
    notes = renumbered(notes_of(6, 10), notes_of(1, 40).assign(source=""))
    split = parts_of(notes, shares={"validation": 0.2, "test": 0.2})
    assert enough_sources(notes)
    assert set(split.loc[split["source"] == "", "part"]) == {"train", "validation", "test"}
    assert split[split["source"] != ""].groupby("source")["part"].nunique().max() == 1


def test_split_keeps_a_kind_of_a_single_source_in_train():
    notes = renumbered(notes_of(10, 12, "aab"), notes_of(1, 30, "d").assign(source="only"))
    split = parts_of(notes)
    assert (split.loc[split["kind"] == "d", "part"] == "train").all()


def test_split_keeps_near_duplicates_together():
    notes = notes_of(20, 6)
    split = parts_of(notes)
    apart = split.groupby("source").first()
    train, test = (apart.index[apart["part"] == part][0] for part in ("train", "test"))
    first, second = (notes.index[notes["source"] == source][0] for source in (train, test))
    joined = parts_of(notes, pairs=pair(first, second))
    assert joined[joined["source"].isin([train, test])]["part"].nunique() == 1
    assert set(joined["part"]) == {"train", "validation", "test"}


def test_template_that_links_every_source_leaves_no_part_empty():
    notes = notes_of(10, 6)
    chain = pd.DataFrame({"first": range(0, 54, 6), "second": range(6, 60, 6)})
    split = parts_of(notes, pairs=chain)
    assert {"train", "validation", "test"} <= set(split["part"])
    for first, second in chain.itertuples(index=False):
        parts = {split["part"][first], split["part"][second]}
        assert len(parts) == 1 or "set aside" in parts, "no near-duplicates in two parts"


def test_frozen_split_moves_no_note_when_notes_come_and_go():
    everything = notes_of(30, 8)
    some = everything[everything["source"].isin([f"s{number}" for number in range(18)])]
    some = some.groupby("source").head(5).reset_index(drop=True)
    before = dict(parts_of(some)[["id", "part"]].values)
    grown = parts_of(everything, frozen_parts=before)
    assert {identity: part for identity, part in grown[["id", "part"]].values if identity in before} == before
    assert grown.groupby("source")["part"].nunique().max() == 1, "a new note joins its source"
    assert grown["part"].value_counts(normalize=True)["test"] == pytest.approx(0.2, abs=0.04)
    less = everything.drop(index=range(0, 240, 7)).reset_index(drop=True)
    after = dict(grown[["id", "part"]].values)
    shrunk = parts_of(less, frozen_parts=after)
    assert all(after[identity] == part for identity, part in shrunk[["id", "part"]].values)


def test_new_copy_of_a_test_note_in_a_training_source_is_set_aside():
    notes = notes_of(20, 6)
    before = parts_of(notes)
    frozen_parts = dict(before[["id", "part"]].values)
    position = before.index[before["part"] == "test"][0]
    source = before.loc[before["part"] == "train", "source"].iloc[0]
    copy = notes.iloc[[position]].assign(id="copy", source=source)
    split = parts_of(
        pd.concat([notes, copy], ignore_index=True), pairs=pair(position, len(notes)), frozen_parts=frozen_parts
    )
    assert dict(split[["id", "part"]].values) == frozen_parts | {"copy": "set aside"}


def test_test_part_prefers_raw_notes_and_leaves_half_of_them_to_train():
    notes = notes_of(40, 6)
    notes.loc[notes["source"].isin([f"s{number}" for number in range(12)]), "style"] = "raw"
    split = parts_of(notes, preferred="raw")
    counts = split.groupby(["part", "style"]).size()
    assert counts["test", "raw"] == 36 and counts["test", ""] == pytest.approx(12, abs=3)
    assert parts_of(notes)["part"].equals(parts_of(notes.assign(style=""))["part"]), "no preference, no effect"


def test_raw_note_is_tested_and_its_new_tidied_copy_set_aside():
    notes = notes_of(20, 6).assign(style="raw")
    before = parts_of(notes, preferred="raw")
    position = before.index[before["part"] == "test"][0]
    copy = notes.iloc[[position]].assign(id="copy", style="tidied")
    both = pd.concat([notes, copy], ignore_index=True)
    frozen_parts = dict(before[["id", "part"]].values)
    split = parts_of(both, pairs=pair(position, 120), frozen_parts=frozen_parts, preferred="raw")
    assert dict(split[["id", "part"]].values) == frozen_parts | {"copy": "set aside"}
    frozen_parts["copy"] = "test"
    split = parts_of(both, pairs=pair(position, 120), frozen_parts=frozen_parts, preferred="raw")
    assert dict(split[["id", "part"]].values) == frozen_parts, "frozen is frozen"


def test_frozen_split_is_a_file_for_notes_shares_and_seed(tmp_path):
    def frozen(seed=0, vault="vault", shares=SHARES):
        return FrozenSplit(tmp_path, tmp_path / vault, shares, seed)

    assert (frozen().parts, frozen().by_source) == ({}, None)
    frozen().add(pd.DataFrame({"id": ["a", "b", "c"], "part": ["train", "test", "set aside"]}), by_source=True)
    frozen().add(pd.DataFrame({"id": ["d"], "part": ["validation"]}), by_source=True)
    assert frozen().parts == {"a": "train", "b": "test", "d": "validation"} and frozen().by_source
    for other in (frozen(seed=1), frozen(vault="another"), frozen(shares=SHARES | {"test": 0.3})):
        assert other.parts == {}
    frozen().path.unlink()
    assert frozen().parts == {}, "deleting the file draws anew"


def test_notes_behind_a_link_have_the_split_of_the_notes(tmp_path):
    vault, link = tmp_path / "vault", tmp_path / "link"
    vault.mkdir()
    link.symlink_to(vault)
    table = pd.DataFrame({"id": ["caf\u00e9.md"], "part": ["test"]})
    FrozenSplit(tmp_path, link, SHARES, 0).add(table, by_source=True)
    split = FrozenSplit(tmp_path, vault, SHARES, 0)
    assert split.parts == {"caf\u00e9.md": "test"} and split.path.name.startswith("vault_")


def test_split_of_version_0_1_is_found_and_its_ids_are_composed(tmp_path):
    """It named the file after the link, and took names as macOS decomposes them."""
    split = FrozenSplit(tmp_path, tmp_path / "vault", SHARES, 0)
    old = tmp_path / split.path.name.replace("vault", "link")
    old.write_text(json.dumps({"by_source": True, "parts": {"cafe\u0301.md": "test"}}), encoding="utf-8")
    again = FrozenSplit(tmp_path, tmp_path / "vault", SHARES, 0)
    assert (again.path, again.parts) == (old, {"caf\u00e9.md": "test"})


def test_relative_split_dir_is_the_project_s_wherever_the_command_is_given(tmp_path, monkeypatch):
    (tmp_path / "outputs/splits").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate_split("outputs/splits") == PROJECT / "outputs/splits"
    assert locate_split(str(tmp_path)) == tmp_path


def test_split_by_note_stays_one_when_a_third_source_comes():
    notes = renumbered(notes_of(2, 40))
    before = parts_of(notes)
    frozen_parts = dict(before[["id", "part"]].values)
    grown = renumbered(notes, notes_of(1, 10).assign(source="third"))
    split = parts_of(grown, frozen_parts=frozen_parts, by_source=False)
    assert {
        identity: part for identity, part in split[["id", "part"]].values if identity in frozen_parts
    } == frozen_parts


def test_note_that_changed_its_source_is_set_aside_and_moves_no_other():
    notes = notes_of(20, 6)
    before = parts_of(notes)
    frozen_parts = dict(before[["id", "part"]].values)
    moved = before.index[before["part"] == "test"][0]
    notes.loc[moved, "source"] = before.loc[before["part"] == "train", "source"].iloc[0]
    split = parts_of(notes, frozen_parts=frozen_parts)
    assert dict(split[["id", "part"]].values) == frozen_parts | {notes["id"][moved]: "set aside"}


def test_source_is_the_same_in_any_case_and_spacing():
    notes = notes_of(20, 6)
    notes.loc[::2, "source"] = notes["source"][::2].str.upper() + " "
    split = parts_of(notes)
    assert split.groupby(split["source"].str.strip().str.lower())["part"].nunique().max() == 1


def test_kind_without_a_note_for_train_is_named():
    """Three sources of one kind each, of which one is frozen in test: that kind would not be in train."""
    notes = renumbered(*(notes_of(1, 10, kind).assign(source=kind) for kind in "abc"))
    with pytest.raises(UserError, match="found 3 of which no note of the kind b for train is left"):
        parts_of(notes, frozen_parts={"10": "test"})
