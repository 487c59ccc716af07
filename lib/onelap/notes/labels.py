"""Kinds given with `onelap label`: a small file beside the notes, which themselves are never changed."""

import json
import os
import unicodedata
from pathlib import Path

from onelap import UserError
from onelap.machine.names import normalize

LABELS_SUFFIX = ".labels.jsonl"


def labels_path(notes_path: Path) -> Path:
    """Name the file beside a folder or file of notes that holds their labels; one, whichever link leads to them."""
    return Path(f"{notes_path.resolve()}{LABELS_SUFFIX}")


def read_labels(notes_path: Path) -> dict[str, str]:
    """Read {id: kind}; of several labels of a note the last one counts. Raises UserError for a damaged file."""
    file = labels_path(notes_path)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if os.access(file, os.F_OK) else []
        labels = {row["id"]: row["kind"] for row in (json.loads(line) for line in lines if line.strip())}
        if not all(isinstance(value, str) for pair in labels.items() for value in pair):
            raise TypeError("one of them is not text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"could not read them: {type(error).__name__}: {error}"
        raise UserError(f"{file}: expected lines of id and kind, {problem}") from None
    return {unicodedata.normalize("NFC", identity): normalize(kind) for identity, kind in labels.items()}
