"""One line that says how far long work is: in the notebook, and in the terminal that runs it."""

import os
import time
from pathlib import Path

VARIABLE = "ONELAP_PROGRESS"
"""Names the file in which the runner looks for the line."""
EVERY = 1.0  # seconds


class ProgressLine:
    """Rewrites its line at most once a second; shows nothing where there is neither notebook nor runner."""

    def __init__(self):
        self.shown = -EVERY
        self.handle = None

    def show(self, text: str, last: bool = False) -> None:
        """The line is now `text`; `last` shows it in any case."""
        if not last and time.monotonic() - self.shown < EVERY:
            return
        self.shown = time.monotonic()
        if VARIABLE in os.environ:
            Path(os.environ[VARIABLE]).write_text(text, encoding="utf-8")
        if self.handle is None:
            self.handle = _display(text)
        else:
            self.handle.update({"text/plain": text}, raw=True)


def _display(text: str):
    """A place in the cell's output that can be written again; None outside of a notebook."""
    from IPython import get_ipython
    from IPython.display import display

    return display({"text/plain": text}, raw=True, display_id=True) if get_ipython() else None


def told(seconds: float) -> str:
    """A time left as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
