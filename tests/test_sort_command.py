"""`onelap sort` as it is used: a real process with a real model."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TOY_WORDS, toy_notes, write_jsonl

# A shell that starts the tests in the background makes them ignore Ctrl-C, and what they start inherits that.
ACCEPT_CTRL_C = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
ONELAP = str(Path(sys.executable).with_name("onelap"))
SCRIPT = """
import json, subprocess, sys
onelap, run = sys.argv[1:]
sorter = subprocess.Popen(
    [onelap, "sort", "-", "--run", run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
)
for number, note in enumerate(["he burnt it again, sorry", "milk, dentist, 河", "we believe in patience"]):
    sorter.stdin.write(json.dumps({"id": number, "text": note}) + "\\n")
    sorter.stdin.flush()
    answer = json.loads(sorter.stdout.readline())
    print(answer["id"], answer["kind"], answer["sure"])
"""


@pytest.fixture
def inbox(tmp_path):
    """A folder of notes, with one of each oddity."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number, note in enumerate(toy_notes(40)):
        (folder / f"{number:02}.md").write_text(f"---\ncreated: 2024-01-01\n---\n{note['text']}", encoding="utf-8")
    (folder / "empty.md").write_text("", encoding="utf-8")
    (folder / "broken.md").write_bytes(b"\x00\x01\x02")
    (folder / "scan.png").write_bytes(b"\x89PNG")
    return folder


def test_sort_answers_for_each_note_of_a_folder_and_counts_the_rest(lap, onelap, inbox):
    result = onelap("sort", inbox, "--run", lap[0])
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(answer["path"]).name for answer in answers] == sorted(
        path.name for path in inbox.iterdir() if path.suffix == ".md"
    )
    by_name = {Path(answer["path"]).name: answer for answer in answers}
    assert by_name["broken.md"]["error"] == "binary: holds NUL" and by_name["broken.md"]["kind"] is None
    assert by_name["empty.md"]["kind"] is None and "error" not in by_name["empty.md"]
    for name in ("00.md", "39.md"):
        assert set(by_name[name]) == {"path", "kind", "confidence", "probabilities", "sure"}
        assert by_name[name]["kind"] in TOY_WORDS
    messages = result.stderr.splitlines()
    assert re.fullmatch(rf"sorting with .+ \(\w+\) of {re.escape(str(lap[0]))}", messages[0]) and len(messages) == 2
    assert messages[1].startswith("42 notes in ") and "errors 1" in messages[1]
    assert "skipped 1 (not a note: .png suffix)" in messages[1]


def test_sort_prints_a_table_or_csv_with_every_note(lap, onelap, inbox):
    table = onelap("sort", inbox, "--run", lap[0], "--format", "table", "--min-confidence", "0").stdout.splitlines()
    assert len(table) == 42 and table[0].split()[0] in TOY_WORDS and table[0].endswith("00.md")
    assert not any("?" in line for line in table if "%" in line and "–" not in line)
    (error,) = [line for line in table if line.startswith("(error)")]
    assert error.endswith("broken.md: binary: holds NUL")
    rows = list(csv.DictReader(io.StringIO(onelap("sort", inbox, "--run", lap[0], "--format", "csv").stdout)))
    assert (
        len(rows) == 42
        and rows[0]["kind"] in TOY_WORDS
        and sum(float(rows[0][kind]) for kind in TOY_WORDS) == pytest.approx(1, abs=3e-4)
    )
    assert list(rows[0]) == ["path", "id", "kind", "confidence", "sure", "error", *sorted(TOY_WORDS)]


def test_sort_keeps_the_order_of_piped_lines_and_survives_a_broken_one(lap, onelap):
    lines = [json.dumps({"id": n, "text": note["text"]}) for n, note in enumerate(toy_notes(150))]
    lines[70] = '{"id": 70, "text": '
    result = onelap("sort", "-", "--run", lap[0], input="\n".join(lines))
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == [*range(70), "line 71", *range(71, 150)]
    assert answers[70]["error"].startswith("not JSON; expected ") and answers[70]["sure"] is False
    assert all(answer["kind"] in TOY_WORDS for n, answer in enumerate(answers) if n != 70)


def test_sort_answers_a_script_that_keeps_it_open_line_by_line(lap):
    command = [sys.executable, "-c", SCRIPT, ONELAP, str(lap[0])]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert result.returncode == 0, result.stderr
    answers = [line.split() for line in result.stdout.splitlines()]
    assert [answer[0] for answer in answers] == ["0", "1", "2"] and all(answer[1] in TOY_WORDS for answer in answers)


def start_sorting(lap, *paths):
    """Start a process that sorts, with pipes for its input and output."""
    return subprocess.Popen(
        [ONELAP, "sort", *paths, "--run", str(lap[0])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        preexec_fn=ACCEPT_CTRL_C,
    )  # fmt: skip


def test_interrupted_sort_loses_no_answer_and_leaves_one_line(lap):
    process = start_sorting(lap, "-")
    process.stdin.write('{"id": 1, "text": "a note"}\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == 1
    time.sleep(0.5)  # the answer is read before it is counted
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and out == ""
    assert err.splitlines()[1:] == ["onelap: interrupted; answers that are whole: 1"]


@pytest.mark.skipif(os.name == "nt", reason="no signal of a closed pipe on Windows")
def test_sort_stops_quietly_when_the_reader_closes_the_pipe(lap, tmp_path):
    write_jsonl(tmp_path / "many.jsonl", toy_notes(3000))
    process = start_sorting(lap, str(tmp_path / "many.jsonl"))
    assert process.stdout.readline()
    process.stdout.close()
    began = time.monotonic()
    err = process.stderr.read()
    process.wait(timeout=60)
    assert "Traceback" not in err and "BrokenPipe" not in err, err
    assert time.monotonic() - began < 30, "it went on after the pipe was closed"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.md", "--run", "{run}"], "no such file or folder: missing.md"),
        (["--run", "{run}"], "the following arguments are required: PATH; see onelap sort --help"),
        ([".", "--run", "nowhere"], "nowhere: expected a run's folder or its name below"),
        ([".", "--run", "{run}", "--min-confidence", "60"], "--min-confidence: expected 0 to 1, found 60"),
        ([".", "--run", "{run}", "--format", "xml"], "invalid choice: 'xml'"),
    ],
)
def test_sort_refuses_wrong_arguments_in_one_line(lap, complaint, arguments, expected):
    assert expected in complaint("sort", *(argument.format(run=lap[0]) for argument in arguments))
