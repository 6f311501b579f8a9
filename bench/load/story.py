"""What one connection was told from its first byte on, held against a market that is known."""

from __future__ import annotations

import json
from pathlib import Path

from bench.load.ticks import Market
from bench.load.verify import Problem
from bench.load.wire import PING, TEXT, frames

#: of each type of update, and of the market's kinds: 1 quote, 2 trade.
_NUMBERS = {"q": ("bp", "bs", "ap", "as"), "t": ("p", "s")}
_TYPES = {1: "q", 2: "t"}
_START_NS = 1_700_000_000_000_000_000

#: (type, symbol) -> sequence number and numbers of its last tick.
State = dict[tuple[str, str], tuple[int, tuple[float, ...]]]


def record(market: Market, path: Path) -> None:
    """Write a market as a CSV that marketfeed replays: its row i then is sequence number i + 1."""
    lines = ["timestamp,symbol,bid,bid_size,ask,ask_size,price,size"]
    for ns, symbol, kind, *numbers in market.rows.tolist():
        wide = ",".join(map(repr, numbers))
        cells = f"{wide},," if kind == 1 else f",,,,{numbers[0]!r},{numbers[1]!r}"
        lines.append(f"{_START_NS + int(ns)},{market.symbols[int(symbol)]},{cells}")
    path.write_text("\n".join(lines) + "\n")


def ticks_of(market: Market) -> list[tuple[str, str, tuple[float, ...]]]:
    """Type, symbol and numbers of each of a market's ticks."""
    found = []
    for _, symbol, kind, *numbers in market.rows.tolist():
        name = _TYPES[int(kind)]
        found.append((name, market.symbols[int(symbol)], tuple(numbers[: len(_NUMBERS[name])])))
    return found


class Story:
    """Everything in the whole frames that one connection read, told in order.

    Args:
        data: all that was read, from the first frame on.
        every: it asked for all of every tick, so that each sequence number must be a tick or lie in a gap.
        ticks: of the market that the server played, if it is known; each update is held against it.

    Raises:
        Problem: an error message, no answer to a subscription, or frames that are not expected at all.
    """

    def __init__(
        self, data: bytes | bytearray, every: bool, ticks: list[tuple[str, str, tuple[float, ...]]] | None = None
    ) -> None:
        self.ticks = 0
        self.gaps: list[tuple[int, int]] = []
        self.state: State = {}
        #: where the subscription began, and all up to here was told; -1 = it is not yet answered
        self.begin = self.seq = -1
        #: the widest step from one frame to the next, in ticks: of a throttled client, what it was spared
        self.widest = 0
        #: the first place where something is missing, comes twice, or is not what the market was
        self.problem = ""
        self._every = every
        self._market = ticks
        for opcode, payload, _ in frames(data):
            if opcode == PING:
                continue
            if opcode != TEXT:
                raise Problem(f"the server sent a frame of opcode {opcode}: {payload[:80]!r}")
            before = self.seq
            for message in json.loads(payload):
                self._tell(message)
            if before > 0:
                self.widest = max(self.widest, self.seq - before)
        if self.seq < 0:
            raise Problem("a subscription was not answered")

    @property
    def lost(self) -> int:
        """How many ticks lie in gaps."""
        return sum(last - first + 1 for first, last in self.gaps)

    def wrong(self) -> int:
        """How many of the last quotes and trades are not the market's own, once it has ended."""
        truth: State = {}
        for seq, (kind, symbol, numbers) in enumerate(self._market or (), 1):
            truth[kind, symbol] = seq, numbers
        return sum(self.state.get(key) != truth.get(key) for key in self.state.keys() | truth.keys())

    def _tell(self, message: dict[str, object]) -> None:
        kind = str(message["T"])
        if kind == "error":
            raise Problem(f"the server said {message}")
        if kind == "subscription":
            self.begin = _int(message["seq"])
            # A snapshot comes before this position.
            self.seq = self.begin if self._every else 0
            return
        if kind == "gap":
            self._follow(_int(message["from"]), _int(message["to"]))
            self.gaps.append((_int(message["from"]), self.seq))
        elif kind in _NUMBERS:
            seq = _int(message["seq"])
            self._follow(seq, seq)
            self.ticks += 1
            update = kind, str(message["S"]), tuple(float(str(message[name])) for name in _NUMBERS[kind])
            self.state[update[:2]] = seq, update[2]
            if self._market is not None and self._market[seq - 1 : seq] != [update]:
                self.problem = self.problem or f"seq {seq:,} was not {update}"

    def _follow(self, first: int, last: int) -> None:
        if first != self.seq + 1 if self._every else first <= self.seq:
            self.problem = self.problem or f"after seq {self.seq:,} came {first:,}"
        self.seq = last


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise Problem(f"not a sequence number: {value!r}")
    return value
