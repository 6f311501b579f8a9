"""How much of the loop's time requests may take: one step at a time, a bounded number of them, each for so long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from marketfeed.server.history.steps import Steps

T = TypeVar("T")


@dataclass
class Stats:
    """Counters since the start."""

    #: requests that are being answered, or whose answer is not taken yet
    running: int = 0
    answered: int = 0
    #: there were too many
    refused: int = 0
    #: clients that did not take the answer in time
    cut: int = 0
    #: the longest that one step has kept the loop, ms
    longest_step_ms: float = 0.0


class TooMany(Exception):
    """There are as many requests as may be at a time."""


class Pace:
    """Runs the steps of all requests, one a turn of the loop: in between, ticks are streamed as if there were none.

    Args:
        requests: how many there may be at a time.
        clock: seconds.
    """

    def __init__(self, requests: int, clock: Callable[[], float]) -> None:
        self.stats = Stats()
        self.clock = clock
        self._requests = requests
        self._turn = asyncio.Lock()

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the requests that there may be at a time.

        Raises:
            TooMany: there is no place.
        """
        if self.stats.running >= self._requests:
            self.stats.refused += 1
            raise TooMany
        self.stats.running += 1
        try:
            yield
        finally:
            self.stats.running -= 1

    async def run(self, work: Steps[T]) -> T:
        """Do all steps of this work. Who else is waiting for a step is next after each."""
        while True:
            async with self._turn:
                begun = self.clock()
                try:
                    next(work)
                except StopIteration as done:
                    result: T = done.value
                    return result
                finally:
                    took = (self.clock() - begun) * 1000
                    self.stats.longest_step_ms = max(self.stats.longest_step_ms, took)
                # The turn is kept: whatever else the loop has to do comes before the next step of anybody.
                await asyncio.sleep(0)
