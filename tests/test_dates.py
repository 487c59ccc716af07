"""How many notes come in a year."""

import os
from datetime import date, datetime, timedelta

import pytest

from onelap.machine.dates import modified_on, notes_a_year, written_on


def days(count, last=date(2025, 12, 31), apart=1):
    return [(last - timedelta(n * apart)).isoformat() for n in range(count)]


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        ({"created": date(2024, 2, 11)}, "", "2024-02-11"),
        ({"Date": datetime(2024, 2, 11, 9, 30)}, "2020-01-01", "2024-02-11"),
        ({"created_at": "2024-02-11T09:30:00Z"}, "", "2024-02-11"),
        ({}, "2024-02-11 garden", "2024-02-11"),
        ({}, "20240211", "2024-02-11"),
        ({}, "202402110930 zettel", "2024-02-11"),
        ({}, "20240211093059", "2024-02-11"),
        ({"date": "yesterday", "created": None}, "meeting", ""),
        ({"date": "2024-02-30"}, "", ""),
        ({"date": ["2024-02-11"]}, "order 1202402115", ""),
    ],
)
def test_the_date_that_a_note_carries(values, name, expected):
    assert written_on(values, name) == expected


def test_the_date_of_a_file(tmp_path):
    file = tmp_path / "note.md"
    file.touch()
    os.utime(file, (1707696000, 1707696000))
    assert modified_on(file) == "2024-02-12"
    assert modified_on(tmp_path / "gone.md") == ""


def test_a_year_is_the_last_one():
    assert notes_a_year(days(1000), [""] * 1000) == 365
    assert notes_a_year(days(100, apart=7), [""] * 100) == pytest.approx(52, abs=1)


def test_less_than_a_year_is_scaled_and_less_than_a_month_says_nothing():
    assert notes_a_year(days(100), [""] * 100) == pytest.approx(365, rel=0.02)
    assert notes_a_year(days(20), [""] * 20) is None
    assert notes_a_year([], []) is None


def test_a_note_from_the_future_does_not_count():
    assert notes_a_year([*days(365), "2999-01-01"], [""] * 366) == pytest.approx(366, abs=2)


def test_notes_without_a_date_share_in_the_rhythm_of_the_others():
    assert notes_a_year([*days(300), *[""] * 100], [""] * 400) == pytest.approx(365 * 4 / 3, rel=0.03)


def test_the_files_dates_count_only_where_the_notes_carry_none():
    synced = ["2026-01-01"] * 400
    assert notes_a_year([*days(1), *[""] * 399], synced) is None, "one date of its own says nothing of the others"
    assert notes_a_year([""] * 400, days(400)) == 365
    assert notes_a_year(days(400, apart=7), synced) == pytest.approx(52, abs=1)
