"""Reading notes, and the words of every error about them."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from onelap import UserError
from onelap.notes.duplicates import drop_duplicates
from onelap.notes.fields import Fields
from onelap.notes.vault import check_kinds, guess_languages, locate_notes, read_all, read_notes

KINDS = ("lesson", "knowledge", "value", "design decision", "none")
COLUMNS = ["id", "text", "kind", "source"]


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def test_reader_takes_kind_source_and_text_from_markdown_files(tmp_path):
    write(tmp_path, "garden/a.md", "---\nkind: Lesson\nsource: diary\n---\n\nWater early.\n")
    write(tmp_path, "garden/sub/b.txt", "---\r\nkind:  design   decision \r\n---\r\nGravel, not bark.\r\n")
    write(tmp_path, "日本 語.md", "\ufeff---\nkind: none\nsource: 7\n---\n牛乳\n")
    reading = read_notes(tmp_path, Fields(KINDS))
    assert reading.notes[COLUMNS].to_dict(orient="records") == [
        {"id": "garden/a.md", "text": "Water early.", "kind": "lesson", "source": "diary"},
        {"id": "garden/sub/b.txt", "text": "Gravel, not bark.", "kind": "design decision", "source": "garden/sub"},
        {"id": "日本 語.md", "text": "牛乳", "kind": "none", "source": "7"},
    ]
    assert reading.skipped.empty and not reading.removed


def test_source_is_the_folder_where_no_field_gives_one(tmp_path):
    write(tmp_path, "root.md", "---\nkind: none\n---\nat the top")
    write(tmp_path, "work/empty.md", "---\nkind: none\nsource:\n---\nin a folder")
    write(tmp_path, "Lessons/garden/filed.md", "filed by kind, then by subject")
    notes = read_notes(tmp_path, Fields(KINDS)).notes
    assert dict(notes[["id", "source"]].values) == {
        "root.md": "",
        "work/empty.md": "work",
        "Lessons/garden/filed.md": "garden",
    }


def test_style_comes_from_a_field_or_from_a_folder_that_is_not_a_source(tmp_path):
    write(tmp_path, "raw/Lessons/garden/a.md", "one")
    write(tmp_path, "lessons/garden/Tidied/b.md", "two")
    write(tmp_path, "raw/c.md", "---\nstyle: Dictated\n---\n#lesson three")
    write(tmp_path, "raw/d.jsonl", '{"text": "four", "kind": "value"}\n{"text": "five #none", "source": "me"}')
    notes = read_notes(tmp_path, Fields(KINDS)).notes
    assert notes[["text", "kind", "source", "style"]].values.tolist() == [
        ["two", "lesson", "garden", "tidied"],
        ["one", "lesson", "garden", "raw"],
        ["three", "lesson", "", "dictated"],
        ["four", "value", "", "raw"],
        ["five", "none", "me", "raw"],
    ]


def test_kind_given_with_onelap_label_decides_between_tags(tmp_path):
    write(tmp_path, "vault/two.md", "#lesson and #value")
    write(tmp_path, "vault/broken.md", "---\nkind: [\n---\ntext")
    write(tmp_path, "vault/other.labels.jsonl", "of another day")
    reading = read_all(tmp_path / "vault", Fields(KINDS))
    assert list(reading.unlabelled["id"]) == ["broken.md", "two.md"]
    assert dict(reading.skipped[["where", "reason"]].values) == {
        "two.md": "tags of several kinds: lesson, value",
        "broken.md": "broken front matter, and no kind elsewhere",
        "other.labels.jsonl": "kinds given with onelap label",
    }
    write(tmp_path, "vault.labels.jsonl", '{"id": "two.md", "kind": "value"}\n')
    assert read_notes(tmp_path / "vault", Fields(KINDS)).notes[["id", "kind"]].values.tolist() == [["two.md", "value"]]


@pytest.mark.parametrize(
    "content", ['{"id": "a"}', "not json", "[1, 2]", '{"id": "a.md", "kind": 5}', '{"id": ["a"], "kind": "value"}']
)
def test_damaged_labels_file_is_named(tmp_path, content):
    write(tmp_path, "vault/a.md", "#lesson text")
    write(tmp_path, "vault.labels.jsonl", content)
    with pytest.raises(UserError, match=r"vault\.labels\.jsonl: expected"):
        read_notes(tmp_path / "vault", Fields(KINDS))


def test_labels_file_may_have_byte_order_mark_and_blank_lines(tmp_path):
    write(tmp_path, "vault/a.md", "text")
    write(tmp_path, "vault.labels.jsonl", '\ufeff{"id": "a.md", "kind": " Lesson "}\r\n\r\n')
    assert list(read_notes(tmp_path / "vault", Fields(KINDS)).notes["kind"]) == ["lesson"]


def test_kind_is_read_in_the_spelling_of_obsidian_and_other_systems(tmp_path):
    for name, head in (
        ("link", 'kind: "[[Lesson]]"'), ("tag", 'Kind: "#lesson"'), ("dash", "KIND: design-decision"),
        ("mac", "kind: 学ひ\u3099"), ("tags", "Tags: [work/lesson/2024]"),
    ):  # fmt: skip
        write(tmp_path, f"{name}.md", f"---\n{head}\nSource: '[[Diary]]'\n---\ntext {name}")
    notes = read_notes(tmp_path, Fields((*KINDS, "学び"))).notes
    assert dict(notes[["id", "kind"]].values) == {
        "link.md": "lesson", "tag.md": "lesson", "dash.md": "design decision", "mac.md": "学び", "tags.md": "lesson",
    }  # fmt: skip
    assert set(notes["source"]) == {"Diary"}


def ids_of(path):
    return list(read_notes(path, Fields(KINDS)).notes["id"])


def test_ids_of_files_are_composed_and_do_not_depend_on_the_way_to_the_folder(tmp_path, monkeypatch):
    write(tmp_path, "vault/cafe\u0301/か\u3099.md", "#lesson text")
    ways = [tmp_path / "vault", Path(), Path("../vault"), tmp_path / "vault/../vault"]
    if hasattr(os, "mkfifo"):
        (tmp_path / "link").symlink_to(tmp_path / "vault")
        ways += [tmp_path / "link", Path("../link")]
    write(tmp_path, "vault.labels.jsonl", '{"id": "cafe\u0301/が.md", "kind": "value"}')
    monkeypatch.chdir(tmp_path / "vault")
    for way in ways:
        assert read_notes(way, Fields(KINDS)).notes[["id", "kind"]].values.tolist() == [["café/が.md", "value"]]


@pytest.mark.parametrize("header", ["id,text,kind", "ID,Text,Kind", "Id , TEXT, KIND"])
def test_id_of_a_row_is_its_own_whatever_the_case_of_the_header(tmp_path, header):
    path = write(tmp_path, "t.csv", f"{header}\na7,Water early.,lesson\nb 8,Be kind.,value\n,No id.,none\n")
    assert ids_of(path)[:2] == ["a7", "b 8"] and ids_of(path)[2].startswith("row ")
    names = [name.strip() for name in header.split(",")]
    rows = [
        dict(zip(names, values, strict=True))
        for values in ((7, "Water early.", "lesson"), (["x"], "Be kind.", "value"))
    ]
    path = write(tmp_path, "n.jsonl", "\n".join(map(json.dumps, rows)))
    assert ids_of(path) == ["7", "x"]


def test_row_without_an_id_is_known_by_its_text_wherever_it_moves(tmp_path):
    def ids(name, *rows):
        notes = read_notes(write(tmp_path, name, "\n".join(rows)), Fields(KINDS)).notes
        return dict(notes[["text", "id"]].values)

    one = ids("a.jsonl", '{"text": "Water early.", "kind": "lesson"}', '{"text": "Be kind.", "kind": "value"}')
    two = ids("b.jsonl", "", '{"text": "New.", "kind": "none"}', '{"kind": "value", "text": "Be kind.", "x": 1}')
    assert one["Be kind."] == two["Be kind."] != one["Water early."]
    assert ids("c.csv", "kind,text", "value,Be kind.")["Be kind."] == one["Be kind."]
    assert ids("d.csv", "kind,text", "value,Be kind!")["Be kind!"] != one["Be kind."], "an edited text is a new note"


def test_text_of_a_row_has_one_id_in_every_way_in_which_programs_write_it(tmp_path):
    composed, decomposed = ({"text": f"caf{e}\r\nlate", "kind": "lesson"} for e in ("é", "e\u0301"))
    ids = [
        ids_of(write(tmp_path, f"{number}.jsonl", json.dumps(row))) for number, row in enumerate((composed, decomposed))
    ]
    table = ids_of(write(tmp_path, "t.csv", 'text,kind\r\n"café\r\nlate",lesson\r\n'))
    assert ids[0] == ids[1] == table


def test_second_row_of_a_text_or_of_an_id_has_a_number(tmp_path):
    rows = [{"text": "one", "kind": "lesson"}] * 3 + [{"id": 1, "text": text, "kind": "value"} for text in "ab"]
    ids = ids_of(write(tmp_path, "n.jsonl", "\n".join(map(json.dumps, rows))))
    same = next(identity for identity in ids if identity.startswith("row"))
    assert ids == ["1", "1 2", same, f"{same} 2", f"{same} 3"]


def test_rows_keep_their_ids_when_a_file_is_added(tmp_path):
    write(tmp_path, "b.jsonl", '{"id": 1, "text": "one", "kind": "lesson"}')
    before = list(read_notes(tmp_path, Fields(KINDS)).notes["id"])
    write(tmp_path, "a.jsonl", '{"id": 1, "text": "another", "kind": "value"}')
    assert before == ["b.jsonl 1"] and set(before) < set(read_notes(tmp_path, Fields(KINDS)).notes["id"])


@pytest.mark.parametrize(
    ("name", "content", "where", "reason"),
    [
        ("a.csv", "", "a.csv", "no rows"),
        ("a.csv", " \n \n", "a.csv", "no rows"),
        ("a.csv", "text,kind\n", "a.csv", "no rows"),
        ("a.jsonl", "", "a.jsonl", "no rows"),
        ("a.jsonl", " \n \n", "a.jsonl", "no rows"),
        ("a.jsonl", "text,kind\n", "a.jsonl line 1", "not JSON"),
    ],
)
def test_file_without_rows_is_skipped_with_reason(tmp_path, name, content, where, reason):
    write(tmp_path, "good.md", "#lesson text")
    write(tmp_path, name, content)
    reading = read_notes(tmp_path, Fields(KINDS))
    assert reading.skipped.to_dict(orient="records") == [{"where": where, "count": 1, "reason": reason}]


def test_half_an_emoji_is_replaced_in_every_field(tmp_path):
    path = write(tmp_path, "n.jsonl", '{"text": "\\ud83d x", "kind": "lesson", "source": "\\ud83d", "id": "\\ud83d"}')
    assert read_notes(path, Fields(KINDS)).notes[COLUMNS].to_dict(orient="records") == [
        {"id": "?", "text": "\ufffd x", "kind": "lesson", "source": "?"}
    ]


def test_kind_comes_from_front_matter_then_tag_then_folder(tmp_path):
    write(tmp_path, "lessons/all.md", "---\nkind: value\ntags: [none]\n---\ntext")
    write(tmp_path, "lessons/tag.md", "---\ntags: [none, garden]\n---\ntext")
    write(tmp_path, "lessons/folder.md", "text")
    notes = read_notes(tmp_path, Fields(KINDS)).notes
    assert list(notes["kind"]) == ["value", "lesson", "none"]


def test_yaml_value_that_names_no_kind_is_skipped_with_reason(tmp_path):
    for name, kind in (
        ("list", "[lesson]"),
        ("number", "3"),
        ("several", "[a, b]"),
        ("none", "{a: b}"),
        ("two", "[3, lesson]"),
    ):
        write(tmp_path, f"{name}.md", f"---\nkind: {kind}\n---\ntext")
    for number, kind in enumerate(["", "~", "null", ".nan", "[]", "[null]", "'\u200b'", "' '"]):
        write(tmp_path, f"blank {number}.md", f"---\nkind: {kind}\n---\n#lesson")
        write(tmp_path, f"blank {number} without.md", f"---\nkind: {kind}\n---\ntext")
    reading = read_all(tmp_path, Fields(("3", "lesson")))
    assert dict(reading.notes[["id", "kind"]].values) == {"list.md": "lesson", "number.md": "3"}
    reasons = dict(reading.skipped[["where", "reason"]].values)
    assert reasons.pop("several.md") == "`kind` is a list: expected the name of a kind"
    assert reasons.pop("none.md") == "`kind` is a dict: expected the name of a kind"
    assert reasons.pop("two.md") == "`kind` of several kinds: 3, lesson"
    blank = {f"blank {number}.md": "no text beside what names its kind" for number in range(8)}
    assert reasons == blank | {f"blank {number} without.md": "no kind" for number in range(8)}


@pytest.mark.parametrize("kind", ["no", "yes", "true", "Off"])
def test_word_that_yaml_once_took_for_a_truth_value_is_a_name(tmp_path, kind):
    write(tmp_path, "a.md", f"---\nkind: {kind}\nsource: {kind}\n---\ntext")
    (note,) = read_notes(tmp_path, Fields((kind.lower(), "lesson"))).notes.to_dict(orient="records")
    assert (note["kind"], note["source"]) == (kind.lower(), kind)
    with pytest.raises(UserError, match=f"found `{kind.lower()}` in a.md"):
        read_notes(tmp_path, Fields(KINDS))


def test_reason_of_a_note_without_a_kind_is_what_its_person_can_mend(tmp_path):
    write(tmp_path, "good.md", "#lesson text")
    write(tmp_path, "broken.md", "---\nkind: @lesson\n---\ntext")
    write(tmp_path, "broken, two.md", "---\ntitle: Re: bees\n---\ntext #lesson #value")
    write(tmp_path, "two.md", "kind:: lesson\n- Kind: [[Value]]\ntext")
    reading = read_notes(tmp_path, Fields(KINDS))
    assert dict(reading.skipped[["where", "reason"]].values) == {
        "broken.md": "broken front matter, and no kind elsewhere",
        "broken, two.md": "tags of several kinds: lesson, value",
        "two.md": "properties of several kinds: lesson, value",
    }


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"kind": "Lesson"}, "lesson"),
        ({"KIND": "[[Kinds/Lesson]]"}, "lesson"),
        ({"kind": ["lesson"]}, "lesson"),
        ({"kind": "garden, lesson"}, "lesson"),
        ({"Kind": "value", "text": "---\nkind: lesson\n---\ntext"}, "value"),
        ({"kind": None, "text": "---\nkind: lesson\n---\ntext"}, "lesson"),
        ({"kind": math.nan, "text": "---\nkind: lesson\n---\ntext"}, "lesson"),
        ({"kind": " ", "text": "---\nkind: lesson\n---\ntext"}, "lesson"),
        ({"kind": "null", "text": "#lesson text"}, "lesson"),
        ({"kind": "NaN", "text": "#lesson text"}, "lesson"),
        ({"kind": [], "tags": ["lesson", "garden"]}, "lesson"),
        ({"Tags": "garden lesson"}, "lesson"),
    ],
)
def test_kind_of_a_row_comes_from_its_field_then_front_matter_then_tags(tmp_path, row, kind):
    notes = read_notes(write(tmp_path, "n.jsonl", json.dumps({"text": "text"} | row)), Fields(KINDS)).notes
    assert notes[["kind", "text"]].values.tolist() == [[kind, "text"]]


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        ("---\ntags: garden work/lesson\n---\nx", "work/lesson", "x"),
        ("---\ntags: 'garden, work/lesson'\n---\nx", "work/lesson", "x"),
        ("---\ntags: [design decision]\n---\nx", "design decision", "x"),
        ("tags: bed work/lesson\nx", "work/lesson", "tags: bed\nx"),
        ("- [ ] weed #work/lesson\n- next", "work/lesson", "- [ ] weed \n- next"),
        ("[a bed #work/lesson](x.md)\nnext", "work/lesson", "[a bed ](x.md)\nnext"),
    ],
)
def test_kind_of_several_words_or_parts_is_not_taken_for_the_kind_that_is_its_last(tmp_path, content, kind, text):
    write(tmp_path, "a.md", content)
    notes = read_notes(tmp_path, Fields(("lesson", "work/lesson", "decision", "design decision"))).notes
    assert notes[["kind", "text"]].values.tolist() == [[kind, text]]


def test_unknown_kind_is_refused_with_its_files_and_the_nearest_kind(tmp_path):
    for number in range(7):
        write(tmp_path, f"{number}.md", "---\nkind: Lessen\n---\ntext")
    write(tmp_path, "odd.md", "---\nkind: valeu\n---\ntext")
    expected = (
        r"`lessen` in 0.md, 1.md, 2.md, 3.md, 4.md and 2 more \(nearest: lesson\); `valeu` in odd.md \(nearest: value\)"
    )
    with pytest.raises(UserError, match=expected):
        read_notes(tmp_path, Fields(KINDS))


def test_fields_are_made_from_parameters():
    rest = {f"{name}_field": name for name in ("text", "kind", "source", "style")} | {"styles": "Raw,", "encoding": ""}
    rest["template_folders"] = "Modèles, My Templates"
    fields = Fields.of(rest | {"kinds": "Quote,  Idea , C++, Q&A, quote, de\u0301cision"})
    assert fields == Fields(
        ("quote", "idea", "c++", "q&a", "décision"), styles=("raw",), template_folders=("modèles", "my templates")
    )
    assert Fields.from_json(json.loads(json.dumps(asdict(fields))) | {"of an earlier version": 1}) == fields
    with pytest.raises(UserError, match="kinds: expected 2 or more names separated by commas, found 'lesson,'"):
        Fields.of(rest | {"kinds": "lesson,"})
    with pytest.raises(UserError, match="encoding: expected a name such as cp1251, found 'cp99'"):
        Fields.of(rest | {"kinds": "a, b", "encoding": "cp99"})


@pytest.mark.parametrize("head", ["created: 2024-02-30", "content: x", "on: x", "2024: x", "handler: x", "a: b: c"])
def test_odd_front_matter_costs_no_note(tmp_path, head):
    write(tmp_path, "good.md", "---\nkind: value\n---\nKindness first.")
    write(tmp_path, "odd.md", f"---\nkind: value\n{head}\n---\ntext")
    write(tmp_path, "json.txt", '{ "kind": ')
    reading = read_notes(tmp_path, Fields(KINDS))
    assert reading.notes[["id", "kind", "text"]].values.tolist() == [
        ["good.md", "value", "Kindness first."],
        ["odd.md", "value", "text"],
    ]
    assert reading.skipped[["where", "reason"]].values.tolist() == [["json.txt", "no kind"]]


def test_json_lines_are_read_by_the_given_field_names(tmp_path):
    rows = [
        {"id": "x", "body": "one\u2028line", "label": "a", "author": "me"},
        {"body": "two", "label": "b"},
        {"id": "x", "body": "again", "label": "a"},
        {"label": "a"},
        ["a list"],
        {"body": "nul \x00", "label": "a"},
    ]
    path = tmp_path / "notes.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines += ["", '{"body": "half an emoji \\ud83d", "label": "a"}', "{half"]
    path.write_text("\n".join(lines), encoding="utf-8")
    reading = read_notes(path, Fields(("a", "b"), "body", "label", "author"))
    assert reading.notes[COLUMNS].to_dict(orient="records") == [
        {"id": "row 3fc4ccfe7458", "text": "two", "kind": "b", "source": ""},
        {"id": "row d80f912bc31f", "text": "half an emoji \ufffd", "kind": "a", "source": ""},
        {"id": "row e003d1fd3f83", "text": "nul \ufffd", "kind": "a", "source": ""},
        {"id": "x", "text": "one\u2028line", "kind": "a", "source": "me"},
        {"id": "x 2", "text": "again", "kind": "a", "source": ""},
    ]
    assert dict(reading.skipped[["where", "reason"]].values) == {
        "line 4": "the field `body` is missing, there are label",
        "line 5": "not a JSON object",
        "line 9": "not JSON",
    }


def test_exact_duplicates_are_dropped_and_conflicting_kinds_reported(tmp_path):
    path = tmp_path / "notes.jsonl"
    rows = [("a", "same  text", "k"), ("b", "same text", "k"), ("c", "other", "k"), ("d", "same\ntext ", "l")]
    lines = [json.dumps({"id": identity, "text": text, "kind": kind}) for identity, text, kind in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    kept, dropped = drop_duplicates(read_notes(path, Fields(("k", "l"))).notes, frozen_parts={})
    assert list(kept["id"]) == ["a", "c"]
    assert dropped.to_dict(orient="records") == [
        {"id": "b", "same_as": "a", "same_kind": True},
        {"id": "d", "same_as": "a", "same_kind": False},
    ]


def test_languages_of_longer_notes_are_guessed():
    texts = ["The bees were calm today, so I opened the second hive.", "今日は畑でトマトの芽かきをした。"]
    assert guess_languages(texts) == ["en", "ja"]


def jsonl(tmp_path, counts):
    rows = [{"text": f"{kind} {number}", "kind": kind} for kind, count in counts.items() for number in range(count)]
    path = tmp_path / "notes.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_check_kinds_refuses_a_single_kind(tmp_path):
    notes = read_notes(jsonl(tmp_path, {"value": 9}), Fields(KINDS)).notes
    with pytest.raises(UserError, match=r"one kind only \(value\): a classifier needs at least two"):
        check_kinds(notes["kind"])


def test_check_kinds_names_kinds_with_fewer_than_five_notes(tmp_path):
    notes = read_notes(jsonl(tmp_path, {"value": 5, "lesson": 4, "none": 1}), Fields(KINDS)).notes
    with pytest.raises(UserError, match=r"at least 5 notes of every kind, found fewer for: lesson \(4\), none \(1\)"):
        check_kinds(notes["kind"])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: "", "expected a folder or a file, found nothing"),
        (lambda folder: folder / "nowhere", "no such folder or file; set it with -p notes_path=PATH"),
        (
            lambda folder: write(folder, "notes.pdf", "x"),
            r"expected a folder or a file of rows \(.csv, .*\), found notes.pdf",
        ),
    ],
)
def test_path_without_notes_is_refused_with_advice(tmp_path, make, expected):
    with pytest.raises(UserError, match=expected):
        locate_notes(str(make(tmp_path)))


def test_folder_without_a_labelled_note_is_refused_with_the_first_reason(tmp_path):
    write(tmp_path, "a.md", "no front matter")
    with pytest.raises(UserError, match=r"found none; first of 1 skipped: a.md: no kind"):
        read_notes(tmp_path, Fields(KINDS))


def test_command_reports_all_mistakes_at_once_before_any_notebook(onelap, tmp_path):
    """Several mistakes, one line, exit status 2, and no run folder left behind."""
    result = onelap(
        "run", "params/embedded.yaml", "--run", tmp_path / "run",
        "-p", f"notes_path={tmp_path}/nowhere", "-p", f"base_model={tmp_path}",
        "-p", "lora_rnak=3", "-p", "micro_batch_tokens=3",
    )  # fmt: skip
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "lora_rnak: unknown parameter; did you mean lora_rank?" in line
    assert "micro_batch_tokens: expected" in line
    assert "no such folder or file" in line
    assert "expected a Hugging Face model folder, found no config.json and no tokenizer*" in line
    assert not (tmp_path / "run").exists()


def test_notes_of_a_single_kind_end_the_run_in_one_line(onelap, tmp_path):
    notes = jsonl(tmp_path, {"value": 9})
    result = onelap("run", "params/embedded.yaml", "--run", tmp_path / "run", "-p", f"notes_path={notes}")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("onelap: 01_data_prep: the notes hold one kind only (value)")
    assert (tmp_path / "run/01_data_prep.ipynb").exists()
    assert not (tmp_path / "run/02_baseline.ipynb").exists()


def test_reader_survives_numbers_that_cannot_be_written_in_decimal(tmp_path):
    huge = f"0x{'f' * 4500}"
    write(tmp_path, "good.md", "#value Kindness first.")
    write(tmp_path, "odd.md", f"---\ndate: {huge}\ntags: [{huge}]\n---\n#value text")
    write(tmp_path, "odd.jsonl", f'{{"text": "a row", "id": 1e999, "kind": {"9" * 5000}}}')
    reading = read_notes(tmp_path, Fields(KINDS))
    assert list(reading.notes["id"]) == ["good.md", "odd.md"]
    assert reading.skipped[["where", "reason"]].values.tolist() == [["odd.jsonl line 1", "not JSON"]]
    write(tmp_path, "odd.md", f"---\nkind: {huge}\n---\ntext")
    with pytest.raises(UserError, match=r"found a text of 4502 characters in odd.md"):
        read_notes(tmp_path, Fields(KINDS))


def test_row_without_text_takes_no_id_from_the_next(tmp_path):
    path = write(tmp_path, "n.jsonl", '{"id": "a", "text": ""}\n{"id": "a", "text": "hello", "kind": "value"}')
    assert list(read_notes(path, Fields(KINDS)).notes["id"]) == ["a"]
