"""All notes below a path, as one table."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onelap import PROJECT, UserError, find_path
from onelap.notes.fields import Fields
from onelap.notes.read import Note, Skip, read_each
from onelap.notes.rows import ROW_SUFFIXES

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_NOTES = PROJECT / "data" / "sample_notes"
MAX_KIND_SHOWN = 24  # characters; a longer name may be the text of a note, because a field was named by mistake
MAX_LISTED = 5  # files with an unknown kind that an error names, of each such kind
MIN_NOTES_PER_KIND = 5  # one each for train, validation and test, and two to learn from
COLUMNS = ["id", "text", "kind", "source", "style", "encoding", "written", "modified"]


@dataclass(frozen=True)
class Reading:
    """All notes below a path. Files and rows = notes + the sum of `skipped["count"]`."""

    notes: "pd.DataFrame"  # the labelled notes: COLUMNS, sorted by id
    unlabelled: "pd.DataFrame"  # notes with a text and no kind: COLUMNS, sorted by id; they are among the skipped, too
    skipped: "pd.DataFrame"  # `where, count, reason`
    removed: Counter  # how often something was taken out of a text, by what it was

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
    if not path.exists():
        raise UserError(f"notes_path {path}: no such folder or file; set it with -p notes_path=PATH")
    rows = ", ".join(sorted(ROW_SUFFIXES))
    raise UserError(f"notes_path {path}: expected a folder or a file of rows ({rows}), found {path.name}")


def read_notes(path: Path, fields: Fields) -> Reading:
    """Read every note below `path`. Raises UserError where none has a kind, or one that is not among `fields.kinds`."""
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
    import pandas as pd  # here, because what reads one note after the other starts twice as fast without

    labelled, unlabelled, skipped, removed = [], [], [], Counter()
    for item in read_each(path, fields):
        if isinstance(item, Skip) or not item.kind:
            skip = item if isinstance(item, Skip) else Skip(item.place, item.why_no_kind)
            skipped.append((str(skip.place), skip.count, skip.reason))
        if isinstance(item, Note):
            (labelled if item.kind else unlabelled).append([getattr(item, column) for column in COLUMNS])
            removed += item.removed if item.kind else Counter()
    notes, others = (pd.DataFrame(sorted(rows), columns=COLUMNS) for rows in (labelled, unlabelled))
    refuse_unknown_kinds(notes.groupby("kind")["id"].apply(list), fields)
    return Reading(notes, others, pd.DataFrame(skipped, columns=["where", "count", "reason"]), removed)


def refuse_unknown_kinds(ids: Mapping[str, list[str]], fields: Fields) -> None:
    """Check the kinds of notes, given as {kind: their ids}. Raises UserError for those not among `fields.kinds`."""
    problems = []
    for kind in sorted(set(ids.keys()) - set(fields.kinds)):
        near = difflib.get_close_matches(kind, fields.kinds, n=1, cutoff=0.0)
        more = f" and {len(ids[kind]) - MAX_LISTED} more" if len(ids[kind]) > MAX_LISTED else ""
        shown = f"`{kind}`" if len(kind) <= MAX_KIND_SHOWN else f"a text of {len(kind)} characters"
        problems.append(f"{shown} in {', '.join(sorted(ids[kind])[:MAX_LISTED])}{more} (nearest: {near[0]})")
    if problems:
        more = f"; and {len(problems) - MAX_LISTED} others" if len(problems) > MAX_LISTED else ""
        raise UserError(
            f"expected the kinds {', '.join(fields.kinds)}, found {'; '.join(problems[:MAX_LISTED])}{more}; "
            "correct the notes, or name all kinds with -p kinds='…, …'"
        )


def check_kinds(kinds: Iterable[str]) -> list[str]:
    """Return the kinds of notes, each once, sorted. Raises UserError for fewer than two, or too few notes of one."""
    counts = Counter(kinds)
    if len(counts) < 2:
        held = f"one kind only ({', '.join(counts)})" if counts else "no kind"
        raise UserError(f"the notes hold {held}: a classifier needs at least two")
    if few := ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()) if count < MIN_NOTES_PER_KIND):
        raise UserError(
            f"expected at least {MIN_NOTES_PER_KIND} notes of every kind, found fewer for: {few}; "
            "label more of them, merge the kind into another, or correct its spelling"
        )
    return sorted(counts)


def guess_languages(texts: Iterable[str]) -> list[str]:
    """Guess the ISO 639-1 code of each text from its first 400 characters; unreliable on very short notes."""
    import py3langid

    return [py3langid.classify(text[:400])[0] for text in texts]
