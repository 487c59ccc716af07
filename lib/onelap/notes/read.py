"""Reading notes: one generator serves training and sorting, so that both see the same text.

Notes are Markdown or text files, or rows of JSON lines or CSV. What cannot be read is yielded as a `Skip` with its
reason, never dropped silently; nothing on disk is changed.
"""

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import py3langid

from onelap import PROJECT, UserError, find_path
from onelap.machine.dates import modified_on, written_on
from onelap.machine.files import files_below, printable
from onelap.machine.names import normalize
from onelap.notes.encoding import MAX_BYTES, Unreadable, read_text
from onelap.notes.fields import Fields
from onelap.notes.labels import LABELS_SUFFIX, read_labels
from onelap.notes.markup import kinds_of_tags, named_after, plain, single, split_front_matter, tags_of
from onelap.notes.rows import ROW_SUFFIXES, rows_of, value_of

SAMPLE_NOTES = PROJECT / "data" / "sample_notes"
TEXT_SUFFIXES = {".md", ".markdown", ".txt"}
FOLDERS_WITHOUT_NOTES = {"template", "templates", "attachment", "attachments", "assets", "media", "images", "files"}
MAX_KIND_SHOWN = 24  # characters; a longer name may be the text of a note, because a field was named by mistake
MAX_LISTED = 5  # files with an unknown kind that an error names, of each such kind
MIN_NOTES_PER_KIND = 5  # one each for train, validation and test, and two to learn from
COLUMNS = ["id", "text", "kind", "source", "style", "encoding", "written", "modified"]


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
    """A text to sort, without what gives its kind away, and what its file says of it; what is unknown is empty."""

    place: Place
    id: str
    text: str
    kind: str
    source: str
    style: str
    encoding: str
    written: str  # ISO date that the note carries
    modified: str  # ISO date of its file's last change
    why_no_kind: str
    removed: Counter  # how often something was taken out of the text, by what it was


@dataclass(frozen=True)
class Skip:
    """Files or rows without a note, and the reason."""

    place: Place
    reason: str
    count: int = 1
    broken: bool = False  # whether a note was expected here, and could not be read


@dataclass(frozen=True)
class Reading:
    """All notes below a path. Files and rows = notes + the sum of `skipped["count"]`."""

    notes: pd.DataFrame  # the labelled notes: COLUMNS, sorted by id
    unlabelled: pd.DataFrame  # notes with a text and no kind: COLUMNS, sorted by id; they are among the skipped, too
    skipped: pd.DataFrame  # `where, count, reason`
    removed: Counter  # how often something was taken out of a text that gave its kind away, by what it was

    @property
    def digest(self) -> str:
        """SHA-256 of the labelled notes: ids, texts, kinds, sources, styles."""
        rows = self.notes.drop(columns=["encoding", "written", "modified"]).to_json(orient="values")
        return hashlib.sha256(rows.encode()).hexdigest()


def are_samples(notes_path: str | Path) -> bool:
    """Tell whether these are the sample notes of the project, whose text everybody may see."""
    return find_path(notes_path).resolve() == SAMPLE_NOTES


def locate_notes(name: str) -> Path:
    """Find the notes' folder or file. Raises UserError where it is missing or of another type."""
    if not name.strip():
        raise UserError("notes_path: expected a folder or a file, found nothing; is a shell variable unset?")
    path = find_path(name)
    if path.is_dir() or (path.is_file() and path.suffix.lower() in ROW_SUFFIXES):
        return path
    if path.exists():
        raise UserError(f"notes_path {path}: expected a folder or a .jsonl or .csv file, found {path.name}")
    raise UserError(f"notes_path {path}: no such folder or file; set it with -p notes_path=PATH")


def read_notes(path: Path, fields: Fields) -> Reading:
    """Read every note below `path`, where some must have a kind.

    A note's kind is the one given with `onelap label`, else that of its field, of a tag, or of the top folder; its
    source is that of its field, else its folder. Raises UserError for kinds that are not among `fields.kinds`, and
    where no note has a kind.
    """
    reading = read_all(path, fields)
    if reading.notes.empty:
        first = reading.skipped.iloc[:1].to_dict(orient="records")
        reasons = "".join(f"; first of {len(reading.skipped)} skipped: {at['where']}: {at['reason']}" for at in first)
        raise UserError(
            f"notes_path {path}: expected notes with a kind ({fields.kind} in front matter, JSON or CSV, a tag, or a "
            f"folder named after one of {', '.join(fields.kinds)}), found none{reasons}"
        )
    return reading


