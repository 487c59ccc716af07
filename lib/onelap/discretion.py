"""What a cell that failed says, without the words of the notes.

Executed notebooks show ids, counts and numbers; an exception of a library may quote what it choked on.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from itertools import groupby

import nbformat

from onelap.decoding import Unreadable
from onelap.files import files_below, read_text
from onelap.notes import FIELD_PARAMETERS, Fields, locate_notes, read_all
from onelap.runs import PARTS, Run

WITHHELD = "[words of a note]"
LETTERS = 12  # characters of a note that are recognized, at least half of them letters
IDEOGRAPHS = 5  # of Chinese, Japanese and Korean writing, where these are a sentence
SHORT = 4  # characters from which a note that is shorter than that is recognized as a whole


def withhold(notebook: nbformat.NotebookNode, texts: Iterable[str]) -> set[str]:
    """Replace what is quoted of these texts in all outputs of a notebook; returns the pieces, for `without`."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    quoted = pieces_of("\n".join(said for output in outputs for said in _said(output)), texts)
    for output in outputs:
        if output.output_type == "error":
            output.evalue = without(output.evalue, quoted)
            output.traceback = [without(line, quoted) for line in output.traceback]
        elif output.output_type == "stream":
            output.text = without(output.text, quoted)
        else:
            for kind in [kind for kind in output.data if kind.startswith("text/")]:
                output.data[kind] = without(output.data[kind], quoted)
    return quoted


def texts_of_notes(run: Run, parameters: dict) -> Iterator[str]:
    """All that the notes say, as they were read for the run, as they are now, and as their files have it."""
    for part in PARTS:
        if (run.dataset_path / f"{part}.jsonl").exists():
            yield from run.read_part(part)["text"]
    path = locate_notes(parameters["notes_path"])
    with contextlib.suppress(Exception):  # what it stumbles over may be what went wrong
        reading = read_all(path, Fields.parse(*(parameters[name] for name in FIELD_PARAMETERS)))
        yield from reading.notes["text"]
        yield from reading.unlabelled["text"]
    for file in [path] if path.is_file() else [file for file, _, reason in files_below(path) if not reason]:
        with contextlib.suppress(Unreadable):
            yield read_text(file)[0]


def pieces_of(said: str, texts: Iterable[str]) -> set[str]:
    """What of the texts is quoted in what is said, in pieces, in lower case."""
    said = _lower(said)
    windows = {window for size in (LETTERS, IDEOGRAPHS) for window in _windows(said, size) if _telling(window)}
    found = set()
    for text in map(_lower, texts):
        # As repr() and JSON would quote it, too.
        for shown in {text, repr(text)[1:-1], _lower(json.dumps(text)[1:-1]), text.encode("unicode_escape").decode()}:
            found |= windows & set(_windows(shown, LETTERS)) | windows & set(_windows(shown, IDEOGRAPHS))
        if SHORT <= len(text.strip()) < LETTERS and text.strip() in said:
            found.add(text.strip())
    return found


def without(said: str, quoted: set[str]) -> str:
    """The same with `WITHHELD` for each place that these pieces cover."""
    lower, covered = _lower(said), [False] * len(said)
    for piece in quoted:
        start = lower.find(piece)
        while start >= 0:
            covered[start : start + len(piece)] = [True] * len(piece)
            start = lower.find(piece, start + 1)
    parts = groupby(zip(said, covered, strict=True), key=lambda pair: pair[1])
    return "".join(WITHHELD if hidden else "".join(character for character, _ in part) for hidden, part in parts)


def _said(output: nbformat.NotebookNode) -> list[str]:
    if output.output_type == "error":
        return [output.evalue, *output.traceback]
    if output.output_type == "stream":
        return [output.text]
    return [value for kind, value in output.data.items() if kind.startswith("text/")]


def _telling(window: str) -> bool:
    """Whether it is no mere punctuation or indentation; few characters tell much only of ideographs and kana."""
    if len(window) == IDEOGRAPHS:
        return all("\u3040" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7a3" for character in window)
    return sum(map(str.isalpha, window)) >= LETTERS / 2


def _lower(text: str) -> str:
    """In lower case, and as long as before."""
    return "".join(lower if len(lower := character.lower()) == 1 else character for character in text)


def _windows(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(len(text) - size + 1))
