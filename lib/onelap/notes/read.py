"""Reading labelled notes: a folder of Markdown, text, JSON-lines and CSV files, or one such file.

A note becomes one row `id, text, kind, source, style`; what is not known is empty. What cannot
be read is listed with its reason, never dropped silently; nothing on disk is changed.
"""

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import py3langid

from onelap import PROJECT, UserError, find_path
from onelap.machine.names import normalize
from onelap.notes.dates import modified_on, written_on
from onelap.notes.encoding import Unreadable
from onelap.notes.files import MAX_BYTES, files_below, read_text
from onelap.notes.markup import kinds_of_tags, named_after, plain, single, split_front_matter, tags_of
from onelap.notes.rows import ROW_SUFFIXES, rows_of, value_of

SAMPLE_NOTES = PROJECT / "data" / "sample_notes"
TEXT_SUFFIXES = {".md", ".markdown", ".txt"}
FIELD_PARAMETERS = ("kinds", "text_field", "kind_field", "source_field", "style_field", "styles")
LABELS_SUFFIX = ".labels.jsonl"
LONGEST_KIND = 24  # characters; a longer name is not shown
LISTED = 5  # files with an unknown kind that an error names, of each such kind
MIN_NOTES_PER_KIND = 5  # one each for train, validation and test, and two to learn from


@dataclass(frozen=True)
class Fields:
    """How to read notes: the kinds, and names of the fields in front matter, JSON or CSV."""

    kinds: tuple[str, ...]
    text: str = "text"
    kind: str = "kind"
    source: str = "source"
    style: str = "style"
    styles: tuple[str, ...] = ("raw", "tidied")
    """Names of folders that say how their notes are written; a field may say anything. The first will be sorted."""

    @classmethod
    def parse(
        cls, kinds: str, text_field: str, kind_field: str, source_field: str, style_field: str, styles: str
    ) -> "Fields":
        """From the parameters FIELD_PARAMETERS. Raises UserError for too few kinds or styles."""
        named = _names("kinds", kinds, at_least=2), text_field, kind_field, source_field, style_field
        return cls(*named, _names("styles", styles, at_least=1))

    @classmethod
    def of(cls, stored: dict) -> "Fields":
        """From what `dataclasses.asdict` made of it, after a way through JSON."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()})


@dataclass(frozen=True)
class Reading:
    """What was found. Files and rows found = notes + the sum of `skipped["count"]`."""

    notes: pd.DataFrame
    """`id, text, kind, source, style, encoding, written, modified`, sorted by id; the last two are ISO dates."""
    skipped: pd.DataFrame
    """`where, count, reason`."""
    removed: Counter
    """How often something was taken out of a text that gave its kind away, by what it was."""
    unlabelled: pd.DataFrame
    """`id, text, source, written, modified` of what has a text and no kind; these are counted in `skipped` too."""

    @property
    def digest(self) -> str:
        """SHA-256 of the labelled notes: ids, texts, kinds, sources, styles."""
        rows = self.notes.drop(columns=["encoding", "written", "modified"]).to_json(orient="values")
        return hashlib.sha256(rows.encode()).hexdigest()


def are_samples(notes_path: str | Path) -> bool:
    """Whether these are the sample notes of the project, whose text everybody may see."""
    return find_path(notes_path).resolve() == SAMPLE_NOTES


def locate_notes(name: str) -> Path:
    """The notes' folder or file. Raises UserError where it is missing or of another type."""
    if not name.strip():
        raise UserError("notes_path: expected a folder or a file, found nothing; is a shell variable unset?")
    path = find_path(name)
    if path.is_dir() or (path.is_file() and path.suffix.lower() in ROW_SUFFIXES):
        return path
    if path.exists():
        raise UserError(f"notes_path {path}: expected a folder or a .jsonl or .csv file, found {path.name}")
    raise UserError(f"notes_path {path}: no such folder or file; set it with -p notes_path=PATH")


