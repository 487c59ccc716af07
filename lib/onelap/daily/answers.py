"""Answers as text, one line each, for programs, spreadsheets and people; and a summary of all of them."""

import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from onelap.machine.progress import CLEAR_REST, HEARTBEAT_SECONDS

if TYPE_CHECKING:  # the command line needs the names of the formats, and should not wait for torch
    from onelap.daily.inbox import Item
    from onelap.daily.sort import Answer

Writer = Callable[["Item", "Answer"], None]


def as_json_lines(out: TextIO, kinds: list[str]) -> Writer:
    """Write an object a note: `path` or `id`, `kind`, `confidence`, `probabilities`, `sure`, and an `error` if any."""

    def write(item: "Item", answer: "Answer") -> None:
        error = {"error": item.error} if item.error else {}
        print(json.dumps(item.where | asdict(answer) | error, ensure_ascii=False), file=out)

    return write


def as_csv(out: TextIO, kinds: list[str]) -> Writer:
    """Write a header, then a row a note, with a column for the probability of each kind."""
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["path", "id", "kind", "confidence", "sure", "error", *kinds])

    def write(item: "Item", answer: "Answer") -> None:
        note = [item.where.get("path"), item.where.get("id"), answer.kind]
        result = [answer.confidence, str(answer.sure).lower(), item.error]
        rows.writerow([*note, *result, *map(answer.probabilities.get, kinds)])

    return write


def as_table(out: TextIO, kinds: list[str]) -> Writer:
    """Write kind, confidence and note in columns; a question mark where the answer is not sure."""
    width = max(map(len, [*kinds, "(error)"]))

    def write(item: "Item", answer: "Answer") -> None:
        note = " ".join(map(str, item.where.values()))
        if item.error:
            print(f"{'(error)':{width}}          {note}: {item.error}", file=out)
        else:
            doubt = " " if answer.sure else "?"
            print(f"{answer.kind or '–':{width}}  {answer.confidence:4.0%} {doubt}  {note}", file=out)

    return write


FORMATS = {"jsonl": as_json_lines, "csv": as_csv, "table": as_table}


class Tally:
    """Counts of the answers, on standard error: the rate while notes are sorted, and a summary at the end."""

    def __init__(self):
        self.kinds: Counter[str] = Counter()
        self.notes = self.unsure = self.errors = 0
        self.seconds = 0.0
        self.terminal = sys.stderr.isatty() and not sys.stdout.isatty()  # answers on the terminal are progress enough
        self.due = time.monotonic() + HEARTBEAT_SECONDS[self.terminal]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count the time of a `with` block: only that of sorting, not that of waiting for notes."""
        began = time.monotonic()
        yield
        self.seconds += time.monotonic() - began

    def add(self, item: "Item", answer: "Answer") -> None:
        """Count an answer."""
        self.notes += 1
        self.errors += bool(item.error)
        if not item.error:
            self.kinds[answer.kind or "no kind"] += 1
            self.unsure += not answer.sure

    def show(self) -> None:
        """Show the rate, at most once a second (once a minute in a log)."""
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + HEARTBEAT_SECONDS[self.terminal]
            line = f"\r{self._rate}{CLEAR_REST}" if self.terminal else f"{self._rate}\n"
            print(line, end="", file=sys.stderr, flush=True)

    def close(self, threshold: float | None, skipped: Counter[str]) -> None:
        """Show the summary. `skipped` counts files without notes, by reason."""
        reason = "no answer reached the wanted accuracy" if threshold is None else f"below {threshold:.0%}"
        counts = [self._rate, *(f"{kind} {count}" for kind, count in self.kinds.most_common())]
        counts += [f"unsure {self.unsure} ({reason})"] if self.unsure else []
        counts += [f"errors {self.errors}"] if self.errors else []
        counts += [f"skipped {count} ({reason})" for reason, count in skipped.most_common()]
        print((f"\r{CLEAR_REST}" if self.terminal else "") + "; ".join(counts), file=sys.stderr)

    @property
    def _rate(self) -> str:
        notes = "1 note" if self.notes == 1 else f"{self.notes:,} notes"
        return f"{notes} in {self.seconds:.1f} s, {self.notes / max(self.seconds, 1e-9):.1f} a second"
