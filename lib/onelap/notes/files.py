"""Files below a folder, and the text in them; nothing is opened for writing.

What cannot be read is named with its reason, so that files found = files read + passed over.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from onelap.notes.encoding import Unreadable, decode

NO_NOTES = {"templates", "template", "attachments", "attachment", "assets", "media", "images", "files"}
"""Names of folders, in lower case and without what is no letter, that hold no notes in a vault."""
MAX_BYTES = 1_000_000  # a note is shorter; a longer file is a book, a log or a dump


def files_below(folder: Path) -> Iterator[tuple[Path, int, str]]:
    """(path, 1, "") for each file to read, (path, files, reason) for each file or folder passed over.

    Links to folders are followed once. Hidden folders, templates and attachments are counted,
    not opened.
    """
    root = folder.resolve()
    waiting, visited = [folder], {root}
    while waiting:
        here = waiting.pop()
        try:
            paths = sorted(here.iterdir())
        except OSError as error:
            yield here, 1, f"folder cannot be opened: {error.strerror}"
            continue
        for path in paths:
            try:
                inside, reason = path.is_dir(), _no_notes_in(path)
            except OSError as error:
                inside, reason = False, f"cannot be opened: {error.strerror}"
            if not inside:
                yield path, 1, reason
            elif path.is_symlink() and (reason or path.resolve().is_relative_to(root) or path.resolve() in visited):
                yield path, 1, reason or "link to a folder that is read anyway"
            elif reason:
                if files := sum(len(names) for *_, names in os.walk(path)):
                    yield path, files, reason
            elif path.resolve() not in visited:  # else its files were found through a link
                visited.add(path.resolve())
                waiting.append(path)


def _no_notes_in(path: Path) -> str:
    """Why a file or folder is passed over, or nothing."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_dir():
        return "templates or attachments" if re.sub(r"[\W_\d]", "", path.name.lower()) in NO_NOTES else ""
    if not path.exists():
        return "link to nothing"
    return "" if path.is_file() else "no regular file"


def read_text(path: Path, at_most: int | None = None) -> tuple[str, str]:
    """(text, encoding), line ends as `\\n`. Raises Unreadable, also for a file of more bytes than `at_most`."""
    try:
        if at_most and path.stat().st_size > at_most:
            raise Unreadable(f"over {at_most / 1e6:.0f} MB")
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from None
    text, encoding = decode(data)
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding
