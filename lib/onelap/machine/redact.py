"""Failed cells without the words of the notes.

Executed notebooks show ids, counts and numbers, but an exception may quote the text that it failed on. What stays of a
failed cell is the type of the exception, the places in the code (file, line, function), and a message of `OUR_OWN`.
"""

import re

import nbformat

REDACTED = "message withheld, because it may quote a note; -p show_text=true shows it"
OUR_OWN = ("UserError", "FloatingPointError", "OutOfMemoryError")  # their messages hold numbers, names and ids only
_COLOR = re.compile(r"\x1b\[[\d;]*m")
# The first line of a frame, without arguments. The source line that follows may be a note, in a SyntaxError.
_PLACE = re.compile(r"\s*((?:File .+?:|Cell In\[\d+\], line )\d+(?:,? in [\w.<>]+)?)")


def redact_message(exception: str, message: str) -> str:
    """Return the message of an exception, given by the name of its type, or `REDACTED`."""
    return message if exception in OUR_OWN else REDACTED


def redact_failure(notebook: nbformat.NotebookNode) -> bool:
    """Reduce failed cells to the exception's type and places in the code, and return whether there were any."""
    changed = False
    for cell in notebook.cells:
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        # A group of exceptions is printed, and a killed kernel does not reply: only metadata tell these failures.
        killed = "shell.execute_reply" not in cell.metadata.get("execution", ["shell.execute_reply"])
        if errors or killed or cell.metadata.get("papermill", {}).get("exception"):
            cell.outputs, changed = errors, True
        for error in errors:
            message = redact_message(error.ename, error.evalue)
            places = [match[1] for entry in error.traceback if (match := _PLACE.match(_COLOR.sub("", entry)))]
            error.evalue = message
            error.traceback = ["Traceback (most recent call last):", *places, f"{error.ename}: {message}"]
    return changed
