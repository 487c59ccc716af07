"""The same note has the same text wherever it is read: in a file, a row, a line of standard input, or `Sorter.sort`."""

import csv
import io
import json
from pathlib import Path

import pytest

from onelap.daily.inbox import Inbox
from onelap.machine.encoding import read_text
from onelap.notes.fields import Fields
from onelap.notes.read import Note, Place, clean, note_of_row, notes_in
from onelap.notes.vault import read_all

FIELDS = Fields(("lesson", "knowledge", "value", "decision", "none"))
STRANGE = {
    "plain": "Be kind.",
    "a tag": "Be kind. #value",
    "front matter": "---\nkind: value\nsource: me\n---\n# Value\nBe kind. #value",
    "Windows line ends": "---\r\nkind: value\r\n---\r\n# Value\r\n\r\nBe kind.\r\n\r\n    #value\r\n",
    "old line ends": "---\rkind: value\r---\rBe kind.\r#value",
    "byte-order mark": "\ufeff---\nkind: value\n---\nBe kind.",
    "marks before the head": "\u200b\n\u00a0---\nkind: value\n---\nBe kind.",
    "broken head": "---\nkind: value\ntitle: Re: bees\n---\nBe kind. [[Ana|She]] is.",
    "hopeless head": "---\n: [\n---\nBe kind.",
    "head of TOML": "+++\nkind = 'value'\n+++\nBe kind.",
    "head of JSON": '{\n  "kind": "value"\n}\n\nBe kind. #value',
    "two heads": "---\nkind: value\n---\n---\nkind: none\n---\nBe kind.",
    "no kind": "# Value\n\nBe kind. [[Ana]], #values/of #garden",
    "two kinds": "#value and #lesson\n# Lesson",
    "decomposed": "---\nkind: value\n---\nCafe\u0301 が か\u3099 #vale\u0301ur",
    "emoji": "👩‍🌾🏽 1️⃣ #📝/value 🇫🇷",
    "right to left": "#value שלום \u200fעולם\u200e کتاب‌ها",
    "unseen": "\u200b#value\u2060 Be\u00adkind.\u200b\n\u200b",
    "indented first": "    #value\n\n\tkind:: value\nBe kind.",
    "code": "```\n#value\n```\n`#value` `` ` #none``\n- a\n\n      kind:: none\n",
    "open code": "Be kind.\n```\n#value\n",
    "queries": "{{query #value}}\n#+BEGIN_QUERY\n#none\n#+END_QUERY\nBe kind.",
    "property": "- kind:: [[Value]], garden\n> up:: [[Values]]\nBe kind. (see: [[Ana]])",
    "table": "| Kind | Value |\n|---|---|\n| a | \"b\" |\n\nBe; kind,",
    "picture": "a ![x](data:image/png;base64,iVBORw0KGgo=) b <img src='data:,x'> #value",
    "footer": "Be kind.\n\n--\nSent from my iPhone",
    "quotes": 'He said "kind", \'or\' “kind”; |pipe|\ttab,comma\\n',
    "quote at the ends": '"Be kind."',
    "separators": "one\u2028line\u2029or\x0bmore\x0c\x85end\x1c.",
    "nothing but a kind": "---\nkind: value\n---\n# Value\n#value",
    "nothing": " \n\u00a0\u200b\n",
    "long line": "---\nkind: value\n---\n" + "word " * 30_000,
    "looks like JSON": '{"text": "x", "kind": "value"}',
    "looks like a number": "007",
    "looks like a blank": "NaN",
    "null": "null",
    "equals": "=1+1",
    "hyphens": "- \n- #value\n-",
    "backslashes": "\\#value \\[[x]] \\\\ C:\\new",
    "math": "$#value$ $$\n#none\n$$ 2^10 ^a1",
    "html": "<div #value>\n<!-- #none -->\n<b>#value</b></div>",
}  # fmt: skip


def texts(items):
    """The texts of notes, and of what is skipped the reasons."""
    return [item.text if isinstance(item, Note) else item.reason for item in items]


