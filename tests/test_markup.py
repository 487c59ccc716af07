"""What is taken out of a note's text, and what is left alone."""

import pytest

from onelap.markup import kinds_of_tags, named_after, plain, split_front_matter, tags_of

KINDS = ("lesson", "knowledge", "design decision", "none")


@pytest.mark.parametrize(
    ("text", "expected", "removed"),
    [
        ("Water early. #lesson", "Water early.", {"tag": 1}),
        ("#kind/design-decision Gravel. #garden", "Gravel. #garden", {"tag": 1}),
        ("#lessonplan and C#lesson stay", "#lessonplan and C#lesson stay", {}),
        ("# Lesson\n\nWater early.", "Water early.", {"heading": 1}),
        ("## Lessons learned\ntext", "## Lessons learned\ntext", {}),
        ("**Design decision:**\nGravel.", "Gravel.", {"heading": 1}),
        ("kind:: knowledge\nIt boils.", "It boils.", {"property": 1}),
        ("Kind: of blue\ntext", "Kind: of blue\ntext", {}),
        ("None of this is a lesson.", "None of this is a lesson.", {}),
        ("> [!lesson]+ Never\n> again", "> Never\n> again", {}),
        ("see [[garden/beds|the beds]] and [[lessons/2021#Top]]", "see the beds and Top", {}),
        ("![[scan.png]]\ntext ^a1b2", "text", {}),
        ("`#lesson` and\n```\n# Lesson\n[[ -f x ]]\n```", "`#lesson` and\n```\n# Lesson\n[[ -f x ]]\n```", {}),
    ],
)
def test_what_gives_the_kind_away_is_not_text(text, expected, removed):
    assert plain(text, KINDS, "kind") == (expected, removed)


def test_tags_of_front_matter_and_text():
    assert tags_of({"tags": "a, #b c"}, "d #e/f `#g`") == ["a", "b", "c", "e/f"]
    assert tags_of({"tags": ["x", 7], "tag": None}, "") == ["x", "7"]
    assert kinds_of_tags(["garden", "type/Lessons", "design_decision"], KINDS) == {"lesson", "design decision"}


@pytest.mark.parametrize(("name", "kind"), [("Lessons", "lesson"), ("Design-Decisions", "design decision"), ("x", "")])
def test_folders_and_tags_in_the_plural(name, kind):
    assert named_after(name, KINDS) == kind


def test_front_matter_that_is_no_yaml_leaves_the_text():
    assert split_front_matter("---\nkind: [\n---\ntext") == ({}, "\ntext", False)
    assert split_front_matter("---\ntext without an end") == ({}, "---\ntext without an end", True)
    assert split_front_matter("---\njust words\n---\ntext")[0] == {}
