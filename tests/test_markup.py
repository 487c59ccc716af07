"""What is taken out of a note's text, and what is left alone."""

import pytest

from onelap.notes.markup import kinds_of_tags, named_after, plain, single, split_front_matter, tags_of

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
    for content in (
        "---\ntext without an end",
        "---\nTuesday\nWe met.\n---\nand left",
        "---\n\nA.\n\n---\n\nB.",
        "{not json}",
    ):
        assert split_front_matter(content) == ({}, content, True)


def test_front_matter_of_which_one_line_is_broken_keeps_the_others():
    head, text, sound = split_front_matter("---\nkind: lesson\ntitle: Re: frost\nowner: @home\n---\ntext")
    assert (head["kind"], text, sound) == ("lesson", "text", False)


@pytest.mark.parametrize(
    "content",
    [
        "+++\nkind = 'lesson'\n+++\ntext",
        '{"kind": "lesson"}\ntext',
        "---\nkind: lesson\n...\ntext",
        "\n---\nkind: lesson\n---\ntext",
    ],
)
def test_front_matter_in_other_spellings(content):
    head, text, sound = split_front_matter(content)
    assert (head, text.strip(), sound) == ({"kind": "lesson"}, "text", True)


@pytest.mark.parametrize(
    "head",
    ["kind: " + "[" * 30000, "source: 0x" + "f" * 5000, "tags: [0x" + "f" * 5000 + "]", "a: &a [x]\nb: [*a, *a]"],
)
def test_front_matter_that_would_kill_a_parser_is_survived(head):
    properties, _, _ = split_front_matter(f"---\n{head}\n---\ntext")
    assert {single(value) for value in properties.values()} <= {None, "", "x"} and tags_of(properties, "") in (
        [],
        ["x"],
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [("[[Diary]]", "Diary"), ([["Diary"]], "Diary"), ("[[d/Diary|mine]]", "mine"), ("#lesson", "lesson"), (7, "7"),
     ("  two\n words ", "two words"), ("が", "が"), (None, ""), ([], ""), (True, None), (["a", "b"], None), ({}, None)],
)  # fmt: skip
def test_the_single_value_of_a_property(value, expected):
    assert single(value) == expected


@pytest.mark.parametrize(
    "text",
    [
        "[Value](#none)",
        "see [[#Lesson]] there",
        "[[My Note (2024)#None]]",
        '<a href="#lesson">',
        "C#lesson",
        "&#lesson",
    ],
)
def test_a_link_is_no_tag(text):
    assert kinds_of_tags(tags_of({}, text), KINDS) == set()


def test_lines_of_the_note_that_happen_to_name_a_kind_stay():
    for text in ("I have\nnone\nleft", "Price:\nnone:\n10", "a\nlesson\nb"):
        assert plain(text, KINDS, "kind") == (text, {})


@pytest.mark.parametrize(
    "line",
    [
        "# Lesson",
        "# 📝 Lesson",
        "# Lesson.",
        "> # Lesson",
        "# Lesson #garden",
        "- **Lesson**",
        "# #lesson",
        "Lesson:",
        "> [!tip] Lesson",
    ],
)
def test_headings_that_are_just_a_kind_go_whole(line):
    text, removed = plain(f"{line}\nWater early.", KINDS, "kind")
    assert (text, sum(removed.values())) == ("Water early.", 1)


@pytest.mark.parametrize("line", ["# 学び：", "【学び】", "■学び", "#学び", "種類:: 学び"])
def test_japanese_kinds(line):
    assert plain(f"{line}\n水は早く。", ("学び", "知識"), "種類")[0] == "水は早く。"


@pytest.mark.parametrize(
    "line",
    ["[kind:: lesson]", "(kind:: lesson)", "- kind:: lesson", "> kind: lesson", "%% kind: lesson %%", "tags: lesson",
     "kind:: #lesson", "**kind**: lesson", "kind: [[Lesson]]"],
)  # fmt: skip
def test_properties_in_the_text_go(line):
    text, removed = plain(f"Water early.\n{line}", KINDS, "kind")
    assert (text, removed) == ("Water early.", {"property": 1})


def test_code_and_arithmetic_stay():
    for text in ("~~~\n# Lesson\n~~~", "Use ``` to fence. Then `#none`.", "the power 2 ^10"):
        assert plain(text, KINDS, "kind") == (text, {})
    assert plain("Use ``` to fence.\n\n#lesson", KINDS, "kind") == ("Use ``` to fence.", {"tag": 1})
    assert plain("text\n^block-id", KINDS, "kind") == ("text", {})
    assert plain("[[Note#^abc]] and [[Note#Part]]", KINDS, "kind")[0] == "Note and Part"


@pytest.mark.parametrize(
    "text", ["#lesson x\n" + " " * 100_000 + "x", "lesson" + "_" * 100_000 + "x", "lesson" + "*" * 100_000]
)
def test_long_lines_take_no_time_to_speak_of(text):
    """Quadratic patterns would take minutes."""
    plain(text, KINDS, "kind")
