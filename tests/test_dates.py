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
        ({"created time": "January 5, 2024 10:22 AM"}, "", "2024-01-05"),
        ({"Created": "January 5th, 2024"}, "", "2024-01-05"),
        ({"date": "Fri, 5 Jan 2024 10:22:00 +0100"}, "", "2024-01-05"),
        ({"date": "2024/1/5"}, "", "2024-01-05"),
        ({"date": "2024.1.5"}, "", "2024-01-05"),
        ({"date": "2024年1月5日"}, "", "2024-01-05"),
        ({"date": "2024年 1月 5日 10:22"}, "", "2024-01-05"),
        ({"date": "[[2024-01-05|today]]"}, "", "2024-01-05"),
        ({"date": "soon", "created": "2024-01-05"}, "2020-01-01", "2024-01-05"),
        ({"date": 20240105, 7: "x"}, "", "2024-01-05"),
        ({}, "2024年1月5日のメモ", "2024-01-05"),
        ({}, "January 5, 2024", "2024-01-05"),
        ({"date": "1/5/2024"}, "", ""),
        ({"date": "5-1-24"}, "", ""),
        ({"date": "2024-13-01", "created": "0000-01-01"}, "", ""),
        ({"date": "Friday 10:22"}, "Sun 2023", ""),
        ({"date": "12024-01-05"}, "march of the bees", ""),
        ({"date": 1704449320}, "Maya 2012", ""),
        ({"date": True, "created": 1.5}, "The 3 body problem 2008", ""),
        ({"date": f"Jan {'9' * 30} m"}, f"Jan {'9' * 40}h", ""),
        ({"date": "yesterday", "created": None}, "meeting", ""),
        ({"date": "2024-02-30"}, "", ""),
        ({"date": ["2024-02-11"]}, "order 1202402115", ""),
    ],
)
def test_date_of_a_note_comes_from_its_fields_then_its_name(values, name, expected):
    assert written_on(values, name) == expected


@pytest.mark.filterwarnings("error")
def test_zone_of_a_time_is_left_aside_without_a_word():
    assert written_on({"date": "January 5, 2024 11:22 PM EST"}) == "2024-01-05"


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
