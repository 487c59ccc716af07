"""Dates of notes, and how many notes come in a year."""

import contextlib
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from dateutil import parser

DATE_FIELDS = ("date", "created", "created_at", "creation date", "created time", "timestamp")
_YEAR_FIRST = re.compile(  # 2024-01-05, 2024/1/5, 2024年1月5日, 20240105, 202401051022
    r"(?<!\d)((?:19|20)\d\d)(?:[-/._年]\s?(\d\d?)[-/._月]\s?(\d\d?)(?!\d)|(\d\d)(\d\d)(?:\d{4}(?:\d\d)?)?(?!\d))"
)
YEAR = 365
MIN_SPAN = 30  # days; dates closer together were set by a copy or a sync, or say little of a year


def written_on(values: dict, name: str = "") -> str:
    """Find the ISO date in a field of `DATE_FIELDS`, else in the file's name; empty where there is none."""
    dates = [value for field, value in values.items() if str(field).lower() in DATE_FIELDS]
    for text in [*dates, name]:
        with contextlib.suppress(ValueError, ArithmeticError):  # 30 February, or a number of thousands of digits
            if isinstance(text, str | int | date) and (day := _day_of(str(text)[:100])):
                return day.isoformat()
    return ""


def _day_of(text: str) -> date | None:
    if match := _YEAR_FIRST.search(text):
        return date(*(int(part) for part in match.groups() if part))
    if re.search(r"[^\W\d]{3}", text):  # `January 5, 2024 10:22 AM`; of 1/5/2024 nobody knows which is the month
        days = {parser.parse(text, default=datetime(year, year, year), ignoretz=True).date() for year in (1, 2)}
        return days.pop() if len(days) == 1 else None  # two, where the text lacks a part
    return None


def modified_on(file: Path) -> str:
    """Return the ISO date of a file's last change; empty where it is unknown."""
    try:
        return datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()
    except (OSError, ValueError, OverflowError):
        return ""


def notes_a_year(written: Iterable[str], modified: Iterable[str]) -> int | None:
    """Estimate how many notes come in a year from the last 365 days up to the newest.

    Both arguments hold one ISO date a note, empty where it is unknown. The dates that notes carry are used where at
    least half of the notes have one, else those of the files, which a copy may have set; notes without a date are
    assumed to come as often as the others. Dates that span less than a year are scaled up; None where they span less
    than `MIN_SPAN` days.
    """
    written, modified = list(written), list(modified)
    for days in (written, modified):
        dates = sorted(when for day in days if day and (when := date.fromisoformat(day)) <= date.today())
        span = min(YEAR, (dates[-1] - dates[0]).days) if len(dates) >= len(days) / 2 > 0 else 0
        if span >= MIN_SPAN:
            recent = sum(day > dates[-1] - timedelta(span) for day in dates)
            return round(recent * YEAR / span * len(days) / len(dates))
    return None
