"""When notes were written, and so how many there are in a year."""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

DATE_FIELDS = ("date", "created", "created_at", "creation date", "created time", "timestamp")
_ISO = re.compile(r"(?<!\d)((?:19|20)\d\d)[-/._]?(0[1-9]|1[0-2])[-/._]?(0[1-9]|[12]\d|3[01])(?!\d)")
YEAR = 365
SHORTEST = 30  # days; dates that lie closer together were given by a copy or a sync, or say little of a year


def written_on(values: dict, name: str = "", file: Path | None = None) -> str:
    """ISO date of a note: that of a field, of its file's name, or of its file; empty where unknown."""
    said = [value for field, value in values.items() if isinstance(field, str) and field.lower() in DATE_FIELDS]
    for found in (_date(str(text)) for text in [*said, name] if isinstance(text, str | int | date)):
        if found:
            return found
    try:
        return datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat() if file else ""
    except (OSError, ValueError, OverflowError):
        return ""


def _date(text: str) -> str:
    found = _ISO.search(text[:100])
    try:
        return date(*map(int, found.groups())).isoformat() if found else ""
    except ValueError:  # 30 February
        return ""


def notes_a_year(written: Iterable[str]) -> int | None:
    """From ISO dates, one a note and empty where unknown: the last 365 days up to the newest note.

    Dates that span less are scaled up, and notes without a date share in the rhythm of the others.
    None where the dates span less than `SHORTEST` days.
    """
    written = list(written)
    dates = sorted(date.fromisoformat(day) for day in written if day)
    days = min(YEAR, (dates[-1] - dates[0]).days) if dates else 0
    if days < SHORTEST:
        return None
    recent = sum(day > dates[-1] - timedelta(days) for day in dates)
    return round(recent * YEAR / days * len(written) / len(dates))
