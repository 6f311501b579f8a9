"""What a subscriber wants: which instruments (:class:`Selection`), and how (:class:`Options`)."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.bars import BAR_RECORD, DEFAULT_SECONDS
from marketfeed.model.instruments import NAME_BYTES, InstrumentDirectory
from marketfeed.model.tick import BAR, QUOTE, TRADE, UPDATED_BAR, Ticks
from marketfeed.stream.where import Where

#: Name of each channel on the wire -> kind of record.
CHANNELS = {"quotes": QUOTE, "trades": TRADE, "bars": BAR, "updatedBars": UPDATED_BAR}
#: The kinds that are bars.
BARS = frozenset((BAR, UPDATED_BAR))

#: feed name, colon, symbol
_PATTERN_BYTES = 2 * NAME_BYTES + 1


@dataclass(frozen=True)
class Options:
    """How a subscriber wants its ticks. Equal options make equal groups."""

    #: None = every tick; else only the latest of each symbol, at most so often a second.
    max_hz: float | None = None
    #: only ticks for which this holds; None = all
    where: Where | None = None
    #: only these keys of a message, and those that it always has; None = all
    fields: frozenset[str] | None = None
    #: of bars: only those of this length, s
    bar_seconds: int = DEFAULT_SECONDS

    def as_message(self) -> dict[str, Any]:
        """Those that were given, as in the `subscribe` command; the condition in its canonical form."""
        given: dict[str, Any] = {}
        if self.max_hz is not None:
            given["max_hz"] = self.max_hz
        if self.where is not None:
            given["where"] = self.where.canonical
        if self.fields is not None:
            given["fields"] = sorted(self.fields)
        if self.bar_seconds != DEFAULT_SECONDS:
            given["bar_seconds"] = self.bar_seconds
        return given


class Rule(NamedTuple):
    """One symbol or glob of one channel: taken, or left to another subscriber of the same session."""

    kind: int
    pattern: str
    take: bool


class Condition(Protocol):
    """Says which of the records that a group's selection takes it wants. Equal ones are equal, and hash so."""

    def holds(self, ticks: Ticks) -> NDArray[np.bool_]:
        """For which of these, shape (n,), TICK, it is true: shape (n,)."""


@dataclass(frozen=True)
class OfLength:
    """Bars of one length; of what is no bar, everything."""

    seconds: int

    def holds(self, ticks: Ticks) -> NDArray[np.bool_]:
        """For which of these, shape (n,), TICK, it is true: shape (n,)."""
        mine: NDArray[np.bool_] = (ticks["kind"] < BAR) | (ticks.view(BAR_RECORD)["seconds"] == self.seconds)
        return mine


def check_pattern(pattern: str) -> None:
    """See that this is a symbol or a glob.

    Raises:
        ValueError: it cannot name anything.
    """
    if not 0 < len(pattern.encode(errors="surrogatepass")) <= _PATTERN_BYTES:
        raise ValueError(f"a symbol has 1 to {_PATTERN_BYTES} bytes of UTF-8: {pattern[:_PATTERN_BYTES]!r}")
    if not pattern.isprintable() or any(c.isspace() or c == "," for c in pattern):
        raise ValueError(f"a symbol has no control characters, blanks or commas: {pattern!r}")


def is_glob(pattern: str) -> bool:
    """Whether it may name more than one symbol."""
    return "*" in pattern or "?" in pattern


@lru_cache(maxsize=4096)
def matcher(pattern: str) -> Callable[[str], object]:
    """Tells whether a name is meant by this glob, or by this plain symbol."""
    # The library's translation matches in one pass without backtracking; only * and ? are wild here.
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]"))).match


def _rank(glob: Rule) -> tuple[int, str]:
    """Smaller = more specific: the glob with the most letters of its own."""
    literal = len(glob.pattern) - glob.pattern.count("*") - glob.pattern.count("?")
    return -literal, glob.pattern


