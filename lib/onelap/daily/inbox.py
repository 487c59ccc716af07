"""Notes that wait to be sorted: files, folders, and lines that another program writes as it goes."""

import queue
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from onelap import UserError, expand_path
from onelap.machine.encoding import MAX_BYTES
from onelap.notes.fields import Fields
from onelap.notes.read import Note, Place, Skip, note_of_row, notes_in
from onelap.notes.rows import parse_json_row

STANDARD_INPUT = "-"
MAX_LINE = 10 * MAX_BYTES  # bytes; JSON may write one character in six


@dataclass(frozen=True)
class Item:
    """A text to sort, as the model sees it, or what is wrong with it."""

    where: dict[str, str | int]  # `path`, `id`, or both for a row in a file
    text: str = ""
    error: str = ""

    @classmethod
    def of(cls, note: Note | Skip) -> "Item":
        """Make an item of what the reader yields."""
        place = note.place
        where = {"path": place.path} if place.path else {}
        if place.line:
            where["id"] = place.row_id if type(place.row_id) in (str, int) else f"line {place.line}"
        return cls(where, note.text) if isinstance(note, Note) else cls(where, error=note.reason)


class Inbox:
    """All notes below some paths, in order; `-` stands for lines of JSON on `stream`."""

    def __init__(self, paths: list[str], stream: BinaryIO | None = None):
        """Raises UserError for paths that do not exist; one names them all."""
        named = [path for path in paths if path != STANDARD_INPUT]
        if missing := [path or "(nothing)" for path in named if not path.strip() or not expand_path(path).exists()]:
            raise UserError(f"no such file or folder: {', '.join(missing)}")
        self.paths, self.stream = paths, stream
        self.skipped: Counter[str] = Counter()  # files below the folders that are not notes, by reason

    def items(self, fields: Fields) -> Iterator[Item]:
        """Yield one item after the other, as they are read."""
        for path in self.paths:
            on_stream = path == STANDARD_INPUT
            for note in _lines(self.stream, fields) if on_stream else notes_in(expand_path(path), fields):
                if isinstance(note, Skip) and not note.broken:
                    self.skipped[note.reason] += note.count
                else:
                    yield Item.of(note)


def _lines(stream: BinaryIO, fields: Fields) -> Iterator[Note | Skip]:
    """Yield something for each line, whatever is in it: the program that wrote it waits for an answer."""
    hint = f'; expected {{"id": "1", "{fields.text}": "a note"}} on one line'
    for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), start=1):
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE)
            values = "over 10 MB"
        else:
            try:
                values = parse_json_row(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                values = "not in UTF-8"
        yield note_of_row(Place(line=number), values + hint if isinstance(values, str) else values, fields)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield what has arrived meanwhile, from 1 to `size` items at once; a thread reads ahead, at most one batch."""
    arrived: queue.Queue[Item | Exception | None] = queue.Queue(size)

    def read() -> None:
        try:
            for item in items:
                arrived.put(item)
            arrived.put(None)
        except Exception as error:  # raised below, where it can be handled
            arrived.put(error)

    threading.Thread(target=read, daemon=True).start()
    batch = []
    while isinstance(item := _next(arrived), Item):
        batch.append(item)
        if len(batch) == size or arrived.empty():
            yield batch
            batch = []
    if batch:
        yield batch
    if item:
        raise item


def _next(arrived: queue.Queue) -> Item | Exception | None:
    """Wait in small portions: on Windows Ctrl-C does not reach a thread that waits without a limit."""
    while True:
        with suppress(queue.Empty):
            return arrived.get(timeout=0.5)
