"""What a client is subscribed to, and up to which position it has each part of it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marketfeed.client.batch import Chunk
from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.messages import Bar, Gap, Heartbeat, Numbered, Place, Position, Quote, Rule, Trade, UpdatedBar
from marketfeed.model.tick import BAR, QUOTE, TRADE, UPDATED_BAR

#: (channel, symbol or glob)
Name = tuple[str, str]

#: The channel on which each type of message comes, and each kind of record.
CHANNELS: dict[type, str] = {Quote: "quotes", Trade: "trades", Bar: "bars", UpdatedBar: "updatedBars"}
_CHANNELS = {QUOTE: "quotes", TRADE: "trades", BAR: "bars", UPDATED_BAR: "updatedBars"}
BAR_CHANNELS = ("bars", "updatedBars")

#: In place of a part: none, and not looked up yet.
_NOBODY, _UNKNOWN = -1, -2

#: How many instruments' parts are remembered before they are looked up anew.
_OWNERS_KEPT = 65_536


@dataclass(frozen=True)
class Options:
    """How symbols are wanted."""

    #: None = every tick; else only the latest of each symbol, at most so often a second
    max_hz: float | None = None
    #: only ticks for which this holds; None = all
    where: str | None = None
    #: only these keys, sorted; None = all
    fields: tuple[str, ...] | None = None
    #: length of bars; None = of no bars, or as the server has it by default
    bar_seconds: int | None = None

    def as_wire(self) -> dict[str, Any]:
        """As the keys of a `subscribe` command."""
        given = {
            "max_hz": self.max_hz,
            "where": self.where,
            "fields": self.fields,
            "bar_seconds": self.bar_seconds,
        }
        return {key: value for key, value in given.items() if value is not None}

    def told(self, names: Iterable[Name], rules: Iterable[Rule]) -> Options:
        """The same as the server writes them in its answer for these symbols: equal ones are equal only then."""
        channel, pattern = next(iter(names))
        for rule in rules:
            if pattern in rule.names()[channel]:
                return replace(self, where=rule.where, fields=None if rule.fields is None else tuple(rule.fields))
        return self


@dataclass(eq=False)
class Part:
    """Symbols of one command, with their options and position: everything up to ``(epoch, position)`` has come.

    Where ``snapshot``, that is true only with the latest of each symbol up to there, which may not have come.
    """

    options: Options
    names: set[Name]
    epoch: int | None
    position: int
    snapshot: bool = False

    def arrive(self, seq: int, held: bool) -> None:
        """A tick of it has come.

        Args:
            held: the ticks with ``max_hz``, and those of a snapshot, do not tell now how far it is.
        """
        if held and (self.options.max_hz is not None or seq <= self.position):
            return
        self.position = max(self.position, seq)
        self.snapshot = False

    def reach(self, epoch: int, seq: int) -> None:
        """The server says that everything up to here has come."""
        if self.epoch == epoch and self.position <= seq:
            self.position, self.snapshot = seq, False

    @property
    def may_owe(self) -> bool:
        """Whether there may be a snapshot of it; of bars there is of those of 60 s only."""
        return self.options.max_hz is None and self.options.bar_seconds in (None, 60)

    def place(self) -> Position | None:
        """Where to resume it; None with a server that numbers nothing."""
        return None if self.epoch is None else Position(self.position, self.epoch)


class Parts:
    """All parts of one connection. Most clients have one; only with several must a tick be matched to its own.

    Each command makes a part of its own, because the server may serve each from its own place in the stream: only
    within a part do ticks come in the order of their numbers, so that the last one says what has come.
    """

    def __init__(self, feed: str = "") -> None:
        self._feed = feed
        self._parts: list[Part] = []
        self._owners: dict[tuple[type, str, str], Part | None] = {}
        #: kind -> by instrument id, the place of its part; of the ids of the table that is named with it
        self._places: dict[int, NDArray[np.int32]] = {}
        self._places_of: InstrumentTable | None = None
        #: see :class:`Place`: what comes now is not in order
        self.held = False
        #: The only part there is, if there is one only.
        self.sole: Part | None = None

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts)

    def add(self, part: Part, anew: bool) -> None:
        """Take a part in. A symbol that another part has moves to this one.

        Args:
            anew: also one with the same options; else such a one goes on where it is.
        """
        if not anew:
            for other in self._parts:
                if other.options == part.options:
                    part.names -= other.names
                elif part.may_owe and (other.snapshot or other.options.max_hz is not None):
                    # What was still to come of these comes behind the answer, as a snapshot does.
                    part.snapshot |= not part.names.isdisjoint(other.names)
        self.remove(part.names)
        if part.names:
            self._parts.append(part)
            self._changed()

    def remove(self, names: Iterable[Name]) -> None:
        """Forget these symbols."""
        gone = set(names)
        for part in self._parts:
            part.names -= gone
        self._parts = [part for part in self._parts if part.names]
        self._changed()

    def owner(self, tick: Numbered) -> Part | None:
        """The part that this tick was sent for."""
        key = (type(tick), tick.feed, tick.symbol)
        try:
            return self._owners[key]
        except KeyError:
            if len(self._owners) >= _OWNERS_KEPT:
                self._owners.clear()
            found = self._owners[key] = self._most_specific(CHANNELS[type(tick)], tick.symbol, tick.feed)
            return found

    def arrive(self, chunk: Chunk) -> None:
        """Move on to behind these records, each with its own part."""
        ticks = chunk.ticks
        if self.sole is not None:
            self.sole.arrive(int(ticks["seq"].max()), self.held)
            return
        reached = np.zeros(len(self._parts), np.uint64)
        for kind in np.flatnonzero(np.bincount(ticks["kind"])).tolist():
            mine = ticks[ticks["kind"] == kind]
            places = self._places_among(chunk.instruments, kind, mine["instrument"])
            somebodys = places != _NOBODY
            np.maximum.at(reached, places[somebodys], mine["seq"][somebodys])
        for place in np.flatnonzero(reached).tolist():
            self._parts[place].arrive(int(reached[place]), self.held)

    def _places_among(self, instruments: InstrumentTable, kind: int, ids: NDArray[np.uint32]) -> NDArray[np.int32]:
        """Which part the ticks of this kind and these instruments, shape (n,), were sent for."""
        if self._places_of is not instruments:
            self._places_of, self._places = instruments, {}
        table = self._places.get(kind, np.zeros(0, np.int32))
        needed = int(ids.max()) + 1
        if len(table) < needed:
            rest = np.full(2 * needed - len(table), _UNKNOWN, np.int32)
            table = self._places[kind] = np.concatenate((table, rest))
        for i in np.unique(ids[table[ids] == _UNKNOWN]).tolist():
            part = self._most_specific(_CHANNELS.get(kind, ""), *instruments[i])
            table[i] = _NOBODY if part is None else self._parts.index(part)
        return table[ids]

    def _most_specific(self, channel: str, symbol: str, feed: str) -> Part | None:
        """As the server decides between rules: a plain symbol before a glob, the more letters of its own the better."""
        full = f"{feed or self._feed}:{symbol}"
        for name in (full, symbol):
            for part in self._parts:
                if (channel, name) in part.names:
                    return part
        best: tuple[tuple[int, str], Part] | None = None
        for part in self._parts:
            for of, pattern in part.names:
                wild = pattern.count("*") + pattern.count("?")
                if not wild or of != channel:
                    continue
                rank = (wild - len(pattern), pattern)
                if best is not None and best[0] <= rank:
                    continue
                match = matcher(pattern)
                if match(symbol) or (":" in pattern and match(full)):
                    best = (rank, part)
        return best[1] if best else None

    def skip(self, gap: Gap) -> None:
        """Move on to behind what the server says is lost."""
        # What was lost by a move belongs to no part: the one moved to begins behind it, the others have yet to come.
        # What could not be written may be told before ticks that are older.
        if gap.last is None or gap.epoch is not None or gap.reason in ("moved", "internal"):
            return
        for part in self._parts:
            # Of several parts only those that had come so far are meant for certain.
            if part.position < gap.last and (part is self.sole or part.position >= gap.first - 1):
                part.position = gap.last

    def reach(self, told: Heartbeat | Place) -> None:
        """Move on to where the server says that everything has come: for long there may have been no tick."""
        if isinstance(told, Place):
            self.held = told.seq is None
        for part in self._parts:
            if told.seq is not None:
                part.reach(told.epoch, told.seq)

    def _changed(self) -> None:
        self._owners.clear()
        self._places.clear()
        self.sole = self._parts[0] if len(self._parts) == 1 else None

    def take_all(self) -> list[Part]:
        """Hand all parts out, those that stand at one position as one, and begin anew."""
        alike: dict[tuple[Options, int | None, int, bool], Part] = {}
        for part in self._parts:
            key = (part.options, part.epoch, part.position, part.snapshot)
            if key in alike:
                alike[key].names |= part.names
            else:
                alike[key] = part
        self._parts = []
        self.held = False
        self._changed()
        return list(alike.values())


@lru_cache(maxsize=4096)
def matcher(pattern: str) -> Callable[[str], object]:
    """Whether a name is of this symbol or glob, in which `*` and `?` are wild."""
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]"))).match