def covering(keys: set[tuple[int, str]], others: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """Those of the (kind, pattern) that may stand for an instrument that one of the others stands for too.

    Of two globs that is taken for granted: what they have in common may still be to come.
    """
    globs = [other for other in others if is_glob(other[1])]
    named = {(kind, pattern.rpartition(":")[2]) for kind, pattern in others if not is_glob(pattern)}

    def overlaps(kind: int, pattern: str) -> bool:
        if is_glob(pattern):
            return any(kind == k for k, _ in globs) or any(kind == k and _may_name(pattern, p) for k, p in named)
        return (kind, pattern.rpartition(":")[2]) in named or any(kind == k and _may_name(p, pattern) for k, p in globs)

    return {(kind, pattern) for kind, pattern in keys if overlaps(kind, pattern)}


def _may_name(glob: str, name: str) -> bool:
    """Whether an instrument of that name, of whichever feed, may be meant."""
    ends = {name, name.rpartition(":")[2]}
    return any(matcher(pattern)(end) for pattern in {glob, glob.rpartition(":")[2]} for end in ends)


class Selection:
    """Which instruments' ticks one subscriber takes: of all rules that match an instrument the most specific decides.

    A plain symbol is more specific than a glob, one that names its feed (``feed:SYMBOL``) more than one that does not,
    a glob with more letters of its own more than one with fewer. A glob with a colon is held against ``feed:SYMBOL``.

    Args:
        feed: only this feed's instruments; None = every feed's.
        rules: no two with the same kind and pattern.

    Two selections are equal when they select the same way; the order of the rules does not matter.
    """

    def __init__(self, feed: str | None, rules: Iterable[Rule]) -> None:
        self.feed = feed
        self.rules = frozenset(rules)
        self._hash = hash((feed, self.rules))
        # Of each kind: what its plain symbols say, and its globs from the most specific to the least.
        self._exact: dict[int, dict[str, bool]] = {kind: {} for kind in CHANNELS.values()}
        self._globs: dict[int, list[tuple[str, bool]]] = {kind: [] for kind in CHANNELS.values()}
        for rule in self.rules:
            if not is_glob(rule.pattern):
                self._exact[rule.kind][rule.pattern] = rule.take
        for rule in sorted((rule for rule in self.rules if is_glob(rule.pattern)), key=_rank):
            self._globs[rule.kind].append((rule.pattern, rule.take))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and self.feed == other.feed and self.rules == other.rules

    def takes_all(self, kind: int) -> bool:
        """Whether it takes every instrument of its feed (or of all feeds), whatever its name."""
        takes = [*self._exact[kind].values(), *(take for _, take in self._globs[kind])]
        return all(takes) and ("*", True) in self._globs[kind]

    def condition(self, options: Options) -> Condition | None:
        """What must hold for a record besides: None = nothing."""
        if any(rule.kind in BARS for rule in self.rules):
            return OfLength(options.bar_seconds)
        return options.where

    def names(self) -> set[str]:
        """The plain symbols in it."""
        return {name for exact in self._exact.values() for name in exact}

    def has_globs(self) -> bool:
        """Whether an instrument of any name may come to be selected."""
        return any(take for globs in self._globs.values() for _, take in globs)

    def all_of_kinds(self, directory: InstrumentDirectory) -> NDArray[np.bool_]:
        """Which (kind, instrument) it takes because it takes all of that kind, shape (kinds, capacity)."""
        mask = np.zeros((len(CHANNELS), directory.capacity), np.bool_)
        for kind in CHANNELS.values():
            if not self.takes_all(kind):
                continue
            if self.feed is None:
                mask[kind - QUOTE] = True
            elif self.feed in (feeds := directory.feeds()):
                mask[kind - QUOTE] |= directory.of_feed(feeds.index(self.feed))
        return mask

    def mask(self, directory: InstrumentDirectory) -> NDArray[np.bool_]:
        """Which (kind, instrument) it takes, shape (kinds, capacity)."""
        mask = self.all_of_kinds(directory)
        rest = [kind for kind in CHANNELS.values() if not self.takes_all(kind)]
        for kind, i in self.resolve(directory, kinds=rest):
            mask[kind - QUOTE, i] = True
        return mask

    def resolve(
        self, directory: InstrumentDirectory, begin: int = 0, kinds: Iterable[int] = tuple(CHANNELS.values())
    ) -> list[tuple[int, int]]:
        """(kind, id) of all that it takes of these kinds, of the instruments from id ``begin`` on.

        Costs as much as it has plain symbols and, for each glob, as there are instruments.
        """
        found = []
        for kind in kinds:
            decided: dict[int, bool] = {}
            for i, take in self._named(directory, self._exact[kind]):
                if i >= begin:
                    decided.setdefault(i, take)
            for pattern, take in self._globs[kind]:
                for i in self._matching(directory, pattern, begin):
                    decided.setdefault(i, take)
            found += [(kind, i) for i, take in decided.items() if take]
        return found

    def _named(self, directory: InstrumentDirectory, exact: dict[str, bool]) -> Iterable[tuple[int, bool]]:
        """Instruments of plain symbols; those that name their feed first, for they are more specific."""
        feeds = [(i, name) for i, name in enumerate(directory.feeds()) if self.feed in (None, name)]
        for name, take in exact.items():
            prefix, colon, symbol = name.partition(":")
            for feed_id, feed in feeds:
                if colon and prefix == feed and (i := directory.find(feed_id, symbol)) is not None:
                    yield i, take
        for name, take in exact.items():
            for feed_id, _ in feeds:
                if (i := directory.find(feed_id, name)) is not None:
                    yield i, take

    def _matching(self, directory: InstrumentDirectory, pattern: str, begin: int) -> list[int]:
        symbols, feed_of, feeds = directory.symbols(), directory.feed_of(), directory.feeds()
        mine = range(begin, len(symbols))
        found: Iterable[int] = mine
        if pattern != "*":
            match = matcher(pattern)
            if ":" in pattern:
                found = [i for i in mine if match(f"{feeds[feed_of[i]]}:{symbols[i]}") or match(symbols[i])]
            else:
                found = [i for i in mine if match(symbols[i])]
        if self.feed is not None:
            found = [i for i in found if feeds[feed_of[i]] == self.feed]
        return list(found)
