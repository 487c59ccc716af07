"""Rows as programs write them, well or badly: what survives, and what is listed by number."""

import csv
import io
import json
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from onelap.notes.rows import MAX_FIELDS, fields_of, parse_json_row, rows_of, value_of

TEXTS = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"))
CELLS = some.lists(some.tuples(TEXTS, TEXTS), min_size=1, max_size=5)


def read(content, name="n.csv", text="text", kind="kind"):
    return list(rows_of(Path(name), content, text, kind))


def texts_and_kinds(rows):
    """What is read of each row, or the reason why nothing is."""
    return [row if isinstance(row, str) else (value_of(row, "text"), value_of(row, "kind") or "") for _, row in rows]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text,kind\nSow, early,lesson\n", ["expected 2 columns, found 3"]),
        ('text,kind\n"Sow, early",lesson', [("Sow, early", "lesson")]),
        ("\ufeffText , KIND\nSow early,lesson\n", [("Sow early", "lesson")]),
        ("sep=;\nkind;text\nlesson;Sow, early\n", [("Sow, early", "lesson")]),
        ('\n"SEP=|"\n\nkind|text\nlesson|Sow; early, too\n', [("Sow; early, too", "lesson")]),
        ("sep=^\nkind^text\nlesson^Sow, early\n", [("Sow, early", "lesson")]),
        ("text;kind;a, b, c, d\nSow, early;lesson\n", [("Sow, early", "lesson")]),
        ("sep=;;\nkind,text\nlesson,Sow; early\n", [("Sow; early", "lesson")]),
        ("\n \n;;\ntext;kind\n\n;\nSow early;lesson\n;;;\n", [("Sow early", "lesson")]),
        ("text;kind;\nSow early;lesson;\nPumps hum;value;;\n", [("Sow early", "lesson"), ("Pumps hum", "value")]),
        ('text, kind\nSow early, lesson\n"Peas, too", "value"\n', [("Sow early", "lesson"), ("Peas, too", "value")]),
        ("kind\ttext\nlesson\tSow early, or; late | never\n", [("Sow early, or; late | never", "lesson")]),
        ("id|text|kind\n1|Sow early|lesson\n2|Not yet\n3\n", [("Sow early", "lesson"), ("Not yet", ""), (None, "")]),
        ('id,"kind, or\nclass",text\n1,lesson,Sow early\n', [("Sow early", "")]),
        (',text,kind\n0," ",lesson\n1,Sow early,"\t"\n', [("", "lesson"), ("Sow early", "")]),
        ("text,kind\nnan,none\nNone,NULL\n", [("nan", "none"), ("None", "NULL")]),
        (
            'text\nSow early, or late\n"Peas; beans | leeks"\n',
            [("Sow early, or late", ""), ("Peas; beans | leeks", "")],
        ),
        ("body,kind\nSow early,lesson\n", [(None, "lesson")]),
        ("text,kind\n", []),
        ("\n ,,\n", []),
        ("", []),
    ],
)
def test_table_is_read_whatever_its_delimiter_blanks_and_missing_cells(content, expected):
    assert texts_and_kinds(read(content)) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ('"Sow" early', '"Sow" early'),
        ('5" pipe', '5" pipe'),
        ('Sow "early', 'Sow "early'),
        ('"Sow early', "Sow early"),
        ('"Sow early""', '"Sow early""'),
        (r'"She said \"no, never\", and left"', 'She said "no, never", and left'),
        (r'"\"No\", she said"', '"No", she said'),
        (r"Sow\, early", "Sow, early"),
        ('"She said "no, never" and left"', 'She said "no, never" and left'),
        ('"She said "no" and\nleft, then"', 'She said "no" and\nleft, then'),
        ('"She said ""no, never""\nand left"', 'She said "no, never"\nand left'),
        ('"C:\\garden\\"', "C:\\garden\\"),
    ],
)
@pytest.mark.parametrize("after", ["", '"Peas, too",value\n', '"Peas ""too""\nand beans",value\n', "Peas,value\n"])
def test_row_with_careless_quotes_survives_as_do_those_around_it(row, expected, after):
    before = '"Beans, first",none\n'
    (_, first), (_, second), *rest = read(f"text,kind\n{before}{row},lesson\n{after}")
    assert first == {"text": "Beans, first", "kind": "none"}
    assert second == {"text": expected, "kind": "lesson"}
    assert [row["kind"] for _, row in rest] == ["value"] * bool(after) and all("Peas" in row["text"] for _, row in rest)


