"""Runs the stage that makes bars on the event loop: soon after ticks were published, many batches at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from marketfeed.bars import BarStage

log = logging.getLogger("marketfeed.bars")

#: A bar is told at most so long after the tick that ended it.
_WAIT_SECONDS = 0.05
#: And so long where nobody is subscribed to bars: a run costs some hundred ticks, whatever there is for it.
_UNWATCHED_SECONDS = 1.0
#: Nothing is waited for where more than this part of the ring has been published meanwhile.
_MOST_OF_RING = 4


class BarDriver:
    """Calls :meth:`BarStage.run` after ticks were published.

    Args:
        on_bars: called when bars were published.
    """

    def __init__(
        self, stage: BarStage, capacity: int, loop: asyncio.AbstractEventLoop, on_bars: Callable[[], None]
    ) -> None:
        self.stage = stage
        self._most = capacity // _MOST_OF_RING
        self._loop = loop
        self._on_bars = on_bars
        self._timer: asyncio.TimerHandle | None = None
        self._unwatched = False

    def published(self) -> None:
        """Ticks were published. Cheap: many make one run."""
        if self.stage.backlog > self._most:
            self.run()
        elif self._timer is None:
            self._unwatched = not self.stage.watched
            self._timer = self._loop.call_later(_UNWATCHED_SECONDS if self._unwatched else _WAIT_SECONDS, self.run)
        elif self._unwatched and self.stage.watched:
            self.run()

    def ended(self, feed: int) -> None:
        """A feed has given the last tick of its time."""
        self._do(lambda: self.stage.end(feed))

    def run(self) -> None:
        """Now. To be called once a second too, for bars of feeds that are quiet."""
        self.close()
        self._do(self.stage.run)

    def _do(self, do: Callable[[], bool]) -> None:
        try:
            told = do()
        except Exception:
            # A defect, but of bars alone: ticks go on.
            log.exception("bars could not be made")
            return
        if told:
            self._on_bars()

    def close(self) -> None:
        """Wait for nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
