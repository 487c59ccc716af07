"""Files below a folder, and those that are skipped, with the reason; nothing is opened."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

import regex

from onelap.machine.names import normalize

ATTACHMENTS = {"attachment", "attachments", "assets", "media", "images", "files"}
PROGRAMS = {"node_modules", "site-packages", "__pycache__", "bower_components", "venv", "virtualenv"}


def files_below(folder: Path, templates: Collection[str]) -> Iterator[tuple[Path, int, str]]:
    """Yield (path, 1, "") for each file to read, and (path, files, reason) for each file or folder that is skipped.

    Links to folders are followed once. Hidden folders, those of attachments and programs, and those with a name among
    `templates` (numbers and signs around it do not count) are counted, not opened.
    """
    root, templates = folder.resolve(), {_letters(name) for name in templates}
    waiting, visited = [folder], {root}
    while waiting:
        current = waiting.pop()
        try:
            paths = sorted(current.iterdir())
        except OSError as error:
            yield current, 1, f"folder cannot be opened: {error.strerror}"
            continue
        for path in paths:
            try:
                is_folder, reason = path.is_dir(), _why_skipped(path, templates)
            except OSError as error:
                is_folder, reason = False, f"cannot be opened: {error.strerror}"
            if not is_folder:
                yield path, 1, reason
            elif path.is_symlink() and (reason or path.resolve().is_relative_to(root) or path.resolve() in visited):
                yield path, 1, reason or "link to a folder that is read anyway"
            elif reason:
                if files := sum(len(names) for *_, names in os.walk(path)):
                    yield path, files, reason
            elif path.resolve() not in visited:  # a link may have led here before
                visited.add(path.resolve())
                waiting.append(path)


def _why_skipped(path: Path, templates: Collection[str]) -> str:
    """Say why a file or folder is skipped; empty where it is read."""
    if path.name.startswith("."):
        return "hidden"
    if path.is_dir():
        name, words = normalize(path.name), _letters(path.name)
        if name in PROGRAMS or (path / "pyvenv.cfg").exists():
            return "files of a program"
        return "attachments" if words in ATTACHMENTS else "templates" if words in templates else ""
    if not path.exists():
        return "link to nothing"
    return "" if path.is_file() else "not a regular file"


def _letters(name: str) -> str:
    return regex.sub(r"[^\p{L}\p{M}]", "", normalize(name))


def printable(name: object) -> str:
    """Write a file's name as text: Linux allows any bytes in it, Windows half an emoji."""
    try:
        return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return str(name).encode("utf-8", "replace").decode()
