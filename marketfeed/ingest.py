"""The loop that runs the feeds: ask, screen, stamp, publish.

::

    feed.poll(now) ──batch──> screen ──> ts_recv, feed id ──> store.publish ──> on_publish (the hub wakes)

Feeds never wait for clients: what a feed gives is published at once, whoever listens.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Protocol

from marketfeed.feed import ControllableFeed, Feed, FeedError, run_control
from marketfeed.model.clock import Clock
from marketfeed.model.instruments import DirectoryFull
from marketfeed.model.screen import screen
from marketfeed.model.store import TickStore

log = logging.getLogger("marketfeed.ingest")

_BACKOFF_FIRST_S = 0.5
_BACKOFF_MOST_S = 30.0
#: A feed that gave ticks for so long starts its back-off anew.
_BACKOFF_RESET_S = 60.0


@dataclass
class FeedStats:
    """What one feed has done so far."""

    ticks: int = 0
    restarts: int = 0
    #: "waiting", "running", "backing off", "ended"
    state: str = "waiting"
    #: how many rows were refused, by reason
    refused: Counter[str] = field(default_factory=Counter)


class _Context:
    """What one feed gets to see: its own part of the directory, and its own counters."""

    def __init__(
        self, name: str, feed_id: int, store: TickStore, stats: FeedStats, on_end: Callable[[int], None]
    ) -> None:
        self._name = name
        self._feed_id = feed_id
        self._directory = store.directory
        self._stats = stats
        self._on_end = on_end

    def instrument(self, symbol: str) -> int | None:
        try:
            return self._directory.add(self._feed_id, symbol)
        except DirectoryFull as error:
            self.refuse("directory full", example=str(error))
        except ValueError as error:
            self.refuse("bad symbol", example=str(error))
        return None

    def refuse(self, reason: str, count: int = 1, example: str = "") -> None:
        if reason not in self._stats.refused:
            log.error("feed %s: refused: %s%s", self._name, reason, f": {example[:200]}" if example else "")
        self._stats.refused[reason] += count

    def rewound(self) -> None:
        self._on_end(self._feed_id)


def _nobody_asks(feed_id: int) -> None:
    """Where nobody wants to know that a feed's time ends."""