def read_notes(path: Path, fields: Fields) -> Reading:
    """Read every note below `path`.

    A note's kind is the one given with `onelap label`, else that of its field, of a tag, or of the
    top folder; its source is that of its field, else its folder. Raises UserError for kinds that
    are not among `fields.kinds`, and where not a single labelled note is found.
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
    """`read_notes`, where it may be that no note has a kind yet."""
    labels, seen, removed = read_labels(path), Counter(), Counter()
    notes, unlabelled, skipped = [], [], []
    for where, count, result in _below(path, fields) if path.is_dir() else _inside(path, "", {}, fields):
        if isinstance(result, str):
            skipped.append({"where": where, "count": count, "reason": result})
            continue
        result["id"] = _unique(result["id"], seen)
        kind = labels.get(result["id"], result["kind"])
        result["kind"] = named_after(kind, fields.kinds, plural=False) or kind
        result["text"], gone = plain(result["text"], fields.kinds, fields.kind)
        if not result["text"]:
            skipped.append({"where": where, "count": count, "reason": "no text beside what names its kind"})
        elif not result["kind"]:
            skipped.append({"where": where, "count": count, "reason": result["why_no_kind"]})
            unlabelled.append(result)
        else:
            removed += gone
            notes.append(result)
    table = pd.DataFrame(notes, columns=["id", "text", "kind", "source", "style", "encoding", "written", "modified"])
    _refuse_unknown_kinds(table, fields)
    return Reading(
        table.sort_values("id", ignore_index=True),
        pd.DataFrame(skipped, columns=["where", "count", "reason"]),
        removed,
        pd.DataFrame(unlabelled, columns=["id", "text", "source", "written", "modified"]).sort_values(
            "id", ignore_index=True
        ),
    )


def labels_path(path: Path) -> Path:
    """The file beside the notes that holds the kinds given with `onelap label`."""
    path = path.resolve() if path.name in ("", "..") else path
    return path.with_name(path.name + LABELS_SUFFIX)


def read_labels(path: Path) -> dict[str, str]:
    """{id: kind} given with `onelap label`; the last one counts. Raises UserError for a damaged file."""
    file = labels_path(path)
    if not file.exists():
        return {}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        sound = all(isinstance(row["id"], str) and isinstance(row["kind"], str) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: expected lines of id and kind, could not read them: {error!r}") from None
    if not sound:
        raise UserError(f"{file}: expected lines of id and kind, both of them text")
    return {row["id"]: normalize(row["kind"]) for row in rows}


def _names(parameter: str, text: str, at_least: int) -> tuple[str, ...]:
    """The names in a parameter such as kinds="lesson, value"."""
    names = tuple(dict.fromkeys(name for part in text.split(",") if (name := normalize(part))))
    if len(names) < at_least:
        raise UserError(f"{parameter}: expected {at_least} or more names separated by commas, found {text!r}")
    return names


def _unique(identity: str, seen: Counter) -> str:
    """The id, with a number where it was there before."""
    seen[identity] += 1
    return identity if seen[identity] == 1 else _unique(f"{identity} {seen[identity]}", seen)


def _refuse_unknown_kinds(notes: pd.DataFrame, fields: Fields) -> None:
    problems = []
    for kind, ids in notes.loc[~notes["kind"].isin(fields.kinds)].groupby("kind")["id"]:
        near = difflib.get_close_matches(kind, fields.kinds, n=1, cutoff=0.0)
        few = ", ".join(ids[:LISTED]) + (f" and {len(ids) - LISTED} more" if len(ids) > LISTED else "")
        # A field that was named by mistake may hold the note itself.
        shown = f"`{kind}`" if len(kind) <= LONGEST_KIND else f"a text of {len(kind)} characters"
        problems.append(f"{shown} in {few} (nearest: {near[0]})")
    if problems:
        more = f"; and {len(problems) - LISTED} others" if len(problems) > LISTED else ""
        raise UserError(
            f"expected the kinds {', '.join(fields.kinds)}, found {'; '.join(problems[:LISTED])}{more}; "
            "correct the notes, or name all kinds with -p kinds='…, …'"
        )


def check_kinds(notes: pd.DataFrame) -> list[str]:
    """The kinds, sorted. Raises UserError for fewer than two, or one with too few notes."""
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


def languages(texts: pd.Series) -> pd.Series:
    """ISO 639-1 code of each text, for the inventory; a guess on very short notes.

    py3langid; at most the first 400 characters are looked at.
    """
    return texts.map(lambda text: py3langid.classify(text[:400])[0])


Found = tuple[str, int, dict | str]
"""Where, files or rows, and the note or the reason why there is none."""


def _below(folder: Path, fields: Fields) -> Iterator[Found]:
    for path, count, reason in files_below(folder):
        where = printable(path.relative_to(folder).as_posix())
        suffix = path.suffix.lower()
        if reason:
            yield where, count, reason
        elif path.name.endswith(LABELS_SUFFIX):
            yield where, 1, "kinds given with onelap label"
        elif suffix in TEXT_SUFFIXES:
            yield where, 1, _text_file(path, where, fields)
        elif suffix in ROW_SUFFIXES:
            yield from _inside(path, f"{where} ", _said_by_folders(where, fields), fields)
        else:
            yield where, 1, f"no note: {suffix or 'without'} suffix"


def printable(name: str) -> str:
    """A file's name as text; Linux allows any bytes, Windows half an emoji."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return name.encode("utf-8", "replace").decode()


