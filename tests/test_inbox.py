"""Notes that wait to be sorted."""

import io
import threading
import time

import pytest

from onelap import UserError
from onelap.daily.inbox import MAX_LINE, Inbox, Item, batches
from onelap.machine.files import printable
from onelap.notes.fields import Fields
from onelap.notes.vault import read_notes

KINDS = ("lesson", "knowledge", "value", "decision", "none")


def read(*paths, lines=b"", text_field="text"):
    inbox = Inbox(list(map(str, paths)), io.BytesIO(lines))
    return list(inbox.items(Fields(KINDS, text=text_field))), inbox.skipped


def test_inbox_reads_a_vault_or_names_what_it_cannot_read(hostile_vault):
    items, passed_over = read(hostile_vault)
    found = {item.where["path"].removeprefix(f"{hostile_vault}/"): item for item in items if "id" not in item.where}
    reading = read_notes(hostile_vault, Fields(KINDS))
    for identity, text in reading.notes[["id", "text"]].values:
        if identity in found:
            assert found[identity].text == text
    assert found["good.md"].text == "Ask before cutting." and found["日本/メモ.md"].text.startswith("決めた。")
    assert found["empty.md"] == Item(found["empty.md"].where, "")
    assert found["binary.md"].error == "binary: holds NUL" and found["huge.txt"].error == "over 1 MB"
    assert passed_over["hidden"] == 3 and passed_over["not a note: .png suffix"] == 1
    assert not any("Templates" in name or name.endswith(".png") for name in found)
    rows = {item.where["id"]: item for item in items if item.where["path"].endswith("rows.jsonl")}
    assert rows["line 1"].text == "a row"
    assert [rows[f"line {n}"].error for n in (3, 4, 5)] == [
        "the field `text` is not text",
        "not JSON",
        "not a JSON object",
    ]
    table = [item for item in items if item.where["path"].endswith("table.csv")]
    assert [item.text for item in table] == ["two\nlines", "short"]


def test_inbox_reads_a_named_file_whatever_its_suffix(tmp_path):
    (tmp_path / "note").write_text("---\nkind: value\n---\nBe kind.", encoding="utf-8")
    (tmp_path / "rows.JSONL").write_text('{"id": 7, "body": "one"}\n', encoding="utf-8")
    items, _ = read(tmp_path / "note", tmp_path / "rows.JSONL", text_field="body")
    assert [(item.text[-8:], item.where.get("id")) for item in items] == [("Be kind.", None), ("one", 7)]


def test_inbox_continues_after_an_odd_file(tmp_path):
    (tmp_path / "a.csv").write_text("x" * 1_500_000 + "\n1\n", encoding="utf-8")
    (tmp_path / "b.md").write_text("fine", encoding="utf-8")
    items, _ = read(tmp_path)
    assert "1 MB" in items[0].error and [item.text for item in items[1:]] == ["fine"]
    assert printable("half an emoji \ud83d.md") == "half an emoji ?.md"


def test_every_line_of_standard_input_gets_its_item():
    lines = [
        b'{"id": "a", "text": "one"}',
        b'\xef\xbb\xbf{"id": 2, "text": "two"}',
        b"",
        b"plain words",
        b'{"id": 5}',
        b'{"id": [6], "text": 6}',
        b"\xff",
        b'{"text": "' + b"x" * MAX_LINE + b'"}',
        b'{"text": "last, no line end"}',
    ]
    items, _ = read("-", lines=b"\n".join(lines))
    assert [item.where["id"] for item in items] == [
        "a",
        2,
        "line 3",
        "line 4",
        5,
        6,
        "line 7",
        "line 8",
        "line 9",
    ]
    assert [item.text for item in items if not item.error] == ["one", "two", "last, no line end"]
    errors = [item.error.partition(";")[0] for item in items if item.error]
    assert errors == [
        *("not JSON", "not JSON", "the field `text` is missing, there are id"),
        *("the field `text` is not text", "not in UTF-8", "over 10 MB"),
    ]
    assert items[3].error.endswith('expected {"id": "1", "text": "a note"} on one line')


def test_inbox_names_all_paths_that_do_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"no such file or folder: .*one, .*two"):
        Inbox([str(tmp_path), str(tmp_path / "one"), str(tmp_path / "two")])
    with pytest.raises(UserError, match=r"no such file or folder: \(nothing\)"):
        Inbox([""])
    for unusable in ("x" * 300, "~no-such-user/notes"):
        with pytest.raises(UserError, match=rf"{unusable}: expected the path of a file or folder"):
            Inbox([unusable])
    assert Inbox(["~"]).paths == ["~"]


def items_of(numbers):
    return [Item({"id": number}, str(number)) for number in numbers]


def test_batches_keep_order_and_size():
    assert [item for batch in batches(iter(items_of(range(1000))), 7) for item in batch] == items_of(range(1000))
    assert max(len(batch) for batch in batches(iter(items_of(range(1000))), 7)) == 7
    assert list(batches(iter([]), 7)) == []


def test_batches_do_not_hold_back_an_item_until_the_next():
    more = threading.Event()

    def slowly():
        yield from items_of([1])
        assert more.wait(10), "the first one was not handed on before the second was there"
        yield from items_of([2])

    found = batches(slowly(), 7)
    assert next(found) == items_of([1])
    more.set()
    assert next(found) == items_of([2])


def test_batches_read_ahead_no_more_than_a_batch():
    read_so_far = []

    def endless():
        for item in items_of(range(10_000)):
            read_so_far.append(item)
            yield item

    found = batches(endless(), 7)
    next(found)
    time.sleep(0.2)
    assert len(read_so_far) <= 3 * 7


def test_batches_raise_a_reading_error_after_what_was_read():
    def broken():
        yield from items_of([1, 2])
        raise OSError("unplugged")

    found = []
    with pytest.raises(OSError, match="unplugged"):
        for batch in batches(broken(), 7):
            found += batch
    assert found == items_of([1, 2])
