"""Answers as text, one line each: for programs, for a spreadsheet, for a person. And what they add up to."""

import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from onelap.machine.progress import CLEAR, HEARTBEAT

if TYPE_CHECKING:  # the command line names the formats, and should not wait for torch
    from onelap.daily.inbox import Item
    from onelap.daily.sort import Answer

Writer = Callable[["Item", "Answer"], None]


def as_json_lines(out: TextIO, kinds: list[str]) -> Writer:
    """An object a note: `path` or `id`, `kind`, `confidence`, `probabilities`, `sure`, and `error` if there is one."""

    def write(item: "Item", answer: "Answer") -> None:
        error = {"error": item.error} if item.error else {}
        print(json.dumps(item.where | asdict(answer) | error, ensure_ascii=False), file=out)

    return write


def as_csv(out: TextIO, kinds: list[str]) -> Writer:
    """A header, then a row a note, with a column for the probability of each kind."""
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["path", "id", "kind", "confidence", "sure", "error", *kinds])

    def write(item: "Item", answer: "Answer") -> None:
        place = [item.where.get("path", ""), item.where.get("id", "")]
        said = [answer.kind or "", answer.confidence, str(answer.sure).lower(), item.error]
        rows.writerow([*place, *said, *(answer.probabilities.get(kind, "") for kind in kinds)])

    return write


def as_table(out: TextIO, kinds: list[str]) -> Writer:
    """Kind, confidence, a question mark where it is not sure, and which note."""
    width = max(map(len, [*kinds, "(error)"]))

    def write(item: "Item", answer: "Answer") -> None:
        where = " ".join(map(str, item.where.values()))
        if item.error:
            print(f"{'(error)':{width}}          {where}: {item.error}", file=out)
        else:
            doubt = " " if answer.sure else "?"
            print(f"{answer.kind or '–':{width}}  {answer.confidence:4.0%} {doubt}  {where}", file=out)

    return write


FORMATS = {"jsonl": as_json_lines, "csv": as_csv, "table": as_table}


class Tally:
    """How far it is, and at the end what there was; on standard error."""

    def __init__(self):
        self.kinds: Counter[str] = Counter()
        self.notes = self.unsure = self.errors = 0
        self.seconds = 0.0
        self.terminal = sys.stderr.isatty() and not sys.stdout.isatty()  # else the answers show how far it is
        self.due = time.monotonic() + HEARTBEAT[self.terminal]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Counts the time in which notes are sorted; a program that keeps it open may leave it idle for hours."""
        began = time.monotonic()
        yield
        self.seconds += time.monotonic() - began

    def add(self, item: "Item", answer: "Answer") -> None:
        """One more."""
        self.notes += 1
        if item.error:
            self.errors += 1
        else:
            self.kinds[answer.kind or "no kind"] += 1
            self.unsure += not answer.sure

    def show(self) -> None:
        """At most once a second."""
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + HEARTBEAT[self.terminal]
            line = f"\r{self._rate}{CLEAR}" if self.terminal else f"{self._rate}\n"
            print(line, end="", file=sys.stderr, flush=True)

    def close(self, threshold: float | None, passed_over: Counter[str]) -> None:
        """The last word."""
        above = "no answer reached the wanted accuracy" if threshold is None else f"below {threshold:.0%}"
        said = [self._rate, *(f"{kind} {count}" for kind, count in self.kinds.most_common())]
        said += [f"unsure {self.unsure} ({above})"] if self.unsure else []
        said += [f"errors {self.errors}"] if self.errors else []
        said += [f"passed over {count} ({reason})" for reason, count in passed_over.most_common()]
        print((f"\r{CLEAR}" if self.terminal else "") + "; ".join(said), file=sys.stderr)

    @property
    def _rate(self) -> str:
        notes = "1 note" if self.notes == 1 else f"{self.notes:,} notes"
        return f"{notes} in {self.seconds:.1f} s, {self.notes / max(self.seconds, 1e-9):.1f} a second"
