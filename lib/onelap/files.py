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
                inside, reason = path.is_dir(), _no_notes_in(path, root, visited)
            except OSError as error:
                inside, reason = False, f"cannot be opened: {error.strerror}"
            if not inside or (reason and path.is_symlink()):
                yield path, 1, reason
            elif not reason:
                visited.add(path.resolve())
                waiting.append(path)
            elif files := sum(len(names) for *_, names in os.walk(path)):
                yield path, files, reason


def _no_notes_in(path: Path, root: Path, visited: set[Path]) -> str:
    """Why a file or folder is passed over, or nothing."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_dir():
        if re.sub(r"[\W_\d]", "", path.name.lower()) in NO_NOTES:
            return "templates or attachments"
        inside_link = path.is_symlink() and path.resolve().is_relative_to(root)
        return "link to a folder that is read anyway" if inside_link or path.resolve() in visited else ""
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
