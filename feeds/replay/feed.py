"""The feed: what to play, when."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from feeds.replay.merge import Merge, start_of
from feeds.replay.readers import Settings
from feeds.replay.readers.times import UNITS
from feeds.replay.targets import sources_of
from marketfeed.feed import FeedContext, Option, Poll
from marketfeed.model.tick import Ticks, empty_ticks

log = logging.getLogger("feeds.replay")

_NONE = empty_ticks(0)
_NO_DUES = np.empty(0, np.int64)
#: A wait of this long or longer is logged.
_LONG_WAIT_NS = 60 * 10**9
#: Between the passes of a recording whose ticks are all of one time.
_SECOND_NS = 10**9
#: More than a century: further off nothing is told apart.
_FAR_NS = 4 * 10**18


def _speed(text: str) -> float:
    if text == "max":
        return math.inf
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ValueError("a factor above 0, or max, is wanted")
    return factor


def _truth(text: str) -> bool:
    if text.lower() in ("true", "yes", "1", "on", ""):
        return True
    if text.lower() in ("false", "no", "0", "off"):
        return False
    raise ValueError("true or false is wanted")


def _patterns(text: str) -> tuple[str, ...]:
    patterns = tuple(part.strip() for part in text.split(",") if part.strip())
    if not patterns:
        raise ValueError("symbols or globs are wanted, with commas between")
    return patterns


def _zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError("a time zone such as America/New_York is wanted") from None


def _unit(text: str) -> str:
    if text not in UNITS:
        raise ValueError(f"one of {', '.join(UNITS)} is wanted")
    return text


class _Chosen:
    """The context as the readers see it: only the wanted symbols have an instrument."""

    def __init__(self, context: FeedContext, patterns: tuple[str, ...]) -> None:
        self.refuse = context.refuse
        self.rewound = context.rewound
        self._context = context
        self._patterns = patterns

    def wants(self, symbol: str) -> bool:
        """Whether ticks of this symbol are to be played."""
        return not self._patterns or any(fnmatchcase(symbol, pattern) for pattern in self._patterns)

    def instrument(self, symbol: str, rows: int) -> int:
        """The id of a symbol that so many rows have; -1 = not wanted, or refused."""
        if not self.wants(symbol):
            return -1
        number = self._context.instrument(symbol)
        if number is None:
            # Why, the context has counted; this is how many ticks it cost.
            self.refuse("tick of a refused symbol", rows, symbol)
            return -1
        return number


class ReplayFeed:
    """Plays recorded ticks: the first at once, every other one when it is due.

    Tick i is due at ``start + (t_i - t_first) / speed``; one that is earlier than a tick before it in its file, right
    after that. With ``speed=max`` each poll gives the next batch. With ``loop`` the recording begins again when it has
    ended, after a pause as long as the ticks are apart on average; ``ts_event`` is the recorded time in every pass.

    Raises:
        FeedError: from the constructor and :meth:`open`: a target that is not there, cannot be read, or is none of the
            formats.
    """

    SUMMARY: ClassVar[str] = "recorded ticks: CSV, Parquet, QuantConnect Lean, Binance, Databento DBN"
    OPTIONS: ClassVar[tuple[Option, ...]] = (
        Option("speed", _speed, 1.0, "how many times faster than recorded, or max"),
        Option("loop", _truth, False, "begin again at the end"),
        Option("symbol", _patterns, (), "only these symbols: names or globs, with commas between"),
        Option("as", str, None, "the symbol of a recording that names none (default: the file's name)"),
        Option("tz", _zone, None, "the zone of recorded times that name none, such as America/New_York (default: UTC)"),
        Option("time_unit", _unit, None, "the unit of times that are numbers: s, ms, us, ns (default: by magnitude)"),
    )

    def __init__(self, target: str, options: Mapping[str, Any]) -> None:
        self._speed: float = options["speed"]
        self._loop: bool = options["loop"]
        self._symbols: tuple[str, ...] = options["symbol"]
        settings = Settings(options["time_unit"], options["tz"], options["as"])
        self._sources = sources_of(target, settings)
        self._starts: list[int | None] | None = None
        self._context: _Chosen | None = None
        self._merge: Merge | None = None
        self._rewind(0)

    def open(self, context: FeedContext, now_ns: int) -> None:
        """Begin, at this time."""
        self.close()
        if self._count:
            context.rewound()
        if self._starts is None:
            self._starts = [start_of(source, now_ns) for source in self._sources]
        self._context = _Chosen(context, self._symbols)
        self._rewind(now_ns)
        self._merge = Merge(self._sources, self._starts, self._context)

    def _rewind(self, start_ns: int) -> None:
        #: when the first tick of this pass is due
        self._start = start_ns
        #: the time of the first tick of this pass
        self._first: int | None = None
        #: how many ticks this pass gave
        self._count = 0
        #: when the last of them was due
        self._last_due = start_ns
        self._ticks: Ticks = _NONE
        self._dues: NDArray[np.int64] = _NO_DUES
        self._at = 0
        self._told: int | None = None

    def poll(self, now_ns: int) -> Poll:
        """What is due at this time: some thousands of ticks at the most, the rest at the next poll."""
        if self._merge is None:
            return Poll(_NONE, None)
        if self._at == len(self._ticks):
            read = self._merge.read(now_ns)
            if read is None:
                return Poll(_NONE, now_ns if self._again() else None)
            self._ticks, self._dues = read[0], self._due(read[1], now_ns)
            self._at = 0
        begin = self._at
        # The clock may have been set back: what has been played is not played again.
        self._at = max(begin, int(np.searchsorted(self._dues, now_ns, "right")))
        if self._at > begin:
            self._count += self._at - begin
            self._last_due = int(self._dues[self._at - 1])
        due = now_ns
        if self._at < len(self._ticks):
            due = int(self._dues[self._at])
            self._tell_wait(due, now_ns)
        return Poll(self._ticks[begin : self._at], due)

    def _due(self, keys: NDArray[np.int64], now_ns: int) -> NDArray[np.int64]:
        """When ticks of these times are due."""
        if not len(keys):
            return _NO_DUES
        if self._first is None:
            self._first = int(keys[0])
        if math.isinf(self._speed):
            return np.full(len(keys), min(self._start, now_ns))
        after = np.ceil((keys - self._first) / self._speed)
        return self._start + np.minimum(after, _FAR_NS).astype(np.int64)

    def _again(self) -> bool:
        """All has been played: begin again if that is wanted."""
        assert self._merge is not None
        self._merge.close()
        self._merge = None
        if not self._loop or not self._count:
            if not self._count:
                log.warning("the recording has no ticks%s", f" of {', '.join(self._symbols)}" if self._symbols else "")
            return False
        # As far apart as the ticks are on average; a second where all are of one time.
        gap = (self._last_due - self._start) // max(1, self._count - 1) or round(min(_FAR_NS, _SECOND_NS / self._speed))
        assert self._starts is not None
        assert self._context is not None
        self._context.rewound()
        self._merge = Merge(self._sources, self._starts, self._context)
        self._rewind(self._last_due + gap)
        return True

    def _tell_wait(self, due_ns: int, now_ns: int) -> None:
        if due_ns - now_ns >= _LONG_WAIT_NS and due_ns != self._told:
            self._told = due_ns
            log.info(
                "the recording has nothing for the next %.0f s (at speed %g)", (due_ns - now_ns) / 1e9, self._speed
            )

    def close(self) -> None:
        """Let go of the files."""
        if self._merge is not None:
            self._merge.close()
            self._merge = None
