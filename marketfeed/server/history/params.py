"""What may be asked, and how: the parameters of a request, read and checked in one place."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from marketfeed.model.tick import TRADE
from marketfeed.stream.encoding.rfc3339 import time_from_text
from marketfeed.stream.subscription import check_pattern, is_glob

#: How many items a page has where nothing is said, and at the most: as at Alpaca. They count over all symbols.
DEFAULT_LIMIT, MOST_ITEMS = 1000, 10_000

DAY_SECONDS = 86_400
_DAY_NS = DAY_SECONDS * 10**9
_LARGEST = (1 << 63) - 1
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIMEFRAME = re.compile(r"([1-9]\d?)(Sec|S|Min|T|Hour|H|Day|D)", re.ASCII)
#: Letters of a timeframe -> seconds, and how many of them at the most.
_UNITS = {"S": (1, 59), "T": (60, 59), "M": (60, 59), "H": (3600, 23), "D": (DAY_SECONDS, 1)}


class BadRequest(ValueError):
    """This cannot be answered; the message says why."""


class SymbolLimits(NamedTuple):
    """How much one request may name."""

    symbols: int
    globs: int


class RangeQuery(NamedTuple):
    """What happened between two times."""

    feed: str
    #: QUOTE or TRADE; of bars, what they are made of
    kind: int
    #: symbols and globs
    symbols: tuple[str, ...]
    #: ns since the Unix epoch, UTC, both inclusive; None = no bound. Of bars: of their begin.
    start: int | None
    end: int | None
    limit: int
    descending: bool
    token: str | None
    #: length of a bar, s; 0 = not bars
    seconds: int = 0

    @property
    def identity(self) -> str:
        """What has to be the same on every page."""
        return repr(self._replace(limit=0, token=None))


class SymbolsQuery(NamedTuple):
    """Which instruments there are."""

    match: str
    feed: str | None
    limit: int
    token: str | None

    @property
    def identity(self) -> str:
        """What has to be the same on every page."""
        return repr(self._replace(limit=0, token=None))


_Limit = Annotated[int, msgspec.Meta(ge=1, le=MOST_ITEMS)]


class _Symbols(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    symbols: str
    # What Alpaca's clients may send besides. The feed is that of the path.
    feed: str | None = None
    currency: str | None = None


class _Latest(_Symbols, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # Some clients send these for everything; they have no meaning here.
    limit: str | None = None
    page_token: str | None = None


class _Range(_Symbols, frozen=True, kw_only=True, forbid_unknown_fields=True):
    start: str | None = None
    end: str | None = None
    limit: _Limit = DEFAULT_LIMIT
    page_token: str | None = None
    sort: Literal["asc", "desc"] = "asc"
    asof: str | None = None


class _Bars(_Range, frozen=True, kw_only=True, forbid_unknown_fields=True):
    timeframe: str
    adjustment: str = "raw"


class _Match(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    match: str = "*"
    feed: str | None = None
    limit: _Limit = DEFAULT_LIMIT
    page_token: str | None = None


Given = Mapping[str, list[str]]


def ticks_query(feed: str, kind: int, given: Given, limits: SymbolLimits) -> RangeQuery:
    """Quotes or trades between two times.

    Raises:
        BadRequest: one of the parameters is missing, unknown or not possible.
    """
    return _range(feed, kind, _read(given, _Range), limits)


def bars_query(feed: str, given: Given, limits: SymbolLimits) -> RangeQuery:
    """Bars between two times.

    Raises:
        BadRequest: one of the parameters is missing, unknown or not possible.
    """
    read = _read(given, _Bars)
    if read.adjustment != "raw":
        raise BadRequest("adjustment: only raw is served")
    return _range(feed, TRADE, read, limits)._replace(seconds=seconds_of(read.timeframe))


def latest_query(given: Given, limits: SymbolLimits) -> tuple[str, ...]:
    """The symbols and globs whose latest is asked for.

    Raises:
        BadRequest: one of the parameters is missing, unknown or not possible.
    """
    read = _read(given, _Latest)
    _check_currency(read)
    return _patterns(read.symbols, limits)


def symbols_query(given: Given) -> SymbolsQuery:
    """The instruments that match a glob.

    Raises:
        BadRequest: one of the parameters is unknown or not possible.
    """
    read = _read(given, _Match)
    _check(read.match)
    return SymbolsQuery(read.match, read.feed, read.limit, read.page_token)


def seconds_of(timeframe: str) -> int:
    """The length of a bar in seconds.

    Raises:
        BadRequest: it is none, or none that is served.
    """
    match = _TIMEFRAME.fullmatch(timeframe)
    if match:
        seconds, most = _UNITS[match[2][0]]
        if int(match[1]) <= most:
            return int(match[1]) * seconds
    raise BadRequest(f"timeframe is [1-59]Sec, [1-59]Min, [1-23]Hour or 1Day, not {timeframe[:40]!r}")


_Read = _Range | _Bars


def _range(feed: str, kind: int, read: _Read, limits: SymbolLimits) -> RangeQuery:
    _check_currency(read)
    start, end = _time("start", read.start, 0), _time("end", read.end, _DAY_NS - 1)
    if start is not None and end is not None and start > end:
        raise BadRequest("end is before start")
    symbols = _patterns(read.symbols, limits)
    return RangeQuery(feed, kind, symbols, start, end, read.limit, read.sort == "desc", read.page_token)


def _read(given: Given, what: type[Any]) -> Any:
    for name, values in given.items():
        if len(values) > 1:
            raise BadRequest(f"{name[:40]} is given {len(values)} times")
    try:
        # Numbers come as text; an empty value is none given.
        return msgspec.convert({name: values[0] for name, values in given.items() if values[0]}, what, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(_plainly(str(error))) from None


def _plainly(message: str) -> str:
    """What msgspec says, in the words of one who sent parameters."""
    message = message.replace("Object missing required field", "missing parameter")
    message = message.replace("Object contains unknown field", "unknown parameter")
    expected, at, path = message.partition(" - at `$.")
    return f"{path.rstrip('`')}: {expected}" if at else message


def _check_currency(read: Any) -> None:
    if read.currency not in (None, "USD"):
        raise BadRequest("currency: prices are given as the venue tells them")


def _patterns(text: str, limits: SymbolLimits) -> tuple[str, ...]:
    patterns = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if len(patterns) > limits.symbols:
        raise BadRequest(f"symbols: {len(patterns):,} are named, at most {limits.symbols:,} may be")
    for pattern in patterns:
        _check(pattern)
    if sum(map(is_glob, patterns)) > limits.globs:
        raise BadRequest(f"symbols: at most {limits.globs:,} may be globs")
    return patterns


def _check(pattern: str) -> None:
    try:
        check_pattern(pattern)
    except ValueError as error:
        raise BadRequest(f"invalid symbol: {error}") from None


def _time(name: str, text: str | None, of_day: int) -> int | None:
    """ns since the Unix epoch; of a day that time of it."""
    if text is None:
        return None
    if _DATE.fullmatch(text):
        try:
            day = datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)
            return _fitting(day.days * _DAY_NS + of_day)
        except ValueError:
            pass
    time_ns = time_from_text(text)
    if time_ns is None:
        raise BadRequest(f"{name} is an RFC 3339 time or a date (YYYY-MM-DD), not {text[:40]!r}")
    return _fitting(time_ns)


def _fitting(time_ns: int) -> int:
    """The nearest time that a tick may have: the year 9999 is not beyond what is meant, but beyond 64 bits."""
    return max(-_LARGEST, min(time_ns, _LARGEST))