def _said_by_folders(where: str, fields: Fields) -> dict[str, str]:
    """Style of any folder, kind of the top one of the others, source of what is left; by the fields' names."""
    folders = where.split("/")[:-1]
    styles = [named_after(folder, fields.styles) for folder in folders]
    folders = [folder for folder, style in zip(folders, styles, strict=True) if not style]
    kind = named_after(folders[0], fields.kinds) if folders else ""
    return {
        fields.kind: kind,
        fields.style: next(filter(None, styles), ""),
        fields.source: "/".join(folders[1:] if kind else folders),
    }


def _text_file(path: Path, where: str, fields: Fields) -> dict | str:
    try:
        content, encoding = read_text(path, at_most=MAX_BYTES)
    except Unreadable as reason:
        return str(reason)
    head, text, sound = split_front_matter(content)
    note = _note(where, head | {fields.text: text}, _said_by_folders(where, fields), encoding, fields)
    if isinstance(note, str):
        return note
    note |= {"written": written_on(head, path.stem), "modified": modified_on(path)}
    if not sound:
        note["why_no_kind"] = "broken front matter, and no kind elsewhere"
    return note


def _inside(path: Path, prefix: str, said: dict[str, str], fields: Fields) -> Iterator[Found]:
    """The rows of a JSON-lines or CSV file; `said` is what its folders say."""
    try:
        content, encoding = read_text(path)
    except Unreadable as reason:
        yield prefix.strip() or path.name, 1, str(reason)
        return
    found = 0
    for number, count, values in rows_of(path, content):
        found += count
        where = f"{prefix}line {number}"
        if isinstance(values, dict):
            # A row without an id is known by its text, wherever it moves in the file.
            by_text = "row " + hashlib.sha256(str(values.get(fields.text)).encode(errors="replace")).hexdigest()[:12]
            yield where, count, _note(prefix + (single(values.get("id")) or by_text), values, said, encoding, fields)
        else:
            yield where, count, values
    if not found:
        yield prefix.strip() or path.name, 1, "no rows"


def _note(identity: str, values: dict, said: dict[str, str], encoding: str, fields: Fields) -> dict | str:
    """The note, or the reason why these values are none; what they leave blank is taken from `said`."""
    text, kind = value_of(values, fields.text), value_of(values, fields.kind)
    if not isinstance(text, str) or not text.strip():
        return "no text" if fields.text in values else f"no field `{fields.text}`"
    if len(text) > MAX_BYTES:
        return "over 1 MB"
    if "\x00" in text or not _is_unicode(text):
        return "text with NUL or half characters"
    named, tagged = single(kind), []
    if named is None:
        shown = f"a {type(kind).__name__}" if isinstance(kind, list | dict) else repr(kind)[:20]
        return f"`{fields.kind}` is {shown}: expected the name of a kind, in quotes where YAML reads it otherwise"
    if not named:
        tagged = sorted(kinds_of_tags(tags_of(values, text), fields.kinds))
        named = said.get(fields.kind, "") if not tagged else tagged[0] if len(tagged) == 1 else ""
    return {
        "id": identity,
        "text": text,
        "kind": normalize(named),
        "source": single(value_of(values, fields.source)) or said.get(fields.source, ""),
        "style": normalize(single(value_of(values, fields.style)) or said.get(fields.style, "")),
        "encoding": encoding,
        "written": written_on(values),
        "modified": "",
        "why_no_kind": f"tags of several kinds: {', '.join(tagged)}" if tagged else "no kind",
    }


def _is_unicode(text: str) -> bool:
    """False for half an emoji, which JSON can carry and no file can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