def read_all(path: Path, fields: Fields) -> Reading:
    """Read every note below `path` as `read_notes` does, where it may be that none has a kind yet."""
    labels, ids, removed = read_labels(path), Counter(), Counter()
    labelled, unlabelled, skipped = [], [], []
    for item in notes_in(path, fields):
        if isinstance(item, Note) and not item.text and not item.removed:
            item = Skip(item.place, "no text")
        if isinstance(item, Skip):
            skipped.append((str(item.place), item.count, item.reason))
            continue
        identity = _unique(item.id, ids)
        kind = labels.get(identity, item.kind)
        note = replace(item, id=identity, kind=named_after(kind, fields.kinds, plural=False) or kind)
        if not note.text:
            skipped.append((str(note.place), 1, "no text beside what names its kind"))
        elif not note.kind:
            skipped.append((str(note.place), 1, note.why_no_kind))
            unlabelled.append(note)
        else:
            removed += note.removed
            labelled.append(note)
    notes = _table(labelled)
    _refuse_unknown_kinds(notes, fields)
    skipped = pd.DataFrame(skipped, columns=["where", "count", "reason"])
    return Reading(notes, _table(unlabelled), skipped, removed)


def _table(notes: list[Note]) -> pd.DataFrame:
    rows = [[getattr(note, column) for column in COLUMNS] for note in notes]
    return pd.DataFrame(rows, columns=COLUMNS).sort_values("id", ignore_index=True)


def _unique(identity: str, ids: Counter) -> str:
    """The id, with a number where it was there before."""
    ids[identity] += 1
    return identity if ids[identity] == 1 else _unique(f"{identity} {ids[identity]}", ids)


def _refuse_unknown_kinds(notes: pd.DataFrame, fields: Fields) -> None:
    problems = []
    for kind, ids in notes.loc[~notes["kind"].isin(fields.kinds)].groupby("kind")["id"]:
        near = difflib.get_close_matches(kind, fields.kinds, n=1, cutoff=0.0)
        few = ", ".join(ids[:MAX_LISTED]) + (f" and {len(ids) - MAX_LISTED} more" if len(ids) > MAX_LISTED else "")
        shown = f"`{kind}`" if len(kind) <= MAX_KIND_SHOWN else f"a text of {len(kind)} characters"
        problems.append(f"{shown} in {few} (nearest: {near[0]})")
    if problems:
        more = f"; and {len(problems) - MAX_LISTED} others" if len(problems) > MAX_LISTED else ""
        raise UserError(
            f"expected the kinds {', '.join(fields.kinds)}, found {'; '.join(problems[:MAX_LISTED])}{more}; "
            "correct the notes, or name all kinds with -p kinds='…, …'"
        )


def check_kinds(notes: pd.DataFrame) -> list[str]:
    """Return the kinds, sorted. Raises UserError for fewer than two, or for one with too few notes."""
    counts = notes["kind"].value_counts().sort_index()
    if len(counts) < 2:
        raise UserError(f"the notes hold one kind only ({counts.index[0]}): a classifier needs at least two")
    few = counts[counts < MIN_NOTES_PER_KIND]
    if len(few):
        listed = ", ".join(f"{kind} ({count})" for kind, count in few.items())
        raise UserError(
            f"expected at least {MIN_NOTES_PER_KIND} notes of every kind, found fewer for: {listed}; "
            "label more of them, merge the kind into another, or correct its spelling"
        )
    return list(counts.index)


def guess_languages(texts: pd.Series) -> pd.Series:
    """Guess the ISO 639-1 code of each text from its first 400 characters; unreliable on very short notes."""
    return texts.map(lambda text: py3langid.classify(text[:400])[0])


def notes_in(path: Path, fields: Fields) -> Iterator[Note | Skip]:
    """Yield the notes of a folder or of one file, in order, and what is skipped."""
    if not path.is_dir():
        yield from _notes_of_file(path, Place(printable(path)), {}, fields)
        return
    for file, count, reason in files_below(path, FOLDERS_WITHOUT_NOTES):
        place = Place(printable(file), printable(file.relative_to(path).as_posix()))
        if reason := reason or _why_without_notes(file):
            yield Skip(place, reason, count)
        else:
            yield from _notes_of_file(file, place, _values_of_folders(place.name, fields), fields)


def _why_without_notes(file: Path) -> str:
    if file.name.endswith(LABELS_SUFFIX):
        return "kinds given with onelap label"
    suffix = file.suffix.lower()
    return "" if suffix in TEXT_SUFFIXES | ROW_SUFFIXES else f"not a note: {suffix or 'without'} suffix"


