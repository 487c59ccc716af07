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
def test_date_of_a_note_comes_from_its_fields_then_its_name(values, name, expected):
    assert written_on(values, name) == expected


def test_date_of_a_file_is_that_of_its_last_change(tmp_path):
    file = tmp_path / "note.md"
    file.touch()
    os.utime(file, (1707696000, 1707696000))
    assert modified_on(file) == "2024-02-12"
    assert modified_on(tmp_path / "gone.md") == ""


def test_notes_a_year_counts_the_last_365_days():
    assert notes_a_year(days(1000), [""] * 1000) == 365
    assert notes_a_year(days(100, apart=7), [""] * 100) == pytest.approx(52, abs=1)


def test_notes_a_year_scales_up_a_shorter_span_and_is_none_below_a_month():
    assert notes_a_year(days(100), [""] * 100) == pytest.approx(365, rel=0.02)
    assert notes_a_year(days(20), [""] * 20) is None
    assert notes_a_year([], []) is None


def test_notes_a_year_ignores_notes_from_the_future():
    assert notes_a_year([*days(365), "2999-01-01"], [""] * 366) == pytest.approx(366, abs=2)


def test_notes_a_year_assumes_the_rate_of_the_others_for_undated_notes():
    assert notes_a_year([*days(300), *[""] * 100], [""] * 400) == pytest.approx(365 * 4 / 3, rel=0.03)


def test_notes_a_year_uses_dates_of_files_only_where_notes_have_none():
    synced = ["2026-01-01"] * 400
    assert notes_a_year([*days(1), *[""] * 399], synced) is None, "one date of its own says nothing of the others"
    assert notes_a_year([""] * 400, days(400)) == 365
    assert notes_a_year(days(400, apart=7), synced) == pytest.approx(52, abs=1)
