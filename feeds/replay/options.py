"""What a user may write behind a target, and how it is read. Each raises ValueError with what is wanted."""

from __future__ import annotations

import math
import re
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from feeds.replay.readers.times import UNITS, iso_ns
from marketfeed.feed import Option

_MOMENT = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](?P<minute>\d\d:\d\d)(?P<second>:\d\d(?:\.\d{1,9})?)?)?"
    # In the query of a feed's specification a plus is a blank.
    r"(?P<zone>[Zz]|[+ -]\d\d:?\d\d)?",
    re.ASCII,
)


def speed(text: str) -> float:
    """A factor, or ``max``: infinite."""
    if text == "max":
        return math.inf
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ValueError("a factor above 0, or max, is wanted")
    return factor


def truth(text: str) -> bool:
    """True or false."""
    if text.lower() in ("true", "yes", "1", "on", ""):
        return True
    if text.lower() in ("false", "no", "0", "off"):
        return False
    raise ValueError("true or false is wanted")


def patterns(text: str) -> tuple[str, ...]:
    """Names or globs."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise ValueError("symbols or globs are wanted, with commas between")
    return found


def zone(text: str) -> ZoneInfo:
    """A time zone."""
    try:
        return ZoneInfo(text)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError("a time zone such as America/New_York is wanted") from None


def unit(text: str) -> str:
    """A unit of time."""
    if text not in UNITS:
        raise ValueError(f"one of {', '.join(UNITS)} is wanted")
    return text


def clock(text: str) -> str:
    """The column of a tick by which it is played."""
    if text not in ("event", "recv"):
        raise ValueError("event or recv is wanted")
    return f"ts_{text}"


def moment(text: str) -> str:
    """A time as text that :func:`moment_ns` can read."""
    moment_ns(text, None)
    return text


def moment_ns(text: str, where: tzinfo | None) -> int:
    """A day, or a day and a time to the minute, second or nanosecond, in ns since the epoch.

    Args:
        where: the zone of one that names none; None = UTC.
    """
    match = _MOMENT.fullmatch(text.strip())
    ns, good = np.zeros(1, np.int64), np.zeros(1, np.bool_)
    if match is not None:
        offset = (match["zone"] or "").replace(" ", "+")
        full = f"{match['day']}T{match['minute'] or '00:00'}{match['second'] or ':00'}{offset}".encode()
        ns, good = iso_ns(np.frombuffer(full, np.uint8)[:, None], where or UTC)
    if not good[0]:
        raise ValueError("a time such as 2013-10-07T13:30:00Z is wanted")
    return int(ns[0])


OPTIONS = (
    Option("speed", speed, 1.0, "how many times faster than recorded, or max"),
    Option("start", moment, None, "leave out what happened before this time: 2013-10-07, 2013-10-07T13:30:00.5Z"),
    Option("end", moment, None, "leave out what happened at this time and later"),
    Option("loop", truth, False, "begin again at the end"),
    Option("symbol", patterns, (), "only these symbols: names or globs, with commas between"),
    Option("feed", str, None, "of a recording of several feeds, only this one"),
    Option("clock", clock, "ts_event", "play by the time when it happened (event), or was recorded (recv)"),
    Option("as", str, None, "the symbol of a recording that names none (default: the file's name)"),
    Option("tz", zone, None, "the zone of times that name none, such as America/New_York (default: UTC)"),
    Option("time_unit", unit, None, "the unit of times that are numbers: s, ms, us, ns (default: by magnitude)"),
)
