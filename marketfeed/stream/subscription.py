"""What a subscriber wants: which instruments (:class:`Selection`), and how (:class:`Options`)."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from marketfeed.model.instruments import NAME_BYTES, InstrumentDirectory
from marketfeed.model.tick import QUOTE, TRADE

#: Name of each channel on the wire -> kind of tick.
CHANNELS = {"quotes": QUOTE, "trades": TRADE}

#: feed name, colon, symbol
_PATTERN_BYTES = 2 * NAME_BYTES + 1


@dataclass(frozen=True)
class Options:
    """How a subscriber wants its ticks. Equal options make equal groups."""

    #: None = every tick; else only the latest of each symbol, at most so often a second.
    max_hz: float | None = None

    def as_message(self) -> dict[str, Any]:
        """Those that were given, as in the `subscribe` command."""
        return {} if self.max_hz is None else {"max_hz": self.max_hz}


class Rule(NamedTuple):
    """One symbol or glob of one channel: taken, or left to another subscriber of the same session."""

    kind: int
    pattern: str
    take: bool


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
def _matcher(pattern: str) -> Callable[[str], object]:
    # The library's translation matches in one pass without backtracking; only * and ? are wild here.
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]"))).match


def _rank(glob: Rule) -> tuple[int, str]:
    """Smaller = more specific: the glob with the most letters of its own."""
    literal = len(glob.pattern) - glob.pattern.count("*") - glob.pattern.count("?")
    return -literal, glob.pattern


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

    def names(self) -> set[str]:
        """The plain symbols in it."""
        return {name for exact in self._exact.values() for name in exact}

    def has_globs(self) -> bool:
        """Whether an instrument of any name may come to be selected."""
        return any(take for globs in self._globs.values() for _, take in globs)

    def resolve(self, directory: InstrumentDirectory, begin: int = 0) -> list[tuple[int, int]]:
        """(kind, id) of all that it takes, of the instruments from id ``begin`` on.

        Costs as much as it has plain symbols and, for each glob, as there are instruments.
        """
        found = []
        for kind in CHANNELS.values():
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
            match = _matcher(pattern)
            if ":" in pattern:
                found = [i for i in mine if match(f"{feeds[feed_of[i]]}:{symbols[i]}") or match(symbols[i])]
            else:
                found = [i for i in mine if match(symbols[i])]
        if self.feed is not None:
            found = [i for i in found if feeds[feed_of[i]] == self.feed]
        return list(found)
