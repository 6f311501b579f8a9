"""Times as recordings write them, to ns since the Unix epoch, UTC; a column at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo

import numpy as np
from numpy.typing import NDArray

#: How many decimal places a unit lies above the nanosecond.
UNITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}

#: What a time beyond the reach of ns in int64 (the year 2262) becomes: ingest refuses it as beyond tomorrow.
FAR = np.iinfo(np.int64).max

_DIGITS = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18])
_QUARTER_NS = 900 * 10**9
_SECOND_NS = 10**9


def guess_unit(seconds_or_less: NDArray[np.float64]) -> str:
    """The unit of a column of times since the epoch, shape (n,), n > 0, by the magnitude of their median.

    The borders lie at 1973 for the finer unit and at 5138 for the coarser one.
    """
    magnitude = abs(float(np.median(seconds_or_less)))
    return "s" if magnitude < 1e11 else "ms" if magnitude < 1e14 else "us" if magnitude < 1e17 else "ns"


def scaled_ns(mantissa: NDArray[np.int64], scale: NDArray[np.int64], unit: str) -> NDArray[np.int64]:
    """``mantissa / 10**scale`` of a unit, in ns: exact, digits below the nanosecond cut off, clamped to +-FAR."""
    shift = UNITS[unit] - scale
    down = 10 ** np.maximum(-shift, 0)
    up = 10 ** np.maximum(shift, 0)
    value = mantissa // down
    far = np.abs(value) > FAR // up
    return np.where(far, np.where(value < 0, -FAR, FAR), value * np.where(far, 0, up))


def iso_ns(cells: NDArray[np.uint8], zone: tzinfo | None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """ISO 8601 / RFC 3339 date-times.

    ``YYYY-MM-DD`` then ``T`` or a blank, ``HH:MM:SS``, if wanted a fraction of 1 to 9 digits, and ``Z``, ``+HH:MM``,
    ``+HHMM``, ``+HH``, or nothing: a time of ``zone`` (None = UTC).

    Args:
        cells: shape (width, rows), the bytes of each, left-aligned, 0 behind the end.

    Returns:
        ns since the epoch, shape (rows,), and which rows read well.
    """
    rows = cells.shape[1]
    if len(cells) < 19:
        return np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
    # Room for the longest fraction and offset behind the cell's end.
    cells = np.vstack([cells, np.zeros((12, rows), np.uint8)])
    digits = (cells - np.uint8(ord("0"))).astype(np.int64)
    ok = (digits[_DIGITS] <= 9).all(axis=0)
    ok &= (cells[4] == ord("-")) & (cells[7] == ord("-")) & (cells[13] == ord(":")) & (cells[16] == ord(":"))
    ok &= np.isin(cells[10], np.frombuffer(b"Tt ", np.uint8))
    year, month = digits[0] * 1000 + digits[1] * 100 + digits[2] * 10 + digits[3], digits[5] * 10 + digits[6]
    day, hour = digits[8] * 10 + digits[9], digits[11] * 10 + digits[12]
    minute, second = digits[14] * 10 + digits[15], digits[17] * 10 + digits[18]
    # Beyond 1678 to 2261 ns do not fit into int64.
    ok &= (
        (year >= 1678) & (year <= 2261) & (month >= 1) & (month <= 12) & (hour <= 23) & (minute <= 59) & (second <= 59)
    )
    months = np.where(ok, (year - 1970) * 12 + month - 1, 0).astype("M8[M]")
    first = months.astype("M8[D]").astype(np.int64)
    length = (months + 1).astype("M8[D]").astype(np.int64) - first
    ok &= (day >= 1) & (day <= length)
    seconds = (first + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second

    fraction, count = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    pointed = cells[19] == ord(".")
    running = pointed.copy()
    for place in range(20, min(29, len(cells))):
        running &= digits[place] <= 9
        fraction = np.where(running, fraction * 10 + digits[place], fraction)
        count += running
    ok &= ~pointed | (count > 0)
    local = seconds * _SECOND_NS + fraction * 10 ** (9 - count)

    offset, naive, readable = _offsets(cells, 19 + pointed + count)
    ok &= readable
    local = np.where(ok, local, 0)
    if zone is not None and (ok & naive).any():
        local = np.where(naive, to_utc(local, zone), local)
    return local - np.where(ok, offset, 0) * _SECOND_NS, ok


def _offsets(
    cells: NDArray[np.uint8], at: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The offset from UTC, in s, at a place of each row; whether there is none; whether what is there reads well."""
    rows = np.arange(cells.shape[1])
    # Seven places: the sign, HH:MM, and one that has to be empty.
    tail = cells[np.minimum(at + np.arange(7)[:, None], len(cells) - 1), rows]
    naive = tail[0] == 0
    zulu = ((tail[0] == ord("Z")) | (tail[0] == ord("z"))) & (tail[1] == 0)
    digits = (tail - np.uint8(ord("0"))).astype(np.int64)
    hours = digits[1] * 10 + digits[2]
    colon = tail[3] == ord(":")
    minutes = np.where(colon, digits[4] * 10 + digits[5], digits[3] * 10 + digits[4])
    short = tail[3] == 0
    digital = digits <= 9
    well = (tail[0] == ord("+")) | (tail[0] == ord("-"))
    well &= digital[1] & digital[2] & (hours <= 23) & (short | (minutes <= 59))
    well &= short | np.where(colon, digital[4] & digital[5] & (tail[6] == 0), digital[3] & digital[4] & (tail[5] == 0))
    value = hours * 3_600 + np.where(short, 0, minutes) * 60
    value = np.where(tail[0] == ord("-"), -value, value)
    return np.where(well, value, 0), naive, naive | zulu | well


def to_utc(local: NDArray[np.int64], zone: tzinfo) -> NDArray[np.int64]:
    """Wall-clock times of a zone, ns since 1970-01-01T00:00 there, to UTC; of an hour that comes twice, the first."""
    if not len(local):
        return local
    if isinstance(zone, timezone):
        return local - _offset_ns(0, zone)
    # Offsets change at full quarters of an hour; most batches lie within one or two.
    quarters = local // _QUARTER_NS
    if quarters.min() == quarters.max():
        return local - _offset_ns(int(quarters[0]), zone)
    different, which = np.unique(quarters, return_inverse=True)
    offsets = np.array([_offset_ns(int(quarter), zone) for quarter in different], np.int64)
    return local - offsets[which]


def _offset_ns(quarter: int, zone: tzinfo) -> int:
    # Built as UTC for its arithmetic, then read as wall-clock time of the zone.
    wall = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=quarter * 900)).replace(tzinfo=zone)
    return round((wall.utcoffset() or timedelta()).total_seconds()) * _SECOND_NS
