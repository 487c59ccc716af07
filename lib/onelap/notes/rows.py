"""Rows of JSON-lines and CSV files; a broken row is reported, and the next ones are read."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from onelap.notes.encoding import MAX_BYTES

TABLE_SUFFIXES = {".csv"}
ROW_SUFFIXES = {".jsonl", ".ndjson", *TABLE_SUFFIXES}

Row = tuple[int, dict | str]
"""The line it ends on, and its values or the reason why it has none."""


def rows_of(path: Path, content: str) -> Iterator[Row]:
    """Yield the rows of a file with this content, whose suffix says how they are written."""
    if path.suffix.lower() in TABLE_SUFFIXES:
        return _table_rows(content)
    lines = enumerate(content.split("\n"), start=1)
    return ((number, parse_json_row(line)) for number, line in lines if line.strip())


def parse_json_row(line: str) -> dict | str:
    """Parse a line to its values, or return the reason why it has none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return "not JSON"
    return values if isinstance(values, dict) else "not a JSON object"


def value_of(values: dict, field: str) -> object:
    """Return the field's value, whatever the case of its name; None where there is no such field."""
    if field in values:
        return values[field]
    return next((values[name] for name in values if isinstance(name, str) and name.lower() == field.lower()), None)


def _table_rows(content: str) -> Iterator[Row]:
    """Rows below a header; separated by commas, semicolons or tabs, whichever the header has most of."""
    csv.field_size_limit(MAX_BYTES)
    lines = content.split("\n")
    delimiter = max(",;\t", key=lines[0].count)
    try:
        names, start = next(csv.reader(lines[:1], delimiter=delimiter), []), 1
    except csv.Error as error:
        yield 1, f"broken header: {error}"
        return
    while start < len(lines):
        # Strict, so that a quote that is never closed is an error in its row, not the end of the table.
        reader = csv.reader((line + "\n" for line in lines[start:]), delimiter=delimiter, strict=True)
        last = 0
        try:
            for row in reader:
                last = reader.line_num
                if len(row) == len(names):
                    yield start + last, dict(zip(names, row, strict=True))
                elif row:
                    yield start + last, f"{len(row)} columns under a header of {len(names)}"
            return
        except csv.Error as error:
            start += last + 1
            yield start, f"broken row: {error}"
