"""What a cell that failed says, without the words of the notes.

Executed notebooks show ids, counts and numbers; an exception of a library may quote what it choked on.
"""

import contextlib
from collections.abc import Iterable, Iterator
from itertools import groupby

import nbformat

from onelap.decoding import Unreadable
from onelap.files import files_below, read_text
from onelap.notes import FIELD_PARAMETERS, Fields, locate_notes, read_all

SHORTEST = 12  # characters of a note that are recognized, of which at least half are letters
WITHHELD = "[words of a note]"


def withhold(notebook: nbformat.NotebookNode, texts: Iterable[str]) -> None:
    """Replace what is quoted of these texts in the errors and the printed lines of a notebook."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    errors = [output for output in outputs if output.output_type == "error"]
    streams = [output for output in outputs if output.output_type == "stream"]
    said = [line for error in errors for line in [error.evalue, *error.traceback]] + [stream.text for stream in streams]
    quoted = pieces_of("\n".join(said), texts)
    for error in errors:
        error.evalue = without(error.evalue, quoted)
        error.traceback = [without(line, quoted) for line in error.traceback]
    for stream in streams:
        stream.text = without(stream.text, quoted)


def texts_of_notes(parameters: dict) -> Iterator[str]:
    """All that the notes say; where they cannot be read as notes, all that is in their files."""
    path = locate_notes(parameters["notes_path"])
    try:
        reading = read_all(path, Fields.parse(*(parameters[name] for name in FIELD_PARAMETERS)))
        yield from reading.notes["text"]
        yield from reading.unlabelled["text"]
    except Exception:  # what it stumbles over may be what went wrong
        for file in [path] if path.is_file() else [file for file, _, reason in files_below(path) if not reason]:
            with contextlib.suppress(Unreadable):
                yield read_text(file)[0]


def pieces_of(said: str, texts: Iterable[str]) -> set[str]:
    """Every run of `SHORTEST` characters of what is said that stands in one of the texts, too."""
    windows = {window for window in _windows(said) if sum(map(str.isalpha, window)) >= SHORTEST / 2}
    # As repr() and JSON would quote a text, too.
    return {
        window
        for text in texts
        for shown in {text, repr(text)[1:-1], text.encode("unicode_escape").decode()}
        for window in _windows(shown)
        if window in windows
    }


def without(said: str, quoted: set[str]) -> str:
    """The same with `WITHHELD` for each place that these pieces cover."""
    covered = [False] * len(said)
    for start, window in enumerate(_windows(said)):
        if window in quoted:
            covered[start : start + SHORTEST] = [True] * SHORTEST
    parts = groupby(zip(said, covered, strict=True), key=lambda pair: pair[1])
    return "".join(WITHHELD if hidden else "".join(character for character, _ in part) for hidden, part in parts)


def _windows(text: str) -> Iterable[str]:
    return (text[start : start + SHORTEST] for start in range(len(text) - SHORTEST + 1))
