"""A real server whose only feed does as a test says: one line on its standard input is one batch of ticks."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from subprocess import PIPE
from typing import Any, ClassVar

from marketfeed.feed import FeedContext, Option, Poll
from marketfeed.model import QUOTE, TRADE, empty_ticks
from marketfeed.server.config import Config, load
from marketfeed.server.run import serve
from tests.integration.nursery import Process
from tests.integration.processes import process, without

#: (symbol, "q" or "t", price)
Tick = tuple[str, str, float]

_POLL_NS = 2_000_000


class DrivenFeed:
    """Gives the batches that stand on a file descriptor, one a poll."""

    OPTIONS: ClassVar[tuple[Option, ...]] = ()
    SUMMARY = "ticks that a test writes"
    name = "driven"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._read = b""
        self._context: FeedContext

    def build(self) -> DrivenFeed:
        """It is its own specification, which needs no entry point."""
        return self

    def open(self, context: FeedContext, now_ns: int) -> None:
        self._context = context
        os.set_blocking(self._descriptor, False)

    def poll(self, now_ns: int) -> Poll:
        with contextlib.suppress(BlockingIOError):
            self._read += os.read(self._descriptor, 1 << 20)
        line, end, rest = self._read.partition(b"\n")
        if not end:
            return Poll(empty_ticks(0), now_ns + _POLL_NS)
        self._read = rest
        ticks = json.loads(line)
        batch = empty_ticks(len(ticks))
        for row, (symbol, kind, price) in zip(batch, ticks, strict=True):
            row["instrument"], row["ts_event"] = self._context.instrument(symbol), now_ns
            row["kind"] = QUOTE if kind == "q" else TRADE
            if kind == "q":
                row["bid"], row["bid_size"], row["ask"], row["ask_size"] = price, 1, price + 1, 2
            else:
                row["price"], row["size"] = price, 1
        return Poll(batch, now_ns + _POLL_NS)

    def close(self) -> None:
        """The descriptor is the process's."""


@dataclass
class Driven:
    """A running server, and what has been published on it."""

    address: str
    running: Process
    #: number n stands at n - 1
    ticks: list[Tick] = field(default_factory=list)

    def publish(self, *ticks: Tick) -> int:
        """One batch, which the server has soon. Returns the last one's sequence number."""
        assert self.running.stdin is not None
        self.running.stdin.write(json.dumps(ticks) + "\n")
        self.running.stdin.flush()
        self.ticks += ticks
        return len(self.ticks)

    def terminate(self) -> None:
        """Ask it to go down."""
        self.running.terminate()


@contextlib.contextmanager
def driven(at: str = "0", transports: Collection[str] = (), **settings: Any) -> Iterator[Driven]:
    """A real server with these settings; it is killed in the end, unless it was told to go down before.

    Args:
        transports: those that take long to load, and that a test needs.
    """
    # Numbers are those of the ticks alone: bars that end meanwhile would take some.
    arguments = json.dumps({"port": int(at), "minute_bars": "wanted", "without": without(*transports), **settings})
    with process("tests.conformance.driven", arguments, stdin=PIPE) as running:
        assert running.stdout is not None
        yield Driven(running.stdout.readline().strip(), running)


if __name__ == "__main__":
    values = load(None, json.loads(sys.argv[1]), ()).values
    serve(Config(values, (DrivenFeed(sys.stdin.fileno()),)), lambda address: print(address, flush=True))  # type: ignore[arg-type]  # a feed that specifies itself
