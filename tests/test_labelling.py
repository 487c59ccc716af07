"""Labelling in the terminal: the order of the notes, the effect of each key, the file of labels."""

import json
import os
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyte
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from onelap import PROJECT, UserError
from onelap.daily.label import Labelling, most_suspicious_first, most_useful_first, walk
from onelap.notes.fields import Fields
from onelap.notes.labels import LABELS_SUFFIX, labels_path, read_labels
from onelap.notes.vault import read_notes

KINDS = ["knowledge", "none"]
SAMPLE_KINDS = ("lesson", "knowledge", "value", "decision", "none")
KNOWN = [
    *((f"water boils at {n} degrees and iron melts later", "knowledge") for n in range(6)),
    *((f"buy milk and call the dentist at {n}", "none") for n in range(6)),
]


def table(rows):
    notes = pd.DataFrame(rows, columns=["text", "kind"])
    return notes.assign(id=[f"n{number}" for number in range(len(notes))], source="")


def test_note_unlike_all_labelled_ones_comes_first():
    unlabelled = table([("water boils at 9 degrees", ""), ("a fox crossed our street", ""), ("buy milk at 9", "")])
    queue = most_useful_first(unlabelled, table(KNOWN))
    assert queue["id"].iloc[0] == "n1"
    assert dict(queue[["id", "suggestion"]].values) == {
        "n0": "knowledge",
        "n2": "none",
        "n1": queue["suggestion"].iloc[0],
    }


def test_without_labels_there_is_no_suggestion():
    queue = most_useful_first(table([("a", ""), ("b", "")]), table([]))
    assert list(queue["suggestion"]) == ["", ""]


def test_review_finds_most_kinds_that_were_changed_on_purpose():
    """20 of 520 sample notes get a wrong kind; in most draws 14 or more are among the first 40."""
    notes = read_notes(PROJECT / "data/sample_notes", Fields(SAMPLE_KINDS)).notes
    rng = np.random.default_rng(0)
    flipped = notes.sample(20, random_state=0).index
    wrong = [rng.choice([kind for kind in SAMPLE_KINDS if kind != notes["kind"][row]]) for row in flipped]
    notes.loc[flipped, "kind"] = wrong
    first = most_suspicious_first(notes)["id"][:40]
    assert notes.loc[flipped, "id"].isin(first).sum() >= 14


def test_review_leaves_out_a_kind_of_one_note():
    wrong = [("iron melts and water boils at 7 degrees", "none"), ("the only one", "value")]
    suspicious = most_suspicious_first(table([*KNOWN, *wrong]))
    assert suspicious[["id", "suggestion"]].values.tolist() == [["n12", "knowledge"]]


@pytest.mark.parametrize("rows", [KNOWN[:6], [("🎈", "none"), ("🎉 x", "none"), ("🚲", "value"), ("y", "value")]])
def test_review_without_two_kinds_of_words_raises(rows):
    with pytest.raises(UserError, match="expected two kinds or more with two notes of each"):
        most_suspicious_first(table(rows))


def test_emoji_alone_give_no_suggestion():
    queue = most_useful_first(table([("🚲", "")]), table([("🎈", "none"), ("🎉", "value")]))
    assert list(queue["suggestion"]) == [""]


def press(keys: str, labelling: Labelling) -> None:
    with create_pipe_input() as terminal, create_app_session(input=terminal, output=DummyOutput()):
        terminal.send_text(keys)
        walk(labelling, KINDS)


@pytest.fixture
def vault(tmp_path):
    folder = tmp_path / "vault"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.md").write_text(f"note {name}", encoding="utf-8")
    return folder


def queue_of(*names):
    return pd.DataFrame({"id": [f"{name}.md" for name in names], "text": "x", "suggestion": "none", "confidence": 0.5})


def labels(vault):
    return [json.loads(line) for line in labels_path(vault).read_text(encoding="utf-8").splitlines()]


def test_each_key_labels_or_skips_one_note(vault):
    press("1s\r2", Labelling(queue_of("a", "b", "c", "d"), vault))
    assert labels(vault) == [
        {"id": "a.md", "kind": "knowledge"},
        {"id": "c.md", "kind": "none"},
        {"id": "d.md", "kind": "none"},
    ]
    assert (vault / "a.md").read_text(encoding="utf-8") == "note a", "never in the notes"


def test_undo_takes_back_a_label_or_a_skip_and_quitting_keeps_the_rest(vault):
    press("12uu1suq", Labelling(queue_of("a", "b", "c"), vault))
    assert labels(vault) == [{"id": "a.md", "kind": "knowledge"}]


def test_kinds_beyond_ten_have_capital_letters(vault):
    kinds = [f"kind {number}" for number in range(12)]
    with create_pipe_input() as terminal, create_app_session(input=terminal, output=DummyOutput()):
        terminal.send_text("0B")
        walk(Labelling(queue_of("a", "b"), vault), kinds)
    assert [row["kind"] for row in labels(vault)] == ["kind 9", "kind 11"]


