"""Reading labelled notes: a folder of Markdown or text files, or a JSON-lines file.

A note becomes one row `id, text, kind, source`; an unknown source is an empty one. What cannot
be read is listed with its reason, never dropped silently; nothing on disk is changed.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import frontmatter
import pandas as pd
import py3langid
import yaml
from frontmatter.default_handlers import YAMLHandler

from onelap import UserError, find_path

SUFFIXES = {".md", ".markdown", ".txt"}
LINES_SUFFIXES = {".jsonl", ".ndjson"}
MIN_NOTES_PER_KIND = 5  # one each for train, validation and test, and two to learn from


@dataclass(frozen=True)
class Fields:
    """Names of the fields in front matter or JSON that hold a note's text, kind and source."""

    text: str = "text"
    kind: str = "kind"
    source: str = "source"


def locate_notes(name: str) -> Path:
    """The notes' folder or file. Raises UserError where it is missing or of another type."""
    path = find_path(name)
    if not name.strip():
        raise UserError("notes_path: expected a folder or a .jsonl file, found nothing; is a shell variable unset?")
    if path.is_dir() or (path.is_file() and path.suffix.lower() in LINES_SUFFIXES):
        return path
    if path.exists():
        raise UserError(f"notes_path {path}: expected a folder or a .jsonl file, found {path.name}")
    raise UserError(f"notes_path {path}: no such folder or file; set it with -p notes_path=PATH")


def read_notes(path: Path, fields: Fields) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every note below `path`.

    Returns (notes, skipped): notes with columns `id, text, kind, source`, sorted by id, and
    skipped with columns `where, reason`. Kinds are trimmed and lower-cased. Raises UserError
    where not a single labelled note is found.
    """
    if path.is_dir():
        candidates = _files_of(path, fields)
        looked_for = f"Markdown or text files whose front matter has `{fields.kind}`"
    else:
        candidates = _lines_of(path, fields)
        looked_for = f"lines of JSON with `{fields.text}` and `{fields.kind}`"
    notes, skipped, seen = [], [], set()
    for where, found in candidates:
        if isinstance(found, dict) and found["id"] in seen:
            found = f"id {found['id']} occurs twice"
        if isinstance(found, str):
            skipped.append({"where": where, "reason": found})
        else:
            seen.add(found["id"])
            notes.append(found)
    if not notes:
        reasons = f"; first of {len(skipped)} skipped: {skipped[0]['where']}: {skipped[0]['reason']}" if skipped else ""
        raise UserError(f"notes_path {path}: expected {looked_for}, found none{reasons}")
    table = pd.DataFrame(notes, columns=["id", "text", "kind", "source"])
    return table.sort_values("id", ignore_index=True), pd.DataFrame(skipped, columns=["where", "reason"])


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


def drop_duplicates(notes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep one note of each text (white space folded).

    Returns (kept, dropped); dropped has columns `id, same_as, same_kind`. A text that occurs
    with two kinds keeps the first by id; `same_kind` is False for the other.
    """
    folded = notes["text"].str.split().str.join(" ")
    first = notes.groupby(folded, sort=False)[["id", "kind"]].transform("first")
    repeated = first["id"] != notes["id"]
    dropped = pd.DataFrame({"id": notes["id"], "same_as": first["id"], "same_kind": first["kind"] == notes["kind"]})
    return notes[~repeated].reset_index(drop=True), dropped[repeated].reset_index(drop=True)


def languages(texts: pd.Series) -> pd.Series:
    """ISO 639-1 code of each text, for the inventory; a guess on very short notes.

    py3langid; at most the first 400 characters are looked at.
    """
    return texts.map(lambda text: py3langid.classify(text[:400])[0])


def _files_of(folder: Path, fields: Fields):
    """(where, note or reason) for every file below the folder; hidden ones are not notes."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        if path.suffix.lower() not in SUFFIXES:
            yield inside.as_posix(), f"not a note: {path.suffix or 'no'} suffix"
            continue
        try:
            head, text = frontmatter.parse(path.read_text(encoding="utf-8-sig"), handler=YAMLHandler())
        except UnicodeDecodeError:
            yield inside.as_posix(), "not UTF-8"
        except OSError as error:
            yield inside.as_posix(), f"unreadable: {error.strerror}"
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # a date of 30 February is a ValueError
            yield inside.as_posix(), "broken front matter"
        else:
            folder_name = inside.parent.as_posix().removeprefix(".")
            values = head | {fields.text: text, fields.source: head.get(fields.source) or folder_name}
            yield inside.as_posix(), _note(inside.with_suffix("").as_posix(), values, fields)


def _lines_of(path: Path, fields: Fields):
    """(where, note or reason) for every line that is not blank."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"notes_path {path}: expected JSON lines in UTF-8, could not read it: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            values = json.loads(line)
        except ValueError:
            yield where, "not JSON"
            continue
        if isinstance(values, dict):
            yield where, _note(str(values.get("id") or f"line-{number:06d}"), values, fields)
        else:
            yield where, "not a JSON object"


def _note(identity: str, values: dict, fields: Fields) -> dict | str:
    """The note, or the reason why these values are none."""
    text, kind = values.get(fields.text), values.get(fields.kind)
    if not isinstance(text, str) or not text.strip():
        return "no text" if fields.text in values else f"no field `{fields.text}`"
    if isinstance(kind, list) and len(kind) == 1:
        (kind,) = kind
    if kind is None or kind == "" or kind == []:
        return f"no kind in `{fields.kind}`"
    if isinstance(kind, bool) or not isinstance(kind, str | int):
        return f"`{fields.kind}` is {kind!r}: expected the name of a kind, in quotes where YAML reads it otherwise"
    if "\x00" in text or not _is_unicode(text):
        return "text with NUL or half characters"
    source = values.get(fields.source)
    return {
        "id": identity,
        "text": text.strip(),
        "kind": " ".join(str(kind).lower().split()),
        "source": "" if source is None else str(source),
    }


def _is_unicode(text: str) -> bool:
    """False for half an emoji, which JSON can carry and no file can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
