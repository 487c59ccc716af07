"""Markup of a note: what is read from it, what is removed from the text, and what stays."""

import json
import subprocess
import sys

import pytest

from onelap.notes.markup import kinds_of_tags, named_after, plain, single, split_front_matter, tags_of

KINDS = ("lesson", "knowledge", "design decision", "none")
MANY = 300_000  # characters, for which a pattern of quadratic time needs minutes, and one of linear time a second
READ = """
import json, sys
from onelap.notes.markup import plain, split_front_matter, tags_of

content, kinds = json.load(sys.stdin)
head, text, _ = split_front_matter(content)
print(json.dumps([len(tags_of(head, text)), *plain(text, tuple(kinds), "kind")]))
"""


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
def test_plain_removes_and_counts_what_gives_the_kind_away(text, expected, removed):
    assert plain(text, KINDS, "kind") == (expected, removed)


def test_tags_come_from_front_matter_and_text():
    assert tags_of({"tags": "a, #b c"}, "d #e/f `#g`") == ["a", "b", "c", "e/f"]
    assert tags_of({"tags": ["x", 7], "tag": None}, "") == ["x", "7"]
    assert kinds_of_tags(["garden", "type/Lessons", "design_decision"], KINDS) == {"lesson", "design decision"}


@pytest.mark.parametrize(("name", "kind"), [("Lessons", "lesson"), ("Design-Decisions", "design decision"), ("x", "")])
def test_kind_is_recognized_in_its_plural(name, kind):
    assert named_after(name, KINDS) == kind


def test_head_that_is_not_a_mapping_stays_text():
    for content in (
        "---\ntext without an end",
        "---\nTuesday\nWe met.\n---\nand left",
        "---\n\nA.\n\n---\n\nB.",
        "{not json}",
    ):
        assert split_front_matter(content) == ({}, content, True)


def test_broken_line_of_front_matter_leaves_the_others():
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
def test_front_matter_is_read_in_its_other_spellings(content):
    head, text, sound = split_front_matter(content)
    assert (head, text.strip(), sound) == ({"kind": "lesson"}, "text", True)


@pytest.mark.parametrize(
    ("head", "values"),
    [
        ("kind: " + "[" * 30000, {}),
        ("source: 0x" + "f" * 5000, {"source": None}),
        ("tags: [0x" + "f" * 5000 + "]", {"tags": None}),
        ("a: &a [x]\nb: [*a, *a]", {"a": "x", "b": None}),
    ],
    ids=["deep", "long number", "long number in a list", "aliases"],
)
def test_front_matter_that_breaks_parsers_gives_no_unusable_value(head, values):
    properties, text, sound = split_front_matter(f"---\n{head}\n---\ntext")
    assert {name: single(value) for name, value in properties.items()} == values
    assert tags_of(properties, "") == [] and text.endswith("text") and sound


@pytest.mark.parametrize(
    ("value", "expected"),
    [("[[Diary]]", "Diary"), ([["Diary"]], "Diary"), ("[[d/Diary|mine]]", "mine"), ("#lesson", "lesson"), (7, "7"),
     ("  two\n words ", "two words"), ("が", "が"), (None, ""), ([], ""), (True, None), (["a", "b"], None), ({}, None)],
)  # fmt: skip
def test_single_returns_the_one_value_of_a_property(value, expected):
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
def test_link_is_not_a_tag(text):
    assert kinds_of_tags(tags_of({}, text), KINDS) == set()


def test_plain_keeps_lines_that_happen_to_name_a_kind():
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
def test_plain_removes_headings_that_are_just_a_kind(line):
    text, removed = plain(f"{line}\nWater early.", KINDS, "kind")
    assert (text, sum(removed.values())) == ("Water early.", 1)


@pytest.mark.parametrize("line", ["# 学び：", "【学び】", "■学び", "#学び", "種類:: 学び"])
def test_plain_removes_japanese_kinds(line):
    assert plain(f"{line}\n水は早く。", ("学び", "知識"), "種類")[0] == "水は早く。"


@pytest.mark.parametrize(
    "line",
    ["[kind:: lesson]", "(kind:: lesson)", "- kind:: lesson", "> kind: lesson", "%% kind: lesson %%", "tags: lesson",
     "kind:: #lesson", "**kind**: lesson", "kind: [[Lesson]]"],
)  # fmt: skip
def test_plain_removes_properties_in_the_text(line):
    text, removed = plain(f"Water early.\n{line}", KINDS, "kind")
    assert (text, removed) == ("Water early.", {"property": 1})


def test_plain_keeps_code_and_arithmetic():
    for text in ("~~~\n# Lesson\n~~~", "Use ``` to fence. Then `#none`.", "the power 2 ^10"):
        assert plain(text, KINDS, "kind") == (text, {})
    assert plain("Use ``` to fence.\n\n#lesson", KINDS, "kind") == ("Use ``` to fence.", {"tag": 1})
    assert plain("text\n^block-id", KINDS, "kind") == ("text", {})
    assert plain("[[Note#^abc]] and [[Note#Part]]", KINDS, "kind")[0] == "Note and Part"


@pytest.mark.parametrize(
    ("content", "tags", "text", "removed"),
    [
        ("#lesson x\n" + " " * MANY + "x", 1, "x\n" + " " * MANY + "x", {"tag": 1}),
        ("x\nkind:" + " " * MANY + "lesson", 0, "x\nkind:" + " " * MANY + "lesson", {}),
        ("lesson" + "_" * MANY + "x", 0, "lesson" + "_" * MANY + "x", {}),
        ("lesson" + "*" * MANY, 0, "lesson" + "*" * MANY, {}),
        ("x ^a" + " " * MANY + "x", 0, "x ^a" + " " * MANY + "x", {}),
        ("> " * (MANY // 2) + "x", 0, "> " * (MANY // 2) + "x", {}),
        ("x " + "`" * MANY + " " + "`" * (MANY - 1), 0, "x " + "`" * MANY + " " + "`" * (MANY - 1), {}),
        ("x " + "`" * MANY + " " + "`" * (MANY + 1), 0, "x " + "`" * MANY + " " + "`" * (MANY + 1), {}),
        ("![[a" * (MANY // 4), 0, "![[a" * (MANY // 4), {}),
        ("[[" + "a" * MANY, 0, "[[" + "a" * MANY, {}),
        ("#" + "1" * MANY, 0, "#" + "1" * MANY, {}),
        ("\n" * (MANY // 3) + "#lesson x", 1, "x", {"tag": 1}),
        ("# Lesson\n" * (MANY // 9) + "x", 0, "x", {"heading": MANY // 9}),
        ("---\n" + "-" * MANY + "\nx", 0, "---\n" + "-" * MANY + "\nx", {}),
        ("{" * MANY, 0, "{" * MANY, {}),
    ],
    ids=["spaces", "property", "underscores", "asterisks", "block id", "quotes", "fewer backticks", "more backticks",
         "embeds", "link", "tag", "blank lines", "headings", "rules", "braces"],
)  # fmt: skip
def test_pathological_text_is_read_in_linear_time(content, tags, text, removed):
    """In a process that can be ended: nothing else stops a pattern, on Windows."""
    command = [sys.executable, "-c", READ]
    result = subprocess.run(command, input=json.dumps([content, KINDS]), capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [tags, text, removed]
