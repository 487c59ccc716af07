"""One Lap: from a folder of private notes to a small local classifier.

A folder is a station of the lap; CONTRIBUTING.md says what is in each, and which imports which.
"""

from contextlib import suppress
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]  # the folder that holds notebooks/, params/, data/ and outputs/


class UserError(Exception):
    """Something that the user must change; the message says what was expected, what was found, and the fix."""


class NotebookFailed(Exception):
    """A notebook did not reach its end; the message names the cell and what to do."""


def expand_path(name: str | Path) -> Path:
    """Resolve `~` in a path. Raises UserError where nothing can be: `~` of nobody, too long a name, a closed folder."""
    try:
        path = Path(name).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise UserError(f"{name}: expected the path of a file or folder, found: {reason}; name another one") from None
    return path


def require_utf8(path: Path) -> Path:
    """Return the path. Raises UserError for one that is not UTF-8: kernels, JSON and tokenizers take no other."""
    shown = str(path).encode(errors="backslashreplace").decode()
    if shown != str(path):
        raise UserError(f"{shown}: expected a path in UTF-8, found other bytes; rename the file or folder")
    return path


def find_path(name: str | Path) -> Path:
    """Resolve a path from a parameter: `~`, then the working directory, then the project. Raises as `expand_path`.

    The notebooks run from the project, from `notebooks/` (JupyterLab) or from anywhere (papermill), and their default
    parameters must mean the same files each time. A path that is still to be made goes where its parent folder exists.
    """
    path = expand_path(name)
    places = [path.absolute(), PROJECT / path]
    existing = [place for place in places if place.exists()] or [place for place in places if place.parent.exists()]
    return (existing or places)[0]
