"""Rows of tables and JSON files, as programs and annotation tools write them; a broken row costs only itself."""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path

from onelap.machine.encoding import MAX_BYTES
from onelap.machine.files import printable

ROW_SUFFIXES = {".jsonl", ".ndjson", ".json", ".csv", ".tsv"}
MAX_FIELDS, MAX_NAME_SHOWN = 8, 24  # a longer name may be a note's text: the first row of a table without a header
READ_AHEAD = 10  # times the lines of a table, in search of quotes that close; from then on every line is a row
_DELIMITERS = "\x1f,;\t|"  # of equals the first wins: for a header of one name it is one that nobody writes
_ABOVE_HEADER = re.compile(r'[\s,;|]*("?sep=(?P<delimiter>[^\w\s"\\]|\t)?.*\n[\s,;|]*)?', re.IGNORECASE)
_UNQUOTED = partial(re.compile(r'(^|[,;\t|]) *"([^",;\t|]*)"?(?=[,;\t|]|$)').sub, r"\1\2")  # an unclosed quote, too
_DOUBLED = partial(re.compile(r'(?<=[^,;\t|])(?<![,;\t|] )"(?! *([,;\t|]|$))').sub, '""')  # quotes beside no delimiter
_WRITERS = [(str, {}), (str, {"escapechar": "\\"}), (_UNQUOTED, {"quoting": csv.QUOTE_NONE}), (_DOUBLED, {})]
_BETWEEN = re.compile(r"[\s,\[\]]*")
_JSON = json.JSONDecoder(parse_constant=lambda name: None)  # NaN is a blank
_ANSWERS = ["label", "labels", "accept", "choices", "annotations"]  # fields of doccano, Prodigy and Label Studio
_NAMES = ["result", "choices", "name", "label", "value", "text"]  # where the objects in those fields have the label


def rows_of(path: Path, content: str, text_field: str, kind_field: str) -> Iterator[tuple[int, dict | str]]:
    """Yield the line on which a row ends (JSON over lines: which row it is), and its values or why there are none."""
    suffix, content = path.suffix.lower(), content.removeprefix("\ufeff")
    if suffix in (".csv", ".tsv"):
        rows = _table_rows(content, text_field)
    elif suffix == ".json" or content.lstrip().startswith(("[", "{\n")):
        rows = _spread_rows(content)
    else:
        lines = enumerate(content.split("\n"), start=1)
        rows = ((number, line, parse_json_row(line)) for number, line in lines if line.strip())
    for number, raw, row in rows:
        if broken := re.search("[\x00\udc80-\udcff]", raw):  # these surrogates are bytes that were not decoded
            row = "holds NUL" if broken[0] == "\x00" else "not in the file's encoding"
        yield number, row if isinstance(row, str) else _plain(row, text_field, kind_field)


def parse_json_row(line: str) -> dict | str:
    """Parse a line to its values, or return the reason why it has none."""
    with suppress(ValueError, RecursionError):
        values = _JSON.decode(line)
        return values if isinstance(values, dict) else "not a JSON object"
    return "not JSON"


def value_of(values: dict, field: str) -> object:
    """Return the value of a field (`a.b`: b in a), whatever its case, of a list of one the member; None without one."""
    same = [name for name in values if isinstance(name, str) and name.lower() == field.lower()]
    outer, _, inner = field.partition(".")
    value = values[field if field in same else same[0]] if same else value_of(values, outer) if inner else None
    value = unwrapped(value)
    return value if same else value_of(value, inner) if isinstance(value, dict) else None


def unwrapped(value: object) -> object:
    """Return the member of a list of one, or of lists of one in each other."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def fields_of(values: dict) -> list[str]:
    """Name the first MAX_FIELDS fields, as `a.b` what is in another, and of a long name the length only."""
    pairs = ((name, inner) for name, value in values.items() for inner in (isinstance(value, dict) and value) or [""])
    names = [printable(f"{name}.{inner}" if inner else name) for name, inner in islice(pairs, MAX_FIELDS)]
    return [name if len(name) <= MAX_NAME_SHOWN else f"a name of {len(name)} characters" for name in names]


def _plain(row: dict, text_field: str, kind_field: str) -> dict:
    """The row with the fields in an annotation tool's `data`, and with its answer where it has no kind of its own."""
    data = row.get("data")
    row = (data if isinstance(data, dict) else {text_field: data} if isinstance(data, str) else {}) | row
    kind, labels = value_of(row, kind_field), {}
    waiting = [row.get(name) for name in _ANSWERS] if kind is None else [kind] * isinstance(kind, dict | list)
    for value in waiting:  # which grows
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict) and not value.get("was_cancelled") and value.get("type", "choices") == "choices":
            waiting.append(next((value[name] for name in _NAMES if value.get(name)), None))
        elif isinstance(value, str) and value.strip():
            labels[value] = True
    labels = None if row.get("answer") in ("reject", "ignore") else list(labels)
    return row if labels == [] else row | {kind_field: labels}


def _spread_rows(content: str) -> Iterator[tuple[int, str, dict | str]]:
    """Objects one after the other, in an array or not, up to the first that is broken."""
    number, at = 1, _BETWEEN.match(content).end()
    while at < len(content):
        row, end = "not a JSON object; nothing is read from here on", len(content)
        with suppress(ValueError, RecursionError):
            row, end = _JSON.raw_decode(content, content.index("{", at, at + 1))
        yield number, content[at:end], row
        number, at = number + 1, _BETWEEN.match(content, end).end()


def _table_rows(content: str, text_field: str) -> Iterator[tuple[int, str, dict | str]]:
    """Rows below a header, whose delimiter is the one that shows the text's field, else the most columns."""
    csv.field_size_limit(MAX_BYTES)
    lines, above, headers = content.split("\n"), _ABOVE_HEADER.match(content), []
    ahead = iter(range(READ_AHEAD * len(lines)))
    for each in (above["delimiter"] or "") + _DELIMITERS:
        cells, end = _row(lines, content.count("\n", 0, above.end()), ahead, each)
        if isinstance(cells, str):
            yield end, "", cells
            return
        names = [" ".join(cell.split()) for cell in cells]
        headers.append((value_of(dict.fromkeys(names, ""), text_field) == "", len(names), names, end, each))
    *_, names, start, delimiter = max(headers, key=lambda header: header[:2])
    while start < len(lines):
        begin, (row, start) = start, _row(lines, start, ahead, delimiter, len(names))
        if any(row):
            raw = "\n".join(lines[begin:start])
            yield start, raw, row if isinstance(row, str) else dict(zip(names, row, strict=False))


def _row(lines: list[str], start: int, ahead: Iterator, delimiter: str, width: int = 0) -> tuple[list[str] | str, int]:
    """The cells of the row that starts here, or why none fit under a header of this width; and where the row ends."""
    problem = None
    for turn, (write, quoting) in enumerate(_WRITERS):
        rest = (write(lines[at]) + "\n" for at, _ in zip(range(start, len(lines)), chain([0], ahead), strict=False))
        reader = csv.reader(rest, delimiter=delimiter, skipinitialspace=True, strict=True, **quoting)
        with suppress(csv.Error):
            cells = [cell.strip() and cell for cell in next(reader)]
            raw = lines[start : start + reader.line_num]
            rows = len(raw) > 1 and all(line.count(delimiter) == width - 1 for line in raw)  # that a quote joined
            if not width or not (any(cells[width:]) or (len(cells) < width and (turn or rows))):
                return cells, start + len(raw)
            problem = problem or (f"expected {width} columns, found {len(cells)}", start + len(raw))
    return problem or ("a cell over 1 MB", start + 1)
