"""When notes were written, and so how many there are in a year."""

import contextlib
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

DATE_FIELDS = ("date", "created", "created_at", "creation date", "created time", "timestamp")
_ISO = re.compile(r"(?<!\d)((?:19|20)\d\d)[-/._]?(0[1-9]|1[0-2])[-/._]?(0[1-9]|[12]\d|3[01])(?:\d{4}(?:\d\d)?)?(?!\d)")
YEAR = 365
SHORTEST = 30  # days; dates that lie closer together were given by a copy or a sync, or say little of a year


def written_on(values: dict, name: str = "") -> str:
    """ISO date that a note carries, in a field named in `DATE_FIELDS` or in its file's name; else empty."""
    said = [value for field, value in values.items() if isinstance(field, str) and field.lower() in DATE_FIELDS]
    for text in [*said, name]:
        found = _ISO.search(str(text)[:100]) if isinstance(text, str | int | date) else None
        with contextlib.suppress(ValueError):  # 30 February
            if found:
                return date(*map(int, found.groups())).isoformat()
    return ""


def modified_on(file: Path) -> str:
    """ISO date of a file's last change; empty where that is not known."""
    try:
        return datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()
    except (OSError, ValueError, OverflowError):
        return ""


def notes_a_year(written: Iterable[str], modified: Iterable[str]) -> int | None:
    """How many notes come in a year: counted in the last 365 days up to the newest.

    ISO dates, one a note and empty where unknown. Those that the notes carry count where half of them do,
    else those of the files, which a copy may have set; notes without one share in the rhythm of the
    others. Dates that span less than a year are scaled up; None where they span less than `SHORTEST` days.
    """
    written, modified = list(written), list(modified)
    for days in (written, modified):
        dates = sorted(found for day in days if day and (found := date.fromisoformat(day)) <= date.today())
        span = min(YEAR, (dates[-1] - dates[0]).days) if len(dates) >= len(days) / 2 > 0 else 0
        if span >= SHORTEST:
            recent = sum(day > dates[-1] - timedelta(span) for day in dates)
            return round(recent * YEAR / span * len(days) / len(dates))
    return None
