"""Files below a folder, and the text in them; nothing is opened for writing.

What cannot be read is named with its reason, so that files found = files read + passed over.
"""

import codecs
import os
import re
from collections.abc import Iterator
from pathlib import Path

from charset_normalizer import from_bytes

NO_NOTES = {"templates", "template", "attachments", "attachment", "assets", "media", "images", "files"}
"""Names of folders, in lower case and without what is no letter, that hold no notes in a vault."""
MAX_BYTES = 1_000_000  # a note is shorter; a longer file is a book, a log or a dump
LEGACY_ENCODINGS = ["cp932", "euc_jp", "cp1252"]  # Shift_JIS and Latin-1 as Windows writes them


class Unreadable(Exception):
    """Why a file, or a part of it, is no note."""


def files_below(folder: Path) -> Iterator[tuple[Path, int, str]]:
    """(path, 1, "") for each file to read, (path, files, reason) for each file or folder passed over.

    Links to folders are followed once. Hidden folders, templates and attachments are counted,
    not opened.
    """
    waiting, visited = [folder], {folder.resolve()}
    while waiting:
        here = waiting.pop()
        try:
            paths = sorted(here.iterdir())
        except OSError as error:
            yield here, 1, f"folder cannot be opened: {error.strerror}"
            continue
        for path in paths:
            if path.is_dir():
                reason = _no_notes_in(path, visited)
                if not reason:
                    waiting.append(path)
                elif path.is_symlink():
                    yield path, 1, reason
                elif files := sum(len(names) for *_, names in os.walk(path)):
                    yield path, files, reason
            else:
                yield path, 1, _no_file(path)


def _no_notes_in(folder: Path, visited: set[Path]) -> str:
    """Why a folder is passed over, or nothing; it is then marked as visited."""
    if folder.name.startswith("."):
        return "hidden"
    if re.sub(r"[\W_\d]", "", folder.name.lower()) in NO_NOTES:
        return "templates or attachments"
    if folder.resolve() in visited:
        return "link to a folder that is read anyway"
    visited.add(folder.resolve())
    return ""


def _no_file(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    if not path.exists():
        return "link to nothing"
    return "" if path.is_file() else "no regular file"


def read_text(path: Path) -> tuple[str, str]:
    """(text, encoding), line ends as `\\n`. Raises Unreadable."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from None
    text, encoding = decode(data)
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def decode(data: bytes) -> tuple[str, str]:
    """(text, encoding) of what a text editor wrote.

    A byte-order mark decides, then ISO-2022-JP's escapes, then UTF-8 if it is valid; only what
    is none of these is guessed, by charset_normalizer among the encodings of Japanese and
    Western Windows and Unix. Raises Unreadable for bytes that are no text.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        certain = "utf-16"
    elif data.startswith(codecs.BOM_UTF8):
        certain = "utf-8-sig"
    else:
        certain = "iso2022_jp" if re.search(rb"\x1b\$[@B]", data) else "utf-8"
    try:
        text, encoding = data.decode(certain), certain
    except UnicodeDecodeError:
        guess = from_bytes(data, cp_isolation=LEGACY_ENCODINGS).best() if certain == "utf-8" else None
        if guess is None or re.search(r"[\x00-\x08\x0e-\x1f]", str(guess)):
            raise Unreadable("binary, or in no known encoding") from None
        text, encoding = str(guess), guess.encoding
    if "\x00" in text:
        raise Unreadable("binary: holds NUL")
    return text, encoding
