"""The command `onelap notes`: what a lap would read, shown before it is run."""

import json
import os
import subprocess
import sys

import pytest

KINDS = ["-p", "kinds=lesson, value, none"]


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.fixture
def vault(tmp_path):
    """A folder with enough notes of three kinds, and something of what a vault holds beside them."""
    folder = tmp_path / "vault"
    for number in range(6):
        write(
            folder,
            f"garden/{number}.md",
            f"---\nkind: lesson\n---\n# Lesson\nThe frost took the beans of bed {number}.",
        )
        write(folder, f"01 Values/{number}.md", f"Patience with plants matters more than order {number}.")
    rows = [{"id": number, "text": f"Buy seeds for bed {number}. #none", "source": "list"} for number in range(5)]
    write(folder, "rows.jsonl", "\n".join(map(json.dumps, [*rows, {"id": 9}])))
    write(folder, "{0}/{x} {{title}}.md", "Braces {0} {x!r} stay. #none ![x](data:image/png;base64,AAAA)")
    write(folder, "undecided.md", "#lesson and #value")
    write(folder, "plain.md", "A walk to the river.")
    write(folder, "node_modules/lib/readme.md", "#lesson")
    write(folder, "99 Templates/new.md", "#lesson")
    write(folder, "scan.png", b"\x89PNG")
    return folder


def rows_of(result):
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_table_shows_kinds_sources_languages_and_what_is_left_out(onelap, vault):
    result = onelap("notes", vault, *KINDS)
    assert (result.returncode, result.stderr) == (0, "")
    for line in (
        "        6          1  lesson",
        "        6          1  value",
        "        6          2  none",
        "        2          1  (no kind)",
        "        6  heading",
        "        6  tag",
        "        1  picture",
        "        1  files of a program: node_modules",
        "        1  templates: 99 Templates",
        "        1  not a note: .png suffix: scan.png",
        "        1  a note, but tags of several kinds: lesson, value: undecided.md",
        "        1  a note, but no kind: plain.md",
        "        1  the field `text` is missing, there are id: rows.jsonl line 6",
    ):
        assert line in result.stdout.splitlines()
    assert "4  sources; the largest: (none) (8), garden (6), list (5), {0} (1)" in result.stdout
    assert "languages, guessed from 20 notes: en " in result.stdout


def test_rows_hold_the_notes_as_they_are_learnt_from_and_then_what_is_skipped(onelap, vault):
    rows = rows_of(onelap("notes", vault, *KINDS, "--format", "jsonl"))
    notes, skipped = rows[:20], rows[20:]
    assert all(list(note) == ["id", "kind", "source", "text"] for note in notes)
    assert all(list(skip) == ["skipped", "reason", "count"] for skip in skipped)
    by_id = {note["id"]: note for note in notes}
    assert by_id["garden/3.md"] == {
        "id": "garden/3.md",
        "kind": "lesson",
        "source": "garden",
        "text": "The frost took the beans of bed 3.",
    }
    assert by_id["rows.jsonl 4"]["text"] == "Buy seeds for bed 4." and by_id["rows.jsonl 4"]["source"] == "list"
    assert by_id["{0}/{x} {{title}}.md"]["text"] == "Braces {0} {x!r} stay."
    assert by_id["undecided.md"] == {"id": "undecided.md", "kind": None, "source": "", "text": "#lesson and #value"}
    assert {(skip["skipped"], skip["reason"], skip["count"]) for skip in skipped} == {
        ("node_modules", "files of a program", 1),
        ("99 Templates", "templates", 1),
        ("scan.png", "not a note: .png suffix", 1),
        ("rows.jsonl line 6", "the field `text` is missing, there are id", 1),
    }


def test_rows_are_what_training_reads(onelap, hostile_vault):
    from onelap.notes.fields import Fields
    from onelap.notes.vault import read_all

    reading = read_all(hostile_vault, Fields(("lesson", "knowledge", "value", "decision", "none")))
    expected = {}
    for table in (reading.notes, reading.unlabelled):
        expected |= {row.id: (row.kind or None, row.source, row.text) for row in table.itertuples()}
    rows = rows_of(onelap("notes", hostile_vault, "--format", "jsonl"))
    assert {row["id"]: (row["kind"], row["source"], row["text"]) for row in rows if "id" in row} == expected
    skipped = {(row["skipped"], row["count"], row["reason"]) for row in rows if "skipped" in row}
    assert skipped < set(reading.skipped.itertuples(index=False, name=None)), "which lists notes without a kind, too"
    assert len(skipped) + len(reading.unlabelled) == len(reading.skipped)


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_name_that_is_not_utf8_is_shown(onelap, tmp_path):
    write(tmp_path, os.fsdecode(b"caf\xe9.md"), "text #lesson")
    write(tmp_path, os.fsdecode(b"th\xe9/a.md"), "text #value")
    rows = rows_of(onelap("notes", tmp_path, *KINDS, "--format", "jsonl"))
    assert [row["id"] for row in rows] == ["caf\ufffd.md", "th\ufffd/a.md"]


