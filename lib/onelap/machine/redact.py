"""A failed cell without the words of the notes.

Executed notebooks show ids, counts and numbers, but an exception of a library may quote what it failed on. What stays
is the exception's type and the places in the code, ours and the libraries'.
"""

import re

import nbformat

WITHHELD = "message withheld, because it may quote a note; -p show_text=true shows it"
OUR_OWN = ("UserError", "FloatingPointError", "OutOfMemoryError")  # exceptions whose messages hold numbers and ids only
_FRAME = re.compile(r"(?:\x1b\[[\d;]*m)*(?:File |Cell In)")  # what IPython writes before a place in the code


def withhold(name: str, message: str) -> str:
    """Return the message of an exception, given by the name of its type, or `WITHHELD`."""
    return message if name in OUR_OWN else WITHHELD


def redact_failure(notebook: nbformat.NotebookNode) -> None:
    """Reduce every cell that ended with an exception to its type and its frames; what it had printed goes, too."""
    for cell in notebook.cells:
        failures = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        if failures:
            cell.outputs = failures
        for failure in failures:
            message = withhold(failure.ename, failure.evalue)
            frames = [entry for entry in failure.traceback if _FRAME.match(entry)]
            failure.evalue, failure.traceback = message, [*frames, f"{failure.ename}: {message}"]
