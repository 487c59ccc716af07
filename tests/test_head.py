"""Front matter: what is read of sound and of broken heads, and what values mean."""

import math
import subprocess
import sys
from datetime import date

import pytest

from onelap.notes.head import single, split_head, tags_in, texts_of


def test_head_that_is_not_a_mapping_stays_text():
    for content in (
        "---\ntext without an end",
        "---\nTuesday\nWe met.\n---\nand left",
        "---\n\nA.\n\n---\n\nB.",
        "---\n- a\n- b\n---\ntext",
        "+++\nno = head\n---\ntext",
        "{not json}",
        "{\n  not json\n}\ntext",
        '{"kind": "an object on one line"}\nis text',
        '{\n  "kind": "lesson"\n} and more',
        "text\n---\nkind: lesson\n---\n",
    ):
        assert split_head(content) == ({}, content, True)


@pytest.mark.parametrize(
    "content",
    [
        "---\nkind: lesson\n---\ntext",
        "---\nkind: lesson\n...\ntext",
        "\n---\nkind: lesson\n---\ntext",
        " \t\n\n--- \nkind: lesson\n---\t\ntext",
        "\ufeff---\nkind: lesson\n---\u200b\ntext",
        "\u200b\n\u00a0---\u00a0\nkind:\u00a0lesson\u200b\n---\ntext",
        "---\n  kind: lesson\n---\ntext",
        "---\n\tkind:\tlesson\n---\ntext",
        "---\n# of bees\n\nkind: lesson # by hand\n---\ntext",
        '---\n"kind": "les\\u0073on"\n---\ntext',
        "---\nkind: >-\n  lesson\n---\ntext",
        "+++\nkind = 'lesson'\n+++\ntext",
        '{\n  "kind": "lesson"\n}\ntext',
    ],
)
def test_front_matter_is_read_in_every_spelling(content):
    head, text, sound = split_head(content)
    assert (head, text.strip(), sound) == ({"kind": "lesson"}, "text", True)


def test_head_ends_at_the_first_line_that_is_just_its_mark():
    head, text, _ = split_head("---\nkind: lesson\nbody: |\n  ---\n  a ---\n---\ntext\n---\nmore")
    assert (head["body"], text) == ("---\na ---\n", "text\n---\nmore")
    assert split_head("---\n---\ntext") == ({}, "text", True)
    assert split_head("---\nkind: lesson\n---") == ({"kind": "lesson"}, "", True)


@pytest.mark.parametrize(
    "broken",
    [
        "title: Re: frost",
        "owner: @home",
        "title: 'It's late",
        'title: "late',
        "title: [late",
        "title: {{title}}",
        "title: *late",
        "title: `late`",
        "title: %late",
        "aliases:\n- a\n - b",
        "aliases: [a, b",
        "title late",
        "title: late\n  and: later\n later",
        "<<: late",
        "title: !late [a",
        "\x07title: late",
    ],
)
def test_sound_properties_of_a_broken_head_are_used(broken):
    for lines in (f"kind: lesson\ntags:\n  - a\n  - b\n{broken}", f"{broken}\nkind: lesson\ntags:\n- a\n- b"):
        head, text, _ = split_head(f"---\n{lines}\n---\ntext")
        assert (head["kind"], head["tags"], text) == ("lesson", ["a", "b"], "text")


def test_broken_head_is_told_from_a_sound_one():
    assert split_head("---\nkind: lesson\ntitle: Re: frost\n---\ntext")[2] is False
    assert split_head("---\nkind: [lesson\n---\ntext") == ({"kind": None}, "text", False)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *[(word, word) for word in ("no", "yes", "on", "off", "y", "n", "true", "12:30", "0o17", "1_000", "1e3")],
        ("2024-01-05", "2024-01-05"),
        ("[a, no]", ["a", "no"]),
        ("'~'", "~"),
        ("|\n  two\n  lines", "two\nlines\n"),
        ("!!str 7", "7"),
    ],
)  # fmt: skip
def test_values_of_yaml_are_the_words_that_were_written(written, value):
    assert split_head(f"---\nkind: {written}\n---\ntext")[0] == {"kind": value}


@pytest.mark.parametrize(
    ("head", "values"),
    [
        ("kind: " + "[" * 30000, {}),
        ("source: 0x" + "f" * 5000, {"source": "0x" + "f" * 5000}),
        ("a: &a [x]\nb: [*a, *a]", {"a": "x", "b": ""}),
        ("? [a, b]\n: c", {}),
        ("a: &a [*a]", {}),
    ],
    ids=["deep", "long number", "aliases", "key that is a list", "list in itself"],
)
def test_front_matter_that_breaks_parsers_gives_no_unusable_value(head, values):
    properties, text, _ = split_head(f"---\n{head}\n---\ntext")
    assert {name: single(value) for name, value in properties.items() if single(value)} == {
        k: v for k, v in values.items() if v
    }
    assert text.endswith("text")


def test_lists_of_lists_of_one_alias_are_read_in_no_time():
    """A billion laughs: each line holds the one above it twice."""
    program = """
from onelap.notes.head import split_head, tags_in, texts_of
lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 100)), "tags: *a99"]
head, text, _ = split_head("---\\n" + "\\n".join(lines) + "\\n---\\ntext")
print(len(tags_in(head, ())) < 1000, len(texts_of(head.get("tags"))) < 1000, text[-4:])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert result.stdout == "True True text\n", result.stderr


def test_front_matter_longer_than_any_is_text():
    content = "---\n" + "kind: lesson\n" * 1_000 + "---\ntext"
    assert split_head(content) == ({}, content, True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[[Diary]]", "Diary"), ([["Diary"]], "Diary"), ("[[d/Diary|mine]]", "mine"), ("[mine](d/Diary.md)", "mine"),
        ("#lesson", "lesson"), ("#[[Diary]]", "Diary"), ("  two\n words ", "two words"), ("か\u3099", "が"),
        ("\u200bDiary\ufeff", "Diary"), (7, "7"), (1.5, "1.5"), (date(2024, 1, 5), "2024-01-05"), (["a", None], "a"),
        (None, ""), ("", ""), (" \u00a0\u200b", ""), ("~", ""), ("null", ""), ("NULL", ""), (".nan", ""),
        (math.nan, ""), ([], ""), ([[], [None]], ""), (["a", "b"], ""), ({}, ""), ({"a": "b"}, ""), ("\ud83d", "?"),
        pytest.param(10**5000, "", id="thousands of digits"),
    ],
)  # fmt: skip
def test_single_returns_the_one_value_of_a_property(value, expected):
    assert single(value) == expected


def test_texts_of_a_value_are_those_of_its_lists():
    assert texts_of(["a", ["b "], {"c": "d"}, math.nan, [[7]], ["x", "y"]]) == ["a", "b", "7"]


@pytest.mark.parametrize(
    ("head", "tags"),
    [
        ({"tags": "a, #b c"}, {"a", "#b", "c"}),
        ({"Tags": ["x", 7], "tag": None}, {"x", "7"}),
        ({"TAG": "design-decision"}, {"design-decision"}),
        ({"tags": ["[[a b]]"]}, {"[[a b]]"}),
        ({"tags": {"a": "b"}, "tagged": "c"}, set()),
    ],
)
def test_tags_of_front_matter_are_split_and_whole(head, tags):
    assert tags <= set(tags_in(head, ())) and bool(tags_in(head, ())) == bool(tags)