def _values_of_folders(name: str, fields: Fields) -> dict[str, str]:
    """Values that folders give: any of them the style, the top one of the others the kind, the rest the source."""
    folders = name.split("/")[:-1]
    styles = [named_after(folder, fields.styles) for folder in folders]
    folders = [folder for folder, style in zip(folders, styles, strict=True) if not style]
    kind = named_after(folders[0], fields.kinds) if folders else ""
    return {
        fields.kind: kind,
        fields.style: next(filter(None, styles), ""),
        fields.source: "/".join(folders[1:] if kind else folders),
    }


def _notes_of_file(path: Path, place: Place, defaults: dict[str, str], fields: Fields) -> Iterator[Note | Skip]:
    has_rows = path.suffix.lower() in ROW_SUFFIXES
    try:
        content, encoding = read_text(path, max_bytes=None if has_rows else MAX_BYTES)
    except Unreadable as reason:
        yield Skip(place, str(reason), broken=True)
        return
    if not has_rows:
        yield _note(place, content, {}, fields, defaults, encoding, modified_on(path))
        return
    rows = list(rows_of(path, content))
    if not rows:
        yield Skip(place, "no rows")
    for number, values in rows:
        yield note_of_row(replace(place, line=number), values, fields, defaults, encoding)


def note_of_row(
    place: Place, values: dict | str, fields: Fields, defaults: dict[str, str] | None = None, encoding: str = ""
) -> Note | Skip:
    """Make a note of a row's values; a text instead of them says why there are none."""
    if isinstance(values, str):
        return Skip(place, values, broken=True)
    place, text = replace(place, row_id=value_of(values, "id")), value_of(values, fields.text)
    if not isinstance(text, str):
        problem = "is missing" if text is None else "is not text"
        return Skip(place, f"the field `{fields.text}` {problem}", broken=True)
    return _note(place, text, values, fields, defaults or {}, encoding)


def clean(raw: str, fields: Fields) -> str:
    """Return the text of a note as the model sees it: without front matter, and without what gives its kind away."""
    return plain(split_front_matter(_replace_invalid(raw))[1], fields.kinds, fields.kind)[0]


def _replace_invalid(text: str) -> str:
    """Replace what JSON can carry and no file can: NUL, and half an emoji."""
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _note(
    place: Place, raw: str, row: dict, fields: Fields, defaults: dict[str, str], encoding: str, modified: str = ""
) -> Note | Skip:
    """Make a note of a raw text; values of its row go before those of its front matter, and these before `defaults`."""
    if len(raw) > MAX_BYTES:
        return Skip(place, "over 1 MB", broken=True)
    head, body, sound = split_front_matter(_replace_invalid(raw))
    values = head | {name: value for name, value in row.items() if value not in (None, "")}
    kind, why_no_kind = _kind_of(values, body, defaults.get(fields.kind, ""), fields)
    text, removed = plain(body, fields.kinds, fields.kind)
    return Note(
        place=place,
        id=_identity(place, raw),
        text=text,
        kind=kind,
        source=single(value_of(values, fields.source)) or defaults.get(fields.source, ""),
        style=normalize(single(value_of(values, fields.style)) or defaults.get(fields.style, "")),
        encoding=encoding,
        written=written_on(values, "" if place.line else Path(place.path).stem),
        modified=modified,
        why_no_kind=why_no_kind if sound else "broken front matter, and no kind elsewhere",
        removed=removed,
    )


def _identity(place: Place, raw: str) -> str:
    """A file's name, or a row's own id; a row without one is known by its text, wherever it moves in the file."""
    if not place.line:
        return place.name
    by_text = "row " + hashlib.sha256(raw.encode(errors="replace")).hexdigest()[:12]
    return f"{place.name} {single(place.row_id) or by_text}".strip()


def _kind_of(values: dict, text: str, default: str, fields: Fields) -> tuple[str, str]:
    """The kind by a field, else by a tag, else by default; and where there is none, why."""
    named = single(value := value_of(values, fields.kind))
    if named is None:
        shown = value if isinstance(value, bool) else f"a {type(value).__name__}"
        return "", f"`{fields.kind}` is {shown}: expected the name of a kind, in quotes where YAML reads it otherwise"
    if named:
        return normalize(named), ""
    tagged = sorted(kinds_of_tags(tags_of(values, text), fields.kinds))
    if len(tagged) > 1:
        return "", f"tags of several kinds: {', '.join(tagged)}"
    kind = tagged[0] if tagged else default
    return kind, "" if kind else "no kind"
