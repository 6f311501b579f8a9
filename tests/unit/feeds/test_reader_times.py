"""Times: exact to the nanosecond, whatever way they are written."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feeds.replay.readers import times

NEW_YORK = ZoneInfo("America/New_York")


def iso(*cells: str, zone: ZoneInfo | None = None) -> tuple[list[int], list[bool]]:
    width = max(len(cell) for cell in cells)
    matrix = np.array([list(cell.encode().ljust(width, b"\0")) for cell in cells], np.uint8).T
    ns, ok = times.iso_ns(np.ascontiguousarray(matrix), zone)
    return ns.tolist(), ok.tolist()


moments = st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1))
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(moments, offsets, st.sampled_from("T "))
def test_a_written_time_is_what_datetime_reads(moment: datetime, zone: timezone, separator: str) -> None:
    moment = moment.replace(tzinfo=zone)
    wanted = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000
    assert iso(moment.isoformat(separator)) == ([wanted], [True])


def test_all_ways_to_write_an_offset_and_a_fraction() -> None:
    written = [
        "2013-01-01T22:00:00Z",
        "2013-01-01t22:00:00z",
        "2013-01-01 22:00:00",
        "2013-01-01T23:00:00+01",
        "2013-01-01T23:30:00+0130",
        "2013-01-01T20:30:00-01:30",
        "2013-01-01T22:00:00.000000001Z",
        "2013-01-01T22:00:00.5",
    ]
    base = 1_357_077_600 * 10**9
    assert iso(*written) == ([base] * 6 + [base + 1, base + 500_000_000], [True] * 8)


@pytest.mark.parametrize(
    "written",
    [
        "2013-02-29T00:00:00Z",
        "2013-13-01T00:00:00Z",
        "2013-00-01T00:00:00Z",
        "2013-01-00T00:00:00Z",
        "2013-01-01T24:00:00Z",
        "2013-01-01T00:60:00Z",
        "2013-01-01T00:00:60Z",
        "2013-01-01T00:00:00.Z",
        "2013-01-01T00:00:00.1234567890Z",
        "2013-01-01T00:00:00ZZ",
        "2013-01-01T00:00:00+1",
        "2013-01-01T00:00:00+01:0",
        "2013-01-01T00:00:00+01:00Z",
        "2013-01-01T00:00:00 UTC",
        "2013-01-01X00:00:00Z",
        "2013/01/01T00:00:00Z",
        "2013-01-01",
        "yesterday, at about noon",
        "9999-01-01T00:00:00Z",
    ],
)
def test_what_is_no_time_is_not_read(written: str) -> None:
    _, ok = iso(written, "2013-01-01T00:00:00Z")
    assert ok == [False, True]


def test_a_time_without_an_offset_is_of_the_stated_zone_and_one_with_keeps_its_own() -> None:
    summer, winter, stated = iso("2013-07-01T09:30:00", "2013-12-02T09:30:00", "2013-07-01T09:30:00Z", zone=NEW_YORK)[0]
    assert [datetime.fromtimestamp(ns / 1e9, UTC).hour for ns in (summer, winter, stated)] == [13, 14, 9]


#: A file's wall-clock time does not say which of two hours it means: `fold` is 0, the first.
WALL_CLOCK = st.datetimes(datetime(2013, 1, 1), datetime(2014, 1, 1)).map(lambda moment: moment.replace(fold=0))


@given(st.lists(WALL_CLOCK, min_size=1, max_size=20))
@example([datetime(2013, 3, 10, 2), datetime(2013, 3, 10, 2, 59), datetime(2013, 11, 3, 1), datetime(2013, 11, 3, 2)])
def test_wall_clock_times_become_utc_over_both_changes_of_the_clock(moments: list[datetime]) -> None:
    local = [(moment - datetime(1970, 1, 1)) // timedelta(microseconds=1) * 1_000 for moment in moments]
    wanted = [
        (moment.replace(tzinfo=NEW_YORK) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000
        for moment in moments
    ]
    assert times.to_utc(np.array(local), NEW_YORK).tolist() == wanted


@pytest.mark.parametrize(("unit", "digits"), [("s", 10), ("ms", 13), ("us", 16), ("ns", 19)])
def test_the_unit_is_told_by_magnitude(unit: str, digits: int) -> None:
    values = np.array([float("1588291201099123456"[:digits])] * 3 + [0.0])
    assert times.guess_unit(values) == unit


def test_units_with_decimals_are_exact_and_finer_digits_are_cut_off() -> None:
    mantissa, scale = np.array([1588291201099, 1588291201099123456, 862_1722]), np.array([3, 9, 4])
    assert times.scaled_ns(mantissa, scale, "s").tolist() == [
        1588291201099000000,
        1588291201099123456,
        862_172_200_000,
    ]
    assert times.scaled_ns(np.array([15]), np.array([1]), "ns").tolist() == [1]


def test_a_time_beyond_int64_stays_far_away_and_does_not_wrap_around() -> None:
    far = times.scaled_ns(np.array([10**18, -(10**18)]), np.zeros(2, np.int64), "s")
    assert far.tolist() == [times.FAR, -times.FAR]