def test_parameters_are_those_of_a_lap(onelap, tmp_path):
    rows = [{"body": "Sooner.", "label": "idée", "by": "Ana"}, {"body": "Later.", "label": "C++"}]
    path = write(tmp_path, "n.jsonl", "\n".join(map(json.dumps, rows)))
    parameters = {"kinds": "Idée, C++", "text_field": "body", "kind_field": "label", "source_field": "by"}
    options = [option for pair in parameters.items() for option in ("-p", "=".join(pair))]
    found = rows_of(onelap("notes", path, *options, "--format", "jsonl"))
    assert [(row["text"], row["kind"], row["source"]) for row in found] == [
        ("Sooner.", "idée", "Ana"),
        ("Later.", "c++", ""),
    ]

    write(tmp_path, "vault/Muster/new.md", "#lesson")
    write(tmp_path, "vault/Templates/new.md", "#lesson text")
    write(tmp_path, "vault/a.md", "Żółć. #lesson".encode("cp1250"))
    options = [*KINDS, "-p", "template_folders=muster", "-p", "encoding=cp1250"]
    rows = rows_of(onelap("notes", tmp_path / "vault", *options, "--format", "jsonl"))
    assert [row.get("text", row.get("reason")) for row in rows] == ["Żółć.", "text", "templates"]


@pytest.mark.parametrize("form", ["table", "jsonl"])
def test_unknown_kind_is_refused_after_all_is_shown(onelap, vault, form):
    write(vault, "odd.md", "---\nkind: Lessen\n---\nLess is more.")
    result = onelap("notes", vault, *KINDS, "--format", form)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "expected the kinds lesson, value, none, found `lessen` in odd.md (nearest: lesson)" in line
    assert "lessen" in result.stdout and "garden" in result.stdout


def test_too_few_notes_are_refused_where_a_lap_is_but_not_for_rows(onelap, vault):
    write(vault, "one.md", "text #knowledge")
    kinds = ["-p", "kinds=lesson, value, knowledge, none"]
    result = onelap("notes", vault, *kinds)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "expected at least 5 notes of every kind, found fewer for: knowledge (1)" in line
    assert "        1          1  knowledge" in result.stdout
    assert onelap("notes", vault, *kinds, "--format", "jsonl").returncode == 0


def test_folder_without_a_note_is_refused_in_one_line(onelap, tmp_path):
    result = onelap("notes", tmp_path, *KINDS)
    assert (
        result.returncode == 2 and result.stderr == "onelap: the notes hold no kind: a classifier needs at least two\n"
    )
    assert onelap("notes", tmp_path, *KINDS, "--format", "jsonl").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{}/nowhere"], "nowhere: no such folder or file"),
        (["{}/scan.png"], "expected a folder or a file of rows"),
        ([""], "expected a folder or a file, found nothing"),
        (["{}", "-p", "kinds=lesson"], "kinds: expected 2 or more names"),
        (["{}", "-p", "kindz=lesson, none"], "kindz: unknown parameter; did you mean kinds?"),
        (["{}", "-p", "encoding=cp99"], "encoding: expected a name such as cp1251, found 'cp99'"),
        (["{}", "-p", "styles="], "styles: expected 1 or more names"),
    ],
)
def test_mistake_in_the_command_is_one_line(complaint, vault, arguments, expected):
    assert expected in complaint("notes", *(argument.replace("{}", str(vault)) for argument in arguments))


def test_nothing_is_written(onelap, vault, tmp_path):
    def state():
        return {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}

    home = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    before = state()
    for form in ("table", "jsonl"):
        assert onelap("notes", vault, *KINDS, "--format", form, cwd=tmp_path, env=os.environ | home).returncode == 0
    assert state() == before


def test_rows_need_no_library_that_takes_long_to_load(vault):
    program = """
import sys
from onelap.cli import main
status = main(["notes", *sys.argv[1:]])
print(status, *sorted({"torch", "pandas", "numpy", "sklearn", "transformers"} & sys.modules.keys()), file=sys.stderr)
"""
    command = [sys.executable, "-c", program, str(vault), *KINDS, "--format", "jsonl"]
    assert subprocess.run(command, capture_output=True, text=True).stderr == "0\n"


def test_reader_of_rows_may_stop_early(vault):
    command = [sys.executable, "-m", "onelap.cli", "notes", str(vault), *KINDS, "--format", "jsonl"]
    for number in range(2_000):
        write(vault, f"more/{number}.md", "#lesson " + "text " * 100)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
