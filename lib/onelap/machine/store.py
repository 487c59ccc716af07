"""Files of our own: JSON, YAML, JSON lines and hashes, written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import StringIO
from pathlib import Path
from types import UnionType

import yaml

from onelap import UserError


def write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, content: object) -> None:
    """Write the content as JSON, atomically."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON object. Raises UserError where the file does not hold a whole one."""
    return _read(path, json.loads, "a JSON object", dict)


def read_yaml(path: Path) -> dict:
    """Read lines `name: value`; an empty file gives an empty dictionary. Raises UserError for anything else."""
    return _read(path, yaml.safe_load, "YAML lines `name: value` in UTF-8", dict | None) or {}


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    """Write rows as JSON lines."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_lines(path: Path) -> list[dict]:
    """Read the rows that `write_lines` wrote. Raises UserError for a damaged file."""
    return _read(path, lambda text: [json.loads(line) for line in StringIO(text)], "JSON lines", list)


def _read(path: Path, parse: Callable[[str], object], expected: str, kind: type | UnionType):
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: expected {expected}, but reading failed: {' '.join(str(error).split())}") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: expected {expected}, found a {type(content).__name__}")
    return content


def read_whole_lines(path: Path) -> list[dict]:
    """Read JSON lines up to one that was cut off, as while they are written; none where there is no file."""
    rows = []
    with suppress(FileNotFoundError, ValueError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            rows.append(json.loads(line))
    return rows


def hash_files(*paths: Path) -> str:
    """SHA-256 over the contents of the files, and of all files in the folders, in the given order."""
    digest = hashlib.sha256()
    files = (file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path]))
    for file in filter(Path.is_file, files):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def stamp_files(folder: Path) -> str:
    """List names, sizes and times of a folder's files: this changes when a file does, and reads none of them."""
    states = [(path.relative_to(folder), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return json.dumps([[name.as_posix(), state.st_size, state.st_mtime_ns] for name, state in states])
