"""Reading notes: one generator serves training and sorting, so that both see the same text.

What cannot be read is yielded as a `Skip` with its reason, never dropped silently; nothing on disk is changed.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unicodedata import normalize as compose

from onelap.machine.dates import modified_on, written_on
from onelap.machine.encoding import MAX_BYTES, MAX_FILE, Unreadable, read_text
from onelap.machine.files import files_below, printable
from onelap.machine.names import normalize
from onelap.notes.fields import Fields
from onelap.notes.head import single, split_head, tags_in, texts_of
from onelap.notes.kinds import kinds_in, named_after
from onelap.notes.labels import LABELS_SUFFIX, read_labels
from onelap.notes.markup import Body
from onelap.notes.rows import ROW_SUFFIXES, fields_of, rows_of, value_of

_PICTURE_DATA = re.compile(r"(;base64,[\w+/=]{100})[\w+/=]{1000,}", re.ASCII)  # enough is left to know it by
TEXT_SUFFIXES = {".md", ".markdown", ".txt"}


@dataclass(frozen=True)
class Place:
    """Where a note is: a file, a row of one, or a line of standard input."""

    path: str = ""  # as the file was named; empty for standard input
    name: str = ""  # relative to the folder that is read; empty for a file that was named itself
    line: int = 0  # the last one of a row; 0 for a whole file
    row_id: object = None  # the row's own `id`

    def __str__(self) -> str:
        return " ".join(filter(None, [self.name, self.line and f"line {self.line}"])) or Path(self.path).name


@dataclass(frozen=True)
class Note:
    """A note, and what its file says of it; what is unknown is empty."""

    place: Place
    id: str
    body: Body
    text: str  # that is learnt from and sorted
    removed: Counter  # how often something was taken out of it, by what it was
    kind: str
    source: str
    style: str
    encoding: str
    written: str  # ISO date that the note carries
    modified: str  # ISO date of its file's last change
    why_no_kind: str


@dataclass(frozen=True)
class Skip:
    """Files or rows without a note, and the reason."""

    place: Place
    reason: str
    count: int = 1
    broken: bool = False  # whether a note was expected here, and could not be read


def read_each(path: Path, fields: Fields) -> Iterator[Note | Skip]:
    """Yield the notes below `path` that have a text, with their labels and ids of their own, and what is skipped."""
    labels, ids = read_labels(path), Counter()
    for item in notes_in(path, fields):
        if isinstance(item, Note) and not item.text and not item.removed:
            item = Skip(item.place, "no text")
        if isinstance(item, Note):
            identity = _unique(item.id, ids)
            if label := labels.get(identity):
                text, removed = item.body.text(label)
                item = replace(item, kind=named_after(label, fields.kinds) or label, text=text, removed=removed)
            item = replace(item, id=identity) if item.text else Skip(item.place, "no text beside what names its kind")
        yield item


def _unique(identity: str, ids: Counter) -> str:
    """The id, with a number where it was there before."""
    ids[identity] += 1
    return identity if ids[identity] == 1 else _unique(f"{identity} {ids[identity]}", ids)


def notes_in(path: Path, fields: Fields) -> Iterator[Note | Skip]:
    """Yield the notes of a folder or of one file, in order, and what is skipped."""
    if not path.is_dir():
        yield from _notes_of_file(path, Place(printable(path)), fields)
        return
    for file, count, reason in files_below(path, fields.template_folders):
        place = Place(printable(file), printable(file.relative_to(path).as_posix()))
        if not reason and file.name.endswith(LABELS_SUFFIX):
            reason = "kinds given with onelap label"
        elif not reason and file.suffix.lower() not in TEXT_SUFFIXES | ROW_SUFFIXES:
            reason = f"not a note: {file.suffix.lower() or 'without'} suffix"
        yield from [Skip(place, reason, count)] if reason else _notes_of_file(file, place, fields)


def _values_of_folders(name: str, fields: Fields) -> dict[str, str]:
    """Values that folders give: any of them the style, the top one of the others the kind, the rest the source."""
    folders = compose("NFC", name).split("/")[:-1]
    styles = [named_after(folder, fields.styles) for folder in folders]
    folders = [folder for folder, style in zip(folders, styles, strict=True) if not style]
    kind = named_after(folders[0], fields.kinds) if folders else ""
    source = "/".join(folders[1:] if kind else folders)
    return {fields.kind: kind, fields.style: next(filter(None, styles), ""), fields.source: source}


def _notes_of_file(path: Path, place: Place, fields: Fields) -> Iterable[Note | Skip]:
    has_rows = path.suffix.lower() in ROW_SUFFIXES
    try:
        content, encoding = read_text(path, fields.encoding, None if has_rows else MAX_FILE, has_rows)
    except Unreadable as reason:
        return [Skip(place, str(reason), broken=True)]
    if not has_rows:
        return [_note(place, content, {}, fields, encoding, modified_on(path))]
    rows = list(rows_of(path, content, fields.text, fields.kind))
    notes = (note_of_row(replace(place, line=number), values, fields, encoding) for number, values in rows)
    return notes if rows else [Skip(place, "no rows")]


def note_of_row(place: Place, values: dict | str, fields: Fields, encoding: str = "") -> Note | Skip:
    """Make a note of a row's values; a text instead of them says why there are none."""
    if isinstance(values, str):
        return Skip(place, values, broken=True)
    place, text = replace(place, row_id=value_of(values, "id")), value_of(values, fields.text)
    if not isinstance(text, str):
        problem = f"is missing, there are {', '.join(fields_of(values)) or 'none'}" if text is None else "is not text"
        foreign = place.path.lower().endswith(".json")  # of another program
        return Skip(place, f"the field `{fields.text}` {problem}", broken=not foreign)
    return _note(place, text, values, fields, encoding)