def test_what_does_not_survive_is_listed_by_the_line_on_which_it_ends():
    lines = ["text,kind", '"two', 'lines",lesson', "a,b,c", '"three', "", 'lines",value,more', "\x00a,lesson"]
    rows = read("\n".join([*lines, '"b\udce4', 'd",lesson', "", "last,none"]))
    assert rows == [
        (3, {"text": "two\nlines", "kind": "lesson"}),
        (4, "expected 2 columns, found 3"),
        (7, "expected 2 columns, found 3"),
        (8, "holds NUL"),
        (10, "not in the file's encoding"),
        (12, {"text": "last", "kind": "none"}),
    ]


def test_quote_that_is_never_closed_swallows_no_other_rows():
    """Neither to the end of the file, nor to a quote at the end of a later row."""
    assert len(read('text,kind\n"a,lesson\n' + "b,value\n" * 500)) == 501
    assert [row["text"] for _, row in read('text,kind\n"a,lesson\nb,value\nlesson,5"\n')] == ["a", "b", "lesson"]


def test_short_row_keeps_its_text_of_several_lines():
    assert texts_and_kinds(read('text,kind\n"Dear Bob, hi\nBe well"\nlast,none')) == [
        ("Dear Bob, hi\nBe well", ""),
        ("last", "none"),
    ]


def test_cell_over_a_megabyte_is_listed():
    rows = read(f"text,kind\n{'x' * 1_000_001},lesson\nlast,none\n")
    assert rows == [(2, "a cell over 1 MB"), (3, {"text": "last", "kind": "none"})]


@pytest.mark.parametrize("delimiter", ",;\t|")
@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC])
@given(cells=CELLS)
def test_table_of_python_comes_back_equal(delimiter, quoting, cells):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    writer.writerows([["id", "text", "source"], *([number, *row] for number, row in enumerate(cells))])
    assert_equal(read(file.getvalue()), cells)


@pytest.mark.parametrize("delimiter", ",;\t|")
@given(cells=CELLS)
def test_table_of_pandas_comes_back_equal(delimiter, cells):
    table = pd.DataFrame(cells, columns=["text", "source"])
    assert_equal(read(table.to_csv(sep=delimiter, lineterminator="\n")), cells)


def assert_equal(rows, cells):
    """Blanks at the start aside, which are also written after a delimiter."""
    found = [[row["text"].lstrip(" "), row["source"].lstrip(" ")] for _, row in rows]
    assert found == [[cell.lstrip(" ") if cell.strip() else "" for cell in pair] for pair in cells]


@given(rows=some.lists(some.dictionaries(some.text(), some.text() | some.none() | some.integers()), max_size=4))
@pytest.mark.parametrize("indent", [None, 2])
def test_json_comes_back_equal_as_array_and_as_lines(rows, indent):
    rows = [{"text": "", "kind": "none"} | row | {"data": 1, "answer": 1} for row in rows]
    as_lines = "\n".join(json.dumps(row, indent=indent) for row in rows)
    for name in ["n.jsonl", "n.json"]:
        for content in [as_lines, json.dumps(rows, indent=indent, ensure_ascii=False)]:
            assert [row for _, row in read(content.replace("\x00", " "), name)] == json.loads(json.dumps(rows))


