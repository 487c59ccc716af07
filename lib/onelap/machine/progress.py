"""A line that shows the progress of long work, in the notebook and in the terminal that runs it."""

import contextlib
import os
import time
from pathlib import Path

PROGRESS_VARIABLE = "ONELAP_PROGRESS"  # environment variable: the file in which the runner looks for the line
UPDATE_SECONDS = 1.0  # at least, between two updates of the line
HEARTBEAT_SECONDS = {True: 1.0, False: 60.0}  # between two lines of a command, on a terminal and in a log
CLEAR_REST = "\x1b[K"  # clears a terminal's line from the cursor on


class ProgressLine:
    """A line that is rewritten at most once a second; without a notebook and a runner nothing is shown."""

    def __init__(self, total: int, unit: str, after: float = 0.0):
        """`total` units of work are to be done. The line appears after `after` seconds: short work leaves none."""
        self.total, self.unit = total, unit
        self.began = time.monotonic()
        self.due = self.began + after
        self.handle = None

    def show(self, done: int, before: int = 0, detail: str = "") -> None:
        """Show that `done` units are done, and the ETA; `before` of them, done in an earlier session, took no time."""
        if time.monotonic() < self.due and (done < self.total or self.handle is None):
            return
        from IPython import get_ipython
        from IPython.display import display

        self.due = time.monotonic() + UPDATE_SECONDS
        left = (time.monotonic() - self.began) / max(1, done - before) * (self.total - done)
        text = f"{self.unit} {done} of {self.total}{detail}, {format_duration(left)} left"
        if PROGRESS_VARIABLE in os.environ:
            with contextlib.suppress(OSError):  # must not end a training
                Path(os.environ[PROGRESS_VARIABLE]).write_text(text, encoding="utf-8")
        if self.handle:
            self.handle.update({"text/plain": text}, raw=True)
        elif get_ipython():
            self.handle = display({"text/plain": text}, raw=True, display_id=True)


def format_duration(seconds: float) -> str:
    """Write a duration as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
