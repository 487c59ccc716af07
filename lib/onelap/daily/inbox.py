"""Notes that wait to be sorted: files, folders, rows, and lines that another program writes as it goes."""

import queue
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from onelap import UserError
from onelap.notes.encoding import Unreadable
from onelap.notes.files import MAX_BYTES, files_below, read_text
from onelap.notes.read import LABELS_SUFFIX, TEXT_SUFFIXES, printable
from onelap.notes.rows import ROW_SUFFIXES, json_row, rows_of, value_of

STANDARD_INPUT = "-"
LONGEST_LINE = 10 * MAX_BYTES  # bytes; JSON may write one character in six


@dataclass(frozen=True)
class Item:
    """A text to be sorted, or what is wrong with it."""

    where: dict[str, str | int]
    """`path`, `id`, or both for a row in a file."""
    text: str = ""
    error: str = ""


class Inbox:
    """All notes below some paths, in order; `-` stands for lines of JSON on `stream`."""

    def __init__(self, paths: list[str], stream: BinaryIO | None = None):
        """Raises UserError that names the paths that do not exist."""
        missing = [path or "(nothing)" for path in paths if path != STANDARD_INPUT and not _exists(path)]
        if missing:
            raise UserError(f"no such file or folder: {', '.join(missing)}")
        self.paths, self.stream = paths, stream
        self.passed_over: Counter[str] = Counter()
        """Files below the folders that are no notes, by reason."""

    def items(self, text_field: str) -> Iterator[Item]:
        """One after the other, as they are found; `text_field` holds the text of a row or a line."""
        for path in self.paths:
            if path == STANDARD_INPUT:
                yield from _lines(self.stream, text_field)
            elif (place := Path(path).expanduser()).is_dir():
                yield from self._below(place, text_field)
            else:
                yield from _file(place, text_field)

    def _below(self, folder: Path, text_field: str) -> Iterator[Item]:
        for path, count, reason in files_below(folder):
            suffix = path.suffix.lower()
            if path.name.endswith(LABELS_SUFFIX):
                reason = "kinds given with onelap label"
            elif not reason and suffix not in TEXT_SUFFIXES | ROW_SUFFIXES:
                reason = f"no note: {suffix or 'without'} suffix"
            if reason:
                self.passed_over[reason] += count
            else:
                yield from _file(path, text_field)


def _exists(path: str) -> bool:
    try:
        return bool(path.strip()) and Path(path).expanduser().exists()
    except (OSError, RuntimeError):  # too long a name; `~` of nobody
        return False


def _file(path: Path, text_field: str) -> Iterator[Item]:
    name, of_rows = printable(str(path)), path.suffix.lower() in ROW_SUFFIXES
    try:
        content, _ = read_text(path, at_most=None if of_rows else MAX_BYTES)
    except Unreadable as reason:
        yield Item({"path": name}, error=str(reason))
        return
    if not of_rows:
        yield Item({"path": name}, content)
        return
    for number, _, values in rows_of(path, content):
        yield _row(text_field, {"path": name}, number, values)


def _lines(stream: BinaryIO, text_field: str) -> Iterator[Item]:
    """An item for each line, whatever is in it: who writes one waits for an answer."""
    number = 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST_LINE)
            yield _row(text_field, {}, number, "over 10 MB")
            continue
        try:
            yield _row(text_field, {}, number, json_row(line.decode("utf-8-sig")))
        except UnicodeDecodeError:
            yield _row(text_field, {}, number, "not in UTF-8")


def _row(text_field: str, where: dict, number: int, values: dict | str) -> Item:
    if isinstance(values, str):
        form = f'; expected {{"id": "1", "{text_field}": "a note"}} on one line' if not where else ""
        return Item(where | {"id": f"line {number}"}, error=values + form)
    identity, text = values.get("id"), value_of(values, text_field)
    where = where | {"id": identity if type(identity) in (str, int) else f"line {number}"}
    if not isinstance(text, str):
        known = "is not text" if text_field in values else "is missing"
        return Item(where, error=f"the field `{text_field}` {known}")
    return Item(where, text)


def batches(items: Iterable[Item], at_most: int) -> Iterator[list[Item]]:
    """What has arrived meanwhile, up to so many at once; a single one where they come slowly.

    Reads ahead in a thread, no further than one batch.
    """
    arrived: queue.Queue = queue.Queue(at_most)
    problems = []

    def read() -> None:
        try:
            for item in items:
                arrived.put(item)
        except Exception as error:  # raised below, where somebody can handle it
            problems.append(error)
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    batch = []
    while item := _next(arrived):
        batch.append(item)
        if len(batch) == at_most or arrived.empty():
            yield batch
            batch = []
    if batch:
        yield batch
    if problems:
        raise problems[0]


def _next(arrived: queue.Queue) -> Item | None:
    """Waits in small portions: on Windows Ctrl-C does not reach a thread that waits for good."""
    while True:
        try:
            return arrived.get(timeout=0.5)
        except queue.Empty:
            continue