def test_json_blank_is_none_and_half_an_emoji_stays():
    lines = '{"text": "\\u0000 \\ud83d", "kind": NaN}\n\n{"text": null, "kind": -Infinity}\n'
    assert read(lines, "n.ndjson") == [(1, {"text": "\0 \ud83d", "kind": None}), (3, {"text": None, "kind": None})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("text,kind", "not JSON"),
        ('{"text": "a"', "not JSON"),
        ('{"text": "a"} {"text": "b"}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5_000, "not JSON"),
        ('"text"', "not a JSON object"),
        ("NaN", "not a JSON object"),
        ('{"text": "a\x00b"}', "holds NUL"),
        ('{"text": "a\udcffb"}', "not in the file's encoding"),
    ],
)
def test_broken_line_of_json_costs_that_line(line, reason):
    rows = read(f'{{"text": "first"}}\n\n{line}\n{{"text": "last"}}', "n.jsonl")
    assert rows == [(1, {"text": "first"}), (3, reason), (4, {"text": "last"})]
    assert parse_json_row('{"text": "a"}') == {"text": "a"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"text": "a"}, {"text": "b"}]', ["a", "b"]),
        ('\ufeff\n[\n  {\n    "text": "a"\n  },\n  {\n    "text": "b"\n  }\n]\n', ["a", "b"]),
        ('{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n', ["a", "b"]),
        ('[{"text": "a"}, {"text": "b"}', ["a", "b"]),
        ('[{"text": "a"}, {"text": "b', ["a", "from here on"]),
        ('[{"text": "a"}, "b", {"text": "c"}]', ["a", "from here on"]),
        ('[{"text": "a"}, {"text": "\udcff"}, {"text": "c"}]', ["a", "not in the file's encoding", "c"]),
        ("[]", []),
        ('["a", "b"]', ["from here on"]),
        ("[" * 100_000 + "1", ["from here on"]),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_json_over_lines_is_read_up_to_what_is_broken(suffix, content, expected):
    rows = read(content, f"n{suffix}")
    assert [number for number, _ in rows] == list(range(1, len(rows) + 1))
    for (_, row), wanted in zip(rows, expected, strict=True):
        assert wanted in (row if isinstance(row, str) else row["text"])


def test_json_of_another_program_is_one_row_without_a_text():
    ((number, row),) = read('{"name": "garden",\n "plugins": [1, 2]}', "settings.json")
    assert number == 1 and value_of(row, "text") is None and fields_of(row) == ["name", "plugins"]


def label_studio(*answers, **data):
    """A task as Label Studio exports it, answered by some annotators."""
    annotations = [
        {
            "id": number,
            "was_cancelled": cancelled,
            "result": [
                {"type": "choices", "from_name": "kind", "to_name": "text", "value": {"choices": choices}},
                {"type": "textarea", "from_name": "why", "to_name": "text", "value": {"text": ["I think so"]}},
                {"type": "labels", "from_name": "who", "to_name": "text", "value": {"text": "Ruth", "labels": ["PER"]}},
            ],
        }
        for number, (choices, cancelled) in enumerate(answers)
    ]
    return {"id": 7, "data": data, "annotations": annotations, "predictions": [{"result": [{"value": "none"}]}]}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (label_studio((["lesson"], False), text="a"), "lesson"),
        (label_studio((["lesson"], False), (["lesson"], False), (["value"], True), text="a"), "lesson"),
        (label_studio((["lesson"], False), (["value"], False), text="a"), ["lesson", "value"]),
        (label_studio((["lesson"], True), text="a"), None),
        (label_studio((["value"], False), text="a", kind="lesson"), "lesson"),
        (label_studio(text="a"), None),
        ({"text": "a", "kind": {"choices": ["lesson", "value"]}}, ["lesson", "value"]),
        ({"text": "a", "choices": "lesson", "annotator": 1, "lead_time": 2.5}, "lesson"),
        ({"id": 1, "text": "a", "label": ["lesson"]}, "lesson"),
        ({"id": 1, "data": "a", "label": ["lesson", "value"], "Comments": []}, ["lesson", "value"]),
        ({"id": 1, "text": "a", "label": []}, None),
        ({"text": "a", "label": "LESSON", "answer": "accept"}, "LESSON"),
        ({"text": "a", "label": "LESSON", "answer": "reject"}, None),
        ({"text": "a", "kind": "lesson", "answer": "ignore"}, None),
        ({"text": "a", "accept": ["LESSON"], "options": [{"id": "LESSON"}, {"id": "VALUE"}]}, "LESSON"),
        ({"text": "a", "accept": [], "options": [{"id": "LESSON"}], "answer": "accept"}, None),
        ({"text": "a", "kind": "lesson", "answer": "forty-two", "label": "value"}, "lesson"),
        ({"text": "a", "labels": [{"name": "lesson"}]}, "lesson"),
        ({"text": "a", "kind": [[{"label": "lesson", "score": 0.9}]]}, "lesson"),
        ({"text": "a", "kind": {"lesson": 0.9, "value": 0.1}}, {"lesson": 0.9, "value": 0.1}),
        ({"text": "a", "kind": {"name": "", "label": "lesson"}}, "lesson"),
        ({"text": "a", "label": " "}, None),
        ({"text": "a", "kind": 3}, 3),
        ({"text": "a", "label": 3}, None),
        ({"text": "a", "Kind": "lesson", "label": "value"}, "lesson"),
    ],
)
def test_answers_of_annotation_tools_are_kinds(row, kind):
    ((_, read_as_array),) = read(json.dumps([row]), "export.json")
    ((_, read_as_line),) = read(json.dumps(row), "export.jsonl")
    assert read_as_array == read_as_line
    assert (value_of(read_as_line, "text"), value_of(read_as_line, "kind")) == ("a", kind)