def clean(raw: str, fields: Fields) -> str:
    """Return the text of a note as the model sees it; empty for one that is too long."""
    note = _note(Place(), raw, {}, fields)
    return note.text if isinstance(note, Note) else ""


def _note(place: Place, raw: str, row: dict, fields: Fields, encoding: str = "", modified: str = "") -> Note | Skip:
    """Values of a note's row go before those of its front matter, and these before those of its folders."""
    too_long = Skip(place, f"over {MAX_BYTES / 1e6:.0f} MB", broken=True)
    # JSON can carry what no file can: other line ends, NUL, and half an emoji.
    raw = compose("NFC", raw.replace("\r\n", "\n").replace("\r", "\n"))
    text = _PICTURE_DATA.sub(r"\1", raw).replace("\x00", "\ufffd")
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if len(text) > MAX_BYTES and "compressed-json" not in text:
        return too_long  # before it is parsed
    head, below, sound = split_head(text)
    pairs = [*head.items(), *((name, value) for name, value in row.items() if value is not None and str(value).strip())]
    values, body = {str(name).lower(): value for name, value in pairs}, Body(below, fields)
    body.programs["front matter in a row"] += bool(head and place.line)
    by_text = "row " + hashlib.sha256(raw.encode(errors="replace")).hexdigest()[:12]  # wherever it moves in the file
    of_row = (single(place.row_id) or by_text) if place.line else ""
    of_folders = _values_of_folders(place.name, fields)
    kind, why = _kind_of(values, body, of_folders[fields.kind], fields)
    text, removed = body.text(kind)
    if len(text) > MAX_BYTES:
        return too_long
    return Note(
        place=place,
        id=compose("NFC", f"{place.name} {of_row}".strip()),
        body=body,
        text=text,
        removed=removed,
        kind=kind,
        source=single(value_of(values, fields.source)) or of_folders[fields.source],
        style=normalize(single(value_of(values, fields.style)) or of_folders[fields.style]),
        encoding=encoding,
        written=written_on(values, "" if place.line else Path(place.path).stem),
        modified=modified,
        why_no_kind="broken front matter, and no kind elsewhere" if not sound and why == "no kind" else why,
    )


def _kind_of(values: dict, body: Body, default: str, fields: Fields) -> tuple[str, str]:
    """The kind by the field, else by a property in the text, tags, or default; and where there is none, why."""
    value = value_of(values, fields.kind)
    named = texts_of(value)
    kinds = kinds_in(named, fields.kinds) or kinds_in(",".join(named).split(","), fields.kinds)
    if value not in (None, []) and not kinds and (named or not isinstance(value, str)):
        if len(named) == 1:
            return normalize(single(value)), ""  # unknown, and refused with all others
        return "", f"`{fields.kind}` is a {type(value).__name__}: expected the name of a kind"
    tags = body.tags.union(kinds_in(tags_in(values, fields.kinds), fields.kinds))
    for what, found in {f"`{fields.kind}`": kinds, "properties": body.field, "tags": tags}.items():
        if found:
            return (*found, "") if len(found) == 1 else ("", f"{what} of several kinds: {', '.join(sorted(found))}")
    return default, "" if default else "no kind"
