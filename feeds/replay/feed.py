"""The feed: what to play, when."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from feeds.replay import options as read
from feeds.replay.merge import Merge, start_of
from feeds.replay.pace import FAR_NS, Pace
from feeds.replay.readers import Settings
from feeds.replay.targets import sources_of
from marketfeed.feed import Control, FeedContext, FeedError, Option, Poll
from marketfeed.model.tick import Ticks, empty_ticks

log = logging.getLogger("feeds.replay")

_NONE = empty_ticks(0)
_NO_TIMES = np.empty(0, np.int64)
#: A wait of this long or longer is logged.
_LONG_WAIT_NS = 60 * 10**9
#: Between the passes of a recording whose ticks are all of one time.
_SECOND_NS = 10**9
#: While it is paused it is asked so seldom: a control wakes it.
_PAUSED_NS = 3_600 * 10**9


class _Chosen:
    """The context as the readers see it: only the wanted symbols have an instrument."""

    def __init__(self, context: FeedContext, settings: Settings) -> None:
        self.refuse = context.refuse
        self.rewound = context.rewound
        self.wants = settings.wants
        self._context = context

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

    With ``start`` and ``seek`` it is that time which is due at once, or the recording's beginning where that is later:
    so two replays that start at the same time keep step, but for what it takes to find the place.

    Raises:
        FeedError: from the constructor and :meth:`open`: a target that is not there, cannot be read, or is none of the
            formats.
    """

    SUMMARY: ClassVar[str] = "recorded ticks: CSV, Parquet, QuantConnect Lean, Binance, Databento DBN"
    OPTIONS: ClassVar[tuple[Option, ...]] = read.OPTIONS
    CONTROLS: ClassVar[tuple[Control, ...]] = (
        Control("pause", None, "stand still"),
        Control("resume", None, "go on from there"),
        Control("seek", read.moment, "go on from this time of the recording, before or after the present one"),
        Control("speed", read.speed, "go on so many times faster than recorded, or max"),
    )

    def __init__(self, target: str, options: Mapping[str, Any]) -> None:
        self._loop: bool = options["loop"]
        self._zone = options["tz"]
        self._begin, self._end = (
            None if options[name] is None else self._moment(options[name]) for name in ("start", "end")
        )
        if self._begin is not None and self._end is not None and self._begin >= self._end:
            raise FeedError(f"start={options['start']} is not before end={options['end']}")
        self._pace = Pace(options["speed"])
        self._settings = Settings(
            time_unit=options["time_unit"],
            zone=options["tz"],
            symbol=options["as"],
            feed=options["feed"],
            clock=options["clock"],
            symbols=options["symbol"],
        )
        self._sources = sources_of(target, self._settings)
        self._starts: list[int | None] | None = None
        self._context: _Chosen | None = None
        self._merge: Merge | None = None
        self._rewind(0, None)

    def _moment(self, text: str) -> int:
        return read.moment_ns(text, self._zone)

    def open(self, context: FeedContext, now_ns: int) -> None:
        """Begin, at this time."""
        self.close()
        if self._starts is None:
            self._starts = [start_of(source, now_ns, self._settings.clock) for source in self._sources]
        self._context = _Chosen(context, self._settings)
        self._pace.paused = False
        self._play_from(self._begin, now_ns)

    def _play_from(self, moment: int | None, start_ns: int) -> None:
        """Have this time of the recording (None = its first tick) due at that time."""
        assert self._starts is not None
        assert self._context is not None
        self.close()
        if self._count:
            self._context.rewound()
        if moment is not None:
            moment = max(moment, min((start for start in self._starts if start is not None), default=moment))
        self._rewind(start_ns, moment)
        self._merge = Merge(self._sources, self._starts, self._context, self._settings.clock, moment)

    def _rewind(self, start_ns: int, moment: int | None) -> None:
        self._pace.begin(start_ns, moment)
        #: ticks before this time are yet to be passed over; None = they have been
        self._skip_to = moment
        #: the time of the first and the last tick that this pass gave, and how many those were
        self._first: int | None = None
        self._last: int | None = moment
        self._count = 0
        #: when the last of them was due
        self._last_due = start_ns
        self._ticks: Ticks = _NONE
        self._keys: NDArray[np.int64] = _NO_TIMES
        self._dues: NDArray[np.int64] = _NO_TIMES
        self._at = 0
        #: what is left of the recording is not wanted
        self._over = False
        self._told: int | None = None

    def poll(self, now_ns: int) -> Poll:
        """What is due at this time: some thousands of ticks at the most, the rest at the next poll."""
        if self._merge is None:
            return Poll(_NONE, None)
        if self._pace.paused:
            return Poll(_NONE, now_ns + _PAUSED_NS)
        if self._at == len(self._ticks):
            found = None if self._over else self._merge.read(now_ns)
            if found is None:
                return Poll(_NONE, now_ns if self._again() else None)
            self._ticks, self._keys = self._within(*found, now_ns)
            self._dues = self._pace.due(self._keys, now_ns) if len(self._keys) else _NO_TIMES
            self._at = 0
        begin = self._at
        # The clock may have been set back: what has been played is not played again.
        self._at = max(begin, int(np.searchsorted(self._dues, now_ns, "right")))
        if self._at > begin:
            self._count += self._at - begin
            self._last_due = int(self._dues[self._at - 1])
            self._last = int(self._keys[self._at - 1])
            self._first = int(self._keys[begin]) if self._first is None else self._first
        due = now_ns
        if self._at < len(self._ticks):
            due = int(self._dues[self._at])
            self._tell_wait(due, now_ns)
        return Poll(self._ticks[begin : self._at], due)

    def _within(self, ticks: Ticks, keys: NDArray[np.int64], now_ns: int) -> tuple[Ticks, NDArray[np.int64]]:
        """What of them is to be played."""
        begin, end = 0, len(keys)
        if self._skip_to is not None and end:
            begin = int(np.searchsorted(keys, self._skip_to))
            if begin < end:
                # What the way there took is not to be caught up with.
                self._pace.begin(max(now_ns, self._pace.start), self._skip_to)
                self._skip_to = None
        if self._end is not None and end and keys[-1] >= self._end:
            end = max(begin, int(np.searchsorted(keys, self._end)))
            self._over = True
        return ticks[begin:end], keys[begin:end]

    def _again(self) -> bool:
        """All has been played: begin again if that is wanted."""
        self.close()
        if not self._loop or not self._count:
            if not self._count:
                log.warning("the recording has no ticks%s", self._wanted())
            return False
        assert self._first is not None
        assert self._last is not None
        # As far apart as the ticks are on average; a second where all are of one time.
        gap = (self._last - self._first) // max(1, self._count - 1) or _SECOND_NS
        self._play_from(self._begin, self._last_due + round(min(FAR_NS, gap / self._pace.speed)))
        return True

    def _wanted(self) -> str:
        symbols = self._settings.symbols
        of = f" of {', '.join(symbols)}" if symbols else ""
        return of + (" in the time that is wanted" if self._begin is not None or self._end is not None else "")

    def _tell_wait(self, due_ns: int, now_ns: int) -> None:
        if due_ns - now_ns >= _LONG_WAIT_NS and due_ns != self._told:
            self._told = due_ns
            wait = (due_ns - now_ns) / 1e9
            log.info("the recording has nothing for the next %.0f s (at speed %g)", wait, self._pace.speed)

    def control(self, name: str, value: Any, now_ns: int) -> None:
        """Pause, resume, seek, or change the speed: see CONTROLS."""
        if name == "seek":
            moment = self._moment(value)
            if self._end is not None and moment >= self._end:
                raise FeedError(f"{value} is not before end")
            self._play_from(moment if self._begin is None else max(moment, self._begin), now_ns)
            return
        more: dict[str, Any] = {"speed": value} if name == "speed" else {"paused": name == "pause"}
        self._pace.change(now_ns, self._time(now_ns), **more)
        # Of what has been read, the rest is due at other times now.
        if self._at < len(self._keys):
            self._dues[self._at :] = self._pace.due(self._keys[self._at :], now_ns)
        self._last_due = max(self._last_due, now_ns)

    def progress(self, now_ns: int) -> dict[str, Any]:
        """State, speed, the time of the recording that is being played, and how many ticks this pass gave."""
        ended = self._merge is None
        paused, seeking = self._pace.paused, self._skip_to is not None
        return {
            "state": "ended" if ended else "paused" if paused else "seeking" if seeking else "playing",
            "speed": "max" if math.isinf(self._pace.speed) else self._pace.speed,
            "time": _text(self._last if ended else self._time(now_ns)),
            "start": _text(self._begin),
            "end": _text(self._end),
            "loop": self._loop,
            "ticks": self._count,
        }

    def _time(self, now_ns: int) -> int | None:
        """Which time of the recording it is; None = its first tick is yet to come."""
        if self._skip_to is not None:
            return self._skip_to
        time = self._pace.time(now_ns)
        if time is None:
            return self._last
        # One that cannot keep up has not come further than its next tick.
        return min(time, int(self._keys[self._at])) if self._at < len(self._keys) else time

    def close(self) -> None:
        """Let go of the files."""
        if self._merge is not None:
            self._merge.close()
            self._merge = None


def _text(ns: int | None) -> str | None:
    return None if ns is None else f"{np.datetime_as_string(np.datetime64(ns, 'ns'))}Z"