def test_fields_of_a_task_may_have_any_name():
    ((_, row),) = read(json.dumps([label_studio((["lesson"], False), note="a", id="mine")]), "e.json", text="note")
    assert (value_of(row, "note"), value_of(row, "data.note"), value_of(row, "kind"), row["id"]) == (
        "a",
        "a",
        "lesson",
        7,
    )


def test_doccano_table_has_its_answer_and_text_in_other_columns():
    assert texts_and_kinds(read("id,data,label\n1,Sow early,lesson\n")) == [("Sow early", "lesson")]


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"Text": 1, "text": 2, "TEXT": 3}, "text", 2),
        ({3: 0, "Text": 1, "TEXT": 2}, "text", 1),
        ({"a": {"B": [[{"c": [4]}]]}}, "A.b.C", 4),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 1),
        ({"a": [{"b": 1}, {"b": 2}]}, "a.b", None),
        ({"a": "b"}, "a.b", None),
        ({"a": [1, 2]}, "a", [1, 2]),
        ({"a": []}, "a", []),
        ({}, "a", None),
        ({"": 1}, ".", None),
    ],
)
def test_value_is_found_in_any_case_in_other_fields_and_in_lists_of_one(values, field, expected):
    assert value_of(values, field) == expected


def test_names_of_fields_are_few_and_those_that_may_be_a_text_are_not_shown():
    values = {
        "id": 1,
        "meta": {"by": 2, "at": {"on": 3}},
        "empty": {},
        "x\ud83d": 4,
        "Zwieselkraut embrangles it": 5,
        6: 7,
    }
    assert fields_of(values) == ["id", "meta.by", "meta.at", "empty", "x?", "a name of 26 characters", "6"]
    assert len(fields_of({str(number): {"a": 1, "b": 2} for number in range(99)})) == MAX_FIELDS
    assert fields_of({}) == []


QUOTES = ['"', '"\n', '"a\n', 'a","c\n', '"a,', '""', '"\n,', '\\"', '"\\\n', '" ,', '"a"\n"', '"a\\",\n', ",", ",\n"]
BRACKETS = ["[", "{", "[[],", '{"a":', '{"a":[\n', '[\n{"a":', '{"label":[', '{"data":{"a":[{', "{}\n", "1\n", '"\n']


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *[("n.csv", head + part * (300_000 // len(part))) for part in QUOTES for head in ["", "text,kind\n"]],
        *[(name, part * (300_000 // len(part))) for part in BRACKETS for name in ["n.json", "n.jsonl"]],
        ("n.csv", ",".join(map(str, range(25_000))) + "\na" * 75_000),
        ("n.csv", "text,kind\n" + 'a","c\n' * 25_000 + "x" * 150_000),
        ("n.json", json.dumps([{"text": "a", "label": [str(number) for number in range(35_000)]}])),
    ],
    ids=lambda value: value[:24].encode("unicode_escape").decode(),
)
def test_time_is_linear_in_a_hostile_file(name, content):
    began = time.process_time()
    read(content, name)
    assert time.process_time() - began < 30  # 1 to 5 measured; a quadratic reader takes minutes