class Waiting(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """It is not to come any more."""


#: Calls a function after so many seconds. Whoever has one waits for one thing at a time.
Later = Callable[[float, Callable[[], None]], Waiting]


def call_later(seconds: float, call: Callable[[], None]) -> asyncio.Handle:
    """Have the running loop call it; where no time is left, in its next turn."""
    loop = asyncio.get_running_loop()
    # Loops count whole milliseconds: a wait that is rounded down ends too early, finds nothing due, and is followed by
    # one of zero, again and again.
    return loop.call_later(ceil(seconds * 1000) / 1000, call) if seconds > 0 else loop.call_soon(call)


def _nothing() -> None:
    """Nobody waits."""


class FeedRunner:
    """One feed on its way into the store. :meth:`step` is the whole of it; :meth:`run` only waits between steps.

    Args:
        on_publish: called after each batch that was published.
        on_end: called with the feed's id after the last tick of its time: it has ended, or a recording plays again.
        later: how :meth:`run` waits.
        jitter: picks a pause between two bounds, seconds.

    Raises:
        FeedError: from the constructor, when the feed cannot begin.
    """

    def __init__(
        self,
        name: str,
        feed: Feed,
        store: TickStore,
        clock: Clock,
        on_publish: Callable[[], None],
        *,
        on_end: Callable[[int], None] = _nobody_asks,
        later: Later = call_later,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.name = name
        self.stats = FeedStats()
        self._feed = feed
        self._store = store
        self._clock = clock
        self._on_publish = on_publish
        self._on_end = on_end
        #: set while the feed has ended
        self.ended = asyncio.Event()
        self._later = later
        #: ends the wait that there is
        self._wake: Callable[[], None] = _nothing
        self._jitter = jitter
        try:
            self._feed_id = store.directory.add_feed(name)
        except (ValueError, DirectoryFull) as error:
            raise FeedError(str(error)) from None
        self._context = _Context(name, self._feed_id, store, self.stats, on_end)
        feed.open(self._context, clock.now_ns())

    def step(self) -> int | None:
        """Ask once and publish what is given. Returns when to ask again, as :attr:`Poll.due_ns`."""
        now = self._clock.now_ns()
        batch, due = self._feed.poll(now)
        if len(batch):
            good, refused = screen(batch, now, len(self._store.directory))
            for reason, (count, first) in refused.items():
                self._context.refuse(reason, count, str(batch[first]))
            if good is not None:
                batch = batch[good]
        if len(batch):
            batch["feed"] = self._feed_id
            batch["ts_recv"] = now
            self._store.publish(batch)
            self.stats.ticks += len(batch)
            self._on_publish()
        return due

    @property
    def controls(self) -> tuple[str, ...]:
        """The names of what the feed can be told to do."""
        return tuple(c.name for c in self._feed.CONTROLS) if isinstance(self._feed, ControllableFeed) else ()

    def control(self, name: str, text: str | None) -> None:
        """Have the feed do what a user asks for, and go on at once. See :func:`run_control`.

        Raises:
            FeedError: it is not possible.
        """
        if self.stats.state == "backing off":
            raise FeedError("the feed has failed, and is about to be opened again")
        run_control(self._feed, name, text, self._clock.now_ns())
        self._wake()

    def progress(self) -> dict[str, Any]:
        """How a feed that takes controls says it stands; empty for others."""
        return dict(self._feed.progress(self._clock.now_ns())) if isinstance(self._feed, ControllableFeed) else {}

    async def run(self) -> None:
        """Step until the feed has ended; for ever, where controls may have it begin again.

        One that fails is opened again, after a pause that grows with full jitter.
        """
        #: set when a feed that has ended is told something
        told = asyncio.Event()
        failures = 0
        broken = False
        opened = self._clock.monotonic()
        while True:
            try:
                if broken:
                    self._feed.close()
                    self._feed.open(self._context, self._clock.now_ns())
                    broken = False
                    opened = self._clock.monotonic()
                self.stats.state = "running"
                await self._steps(told)
            except Exception:
                # Whatever is wrong with one feed, at its opening too, the others and the server go on.
                if not broken and self._clock.monotonic() - opened > _BACKOFF_RESET_S:
                    failures = 0
                broken = True
                self.stats.state = "backing off"
                self.stats.restarts += 1
                # Bounded before it is raised: 2.0 to the 1,024th is an error.
                wait = self._jitter(0.0, min(_BACKOFF_MOST_S, _BACKOFF_FIRST_S * 2.0 ** min(failures, 16)))
                failures += 1
                log.exception("feed %s: failed; opening it again in %.1f s", self.name, wait)
                paused = asyncio.Event()
                self._later(wait, paused.set)
                await paused.wait()
            else:
                self._on_end(self._feed_id)
                self.ended.set()
                log.info("feed %s: ended after %d ticks", self.name, self.stats.ticks)
                if not self.controls:
                    self._feed.close()
                    return
                await told.wait()
                self.ended.clear()

    async def _steps(self, told: asyncio.Event) -> None:
        """Step whenever the feed is to be asked, until it has ended.

        The loop calls each step itself: to wake a task for it would take another turn of the loop. So what a control
        that comes before the task goes on has to know is set by the step itself.

        Args:
            told: set by a control that comes after the end.
        """
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer: Waiting

        def step() -> None:
            nonlocal timer
            if ended.done():
                return
            try:
                due = self.step()
            except Exception as error:  # noqa: BLE001  # for whoever waits
                self.stats.state = "backing off"
                ended.set_exception(error)
                return
            if due is None:
                self.stats.state = "ended"
                told.clear()
                self._wake = told.set
                ended.set_result(None)
                return
            timer = self._later(max(0, due - self._clock.now_ns()) / 1e9, step)

        def wake() -> None:
            nonlocal timer
            timer.cancel()
            timer = self._later(0, step)

        self._wake = wake
        step()
        try:
            await ended
        finally:
            ended.cancel()  # the timer may still be there

    def close(self) -> None:
        """Let go of the feed."""
        self._feed.close()