def in_a_file(folder, text):
    (folder / "note.md").write_bytes(text.encode())
    return texts(notes_in(folder / "note.md", FIELDS))


def in_json(folder, text):
    (folder / "rows.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    return texts(notes_in(folder / "rows.jsonl", FIELDS))


def in_a_table(folder, text):
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text"], ["1", text]])
    return texts(notes_in(folder / "rows.csv", FIELDS))


def on_standard_input(_, text):
    stream = io.BytesIO(json.dumps({"text": text}).encode())
    return [item.text or item.error for item in Inbox(["-"], stream).items(FIELDS)]


WAYS = [in_a_file, in_json, in_a_table, on_standard_input]


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_strange_note_has_one_text_wherever_it_is_read(tmp_path, text):
    read = {way.__name__: way(tmp_path, text) for way in WAYS}
    assert read == {way.__name__: [clean(text, FIELDS)] for way in WAYS}


def test_training_and_sorting_see_the_same_text_of_every_note(hostile_vault):
    for name, text in STRANGE.items():
        (hostile_vault / f"{name}.md").write_bytes(text.encode())
    rows = [{"text": text, "kind": kind} for text in STRANGE.values() for kind in ("value", None)]
    (hostile_vault / "strange.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    reading = read_all(hostile_vault, FIELDS)
    trained = [text for table in (reading.notes, reading.unlabelled) for text in table["text"]]
    assert len(trained) > 3 * len(STRANGE)
    assert sorted(trained) == sorted(item.text for item in Inbox([str(hostile_vault)]).items(FIELDS) if item.text)


def test_every_file_of_a_hostile_vault_has_one_text_wherever_it_is_read(hostile_vault, tmp_path):
    notes = [note for note in notes_in(hostile_vault, FIELDS) if isinstance(note, Note) and not note.place.line]
    contents = {note.text: read_text(Path(note.place.path))[0] for note in notes if "\ufffd" not in note.id}
    assert len(contents) > 10
    for text, content in contents.items():
        assert [clean(content, FIELDS), *(way(tmp_path, content)[0] for way in WAYS)] == [text] * 5


# Where a note is read in two ways, there is a reason.


def test_kind_that_stands_beside_the_text_takes_out_what_names_it(tmp_path):
    """Sorting by `Sorter.sort` or without the folder or the field does not know the kind, and may not guess it."""
    text = "# Values\n\nBe kind. #garden"
    (tmp_path / "Values").mkdir()
    assert in_a_file(tmp_path / "Values", text) == [clean(text, FIELDS)] == [text]
    (by_folder,) = notes_in(tmp_path, FIELDS)
    by_field = note_of_row(Place(line=1), {"text": text, "kind": "value"}, FIELDS)
    assert [by_folder.kind, by_folder.text] == [by_field.kind, by_field.text] == ["value", "Be kind. #garden"]


def test_note_over_a_megabyte_is_named_in_files_and_rows_and_empty_elsewhere(tmp_path):
    text = "word " * 200_001
    *rows, table, standard_input = (way(tmp_path, text) for way in WAYS)
    assert rows == [["over 1 MB"]] * 2 and standard_input == ["over 1 MB"]
    assert table[0].endswith("over 1 MB") and clean(text, FIELDS) == ""
    pictures = f"Be kind. ![x](data:image/png;base64,{'A' * 1_500_000})"
    assert [way(tmp_path, pictures)[0] for way in (in_a_file, in_json, on_standard_input)] == ["Be kind."] * 3


def test_nul_is_binary_in_a_file_and_a_broken_character_in_json(tmp_path):
    assert in_a_file(tmp_path, "Be\x00kind.") == ["binary: holds NUL"]
    assert in_json(tmp_path, "Be\x00kind.") == on_standard_input(tmp_path, "Be\x00kind.") == ["Be\ufffdkind."]
    assert in_a_table(tmp_path, "Be\x00kind.") == ["holds NUL"]