def test_line_without_its_end_is_ended_before_the_next_label(vault):
    labels_path(vault).write_text('{"id": "z.md", "kind": "none"}', encoding="utf-8")
    press("1q", Labelling(queue_of("a", "b"), vault))
    assert [row["id"] for row in labels(vault)] == ["z.md", "a.md"]


def test_labels_are_read_with_the_notes_and_skipped_notes_stay_unlabelled(vault):
    press("1q", Labelling(queue_of("a", "b"), vault))
    reading = read_notes(vault, Fields(tuple(KINDS)))
    assert reading.notes[["id", "kind"]].values.tolist() == [["a.md", "knowledge"]]
    assert list(reading.unlabelled["id"]) == ["b.md", "c.md", "d.md"]


def test_labels_of_a_linked_vault_are_beside_the_vault_with_composed_names(vault, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(vault)
    before = vault.with_name(vault.name + LABELS_SUFFIX)
    before.write_text('{"id": "cafe\u0301.md", "kind": "none"}\n{"id": "a.md", "kind": "none"}\n', encoding="utf-8")
    press("1q", Labelling(queue_of("a", "b"), link))
    monkeypatch.chdir(vault)
    for path in (vault, link, Path()):
        assert read_labels(path) == {"caf\u00e9.md": "none", "a.md": "knowledge"}


def test_unwritable_labels_are_refused_before_the_first_note(tmp_path):
    vault = tmp_path / ("v" * 250)  # no file beside it can have its name and the suffix
    vault.mkdir()
    assert read_labels(vault) == {}
    with pytest.raises(UserError, match=r"labels.jsonl: the labels cannot be written: File name too long; move the "):
        Labelling(queue_of("a"), vault)


def test_labels_on_a_disk_that_is_read_only_are_refused(vault, tmp_path):
    mount = ["mount", "--bind", str(tmp_path), str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a folder")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(tmp_path)], check=True)
        with pytest.raises(UserError, match="Read-only file system"):
            Labelling(queue_of("a"), vault)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_quitting_without_a_label_leaves_no_file(vault):
    press("sq", Labelling(queue_of("a", "b"), vault))
    assert not labels_path(vault).exists()


class Terminal:
    """A real pseudo-terminal of 30 lines and 100 columns with a command in it, and its screen."""

    def __init__(self, *command: object):
        fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
        self.screen = pyte.Screen(100, 30)
        self.stream = pyte.ByteStream(self.screen)
        self.side, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        environment = os.environ | {"TERM": "xterm-256color"}
        streams = {"stdin": inside, "stdout": inside, "stderr": inside}
        self.process = subprocess.Popen(list(map(str, command)), **streams, env=environment, start_new_session=True)
        os.close(inside)

    def until(self, expected: str) -> None:
        """Wait until the screen shows this."""
        deadline = time.monotonic() + 60
        while expected not in "\n".join(self.screen.display):
            ready, _, _ = select.select([self.side], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {expected!r} on the screen:\n" + "\n".join(self.screen.display)
            self.stream.feed(os.read(self.side, 65536))

    def press(self, key: str) -> None:
        """One key."""
        os.write(self.side, key.encode())


def test_label_command_works_on_a_real_terminal(vault):
    (vault / "long.md").write_text("\n".join(f"line {number}" for number in range(200)), encoding="utf-8")
    terminal = Terminal(Path(sys.executable).with_name("onelap"), "label", vault, "-p", f"kinds={', '.join(KINDS)}")
    for key, expected in (
        ("", "1 of 5   a.md"),
        ("1", "2 of 5   b.md"),
        ("s", "3 of 5   c.md"),
        ("u", "2 of 5   b.md"),
        ("2", "3 of 5   c.md"),
        ("1", "4 of 5   d.md"),
        ("s", "line 20"),
        ("\x1b[6~", "line 40"),  # PgDn
    ):
        terminal.press(key)
        terminal.until(expected)
    terminal.press("q")
    terminal.until("labels given so far: 3, in")
    assert terminal.process.wait(30) == 0
    assert [row["id"] for row in labels(vault)] == ["a.md", "b.md", "c.md"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_label_command_works_in_a_folder_whose_name_is_not_utf8(vault):
    vault = vault.rename(vault.with_name(os.fsdecode(b"caf\xe9")))
    terminal = Terminal(Path(sys.executable).with_name("onelap"), "label", vault, "-p", f"kinds={', '.join(KINDS)}")
    for key, expected in (("", "1 of 4   a.md"), ("1", "2 of 4   b.md"), ("q", "labels given so far: 1, in")):
        terminal.press(key)
        terminal.until(expected)
    assert terminal.process.wait(30) == 0 and labels(vault) == [{"id": "a.md", "kind": "knowledge"}]


def test_label_command_without_a_terminal_is_refused(onelap, vault):
    result = onelap("label", vault, stdin=subprocess.DEVNULL)
    assert result.returncode == 2
    assert result.stderr == "onelap: expected a terminal to show notes in, found none; run onelap label in one\n"
