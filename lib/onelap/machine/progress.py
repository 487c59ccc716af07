"""One line that says how far long work is: in the notebook, and in the terminal that runs it."""

import contextlib
import os
import time
from pathlib import Path

VARIABLE = "ONELAP_PROGRESS"
"""Names the file in which the runner looks for the line."""
EVERY = 1.0  # seconds
HEARTBEAT = {True: 1.0, False: 60.0}  # seconds between signs of life, on a terminal and in a log
CLEAR = "\x1b[K"  # the rest of a terminal's line


class ProgressLine:
    """Rewrites its line at most once a second; shows nothing where there is neither notebook nor runner."""

    def __init__(self, work: int, unit: str, after: float = 0.0):
        """`work` units are to be done; the line appears `after` so many seconds, so that short work leaves none."""
        self.work, self.unit = work, unit
        self.began = time.monotonic()
        self.due = self.began + after
        self.handle = None

    def show(self, done: int, before: int = 0, detail: str = "") -> None:
        """So many units are done, `before` of them by somebody else, which tells nothing of the time left."""
        if time.monotonic() < self.due and (done < self.work or self.handle is None):
            return
        self.due = time.monotonic() + EVERY
        left = (time.monotonic() - self.began) / max(1, done - before) * (self.work - done)
        text = f"{self.unit} {done} of {self.work}{detail}, {format_duration(left)} left"
        if VARIABLE in os.environ:
            with contextlib.suppress(OSError):  # no reason to end a training
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


def format_duration(seconds: float) -> str:
    """A time left as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
