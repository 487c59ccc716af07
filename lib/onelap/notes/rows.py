"""Rows of JSON-lines and CSV files; a row that is broken is told, and the next ones are read."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from onelap.notes.files import MAX_BYTES

TABLE_SUFFIXES = {".csv"}
ROW_SUFFIXES = {".jsonl", ".ndjson", *TABLE_SUFFIXES}

Row = tuple[int, int, dict | str]
"""The line it ends on, how many rows it stands for, and its values or the reason why there are none."""


def rows_of(path: Path, content: str) -> Iterator[Row]:
    """The rows of a file with this content; its suffix says how they are written."""
    return _table_rows(content) if path.suffix.lower() in TABLE_SUFFIXES else _json_rows(content)


def json_row(line: str) -> dict | str:
    """The values on a line, or the reason why there are none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return "not JSON"
    return values if isinstance(values, dict) else "not a JSON object"


def value_of(values: dict, field: str) -> object:
    """The field's value, whatever the case of its name."""
    if field in values:
        return values[field]
    return next(
        (value for name, value in values.items() if isinstance(name, str) and name.lower() == field.lower()), None
    )


def _json_rows(content: str) -> Iterator[Row]:
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield number, 1, json_row(line)


def _table_rows(content: str) -> Iterator[Row]:
    """Below a header; separated by commas, semicolons or tabs, whichever the header has most of."""
    csv.field_size_limit(MAX_BYTES)
    lines = content.split("\n")
    delimiter = max(",;\t", key=lines[0].count)
    try:
        names, at = next(csv.reader(lines[:1], delimiter=delimiter), []), 1
    except csv.Error as error:
        yield 1, 1, f"broken header: {error}"
        return
    while at < len(lines):
        # Strict, so that a quote that is never closed is an error in its row, not the end of the table.
        reader = csv.reader((line + "\n" for line in lines[at:]), delimiter=delimiter, strict=True)
        read = 0
        try:
            for row in reader:
                read = reader.line_num
                if len(row) == len(names):
                    yield at + read, 1, dict(zip(names, row, strict=True))
                elif row:
                    yield at + read, 1, f"{len(row)} columns under a header of {len(names)}"
            return
        except csv.Error as error:
            at += read + 1
            yield at, 1, f"broken row: {error}"
