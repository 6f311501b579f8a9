"""Time, handed in: whoever needs it takes a Clock, so that a test can move it by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks in one: what time it is, and how much time has passed."""

    def now_ns(self) -> int:
        """Wall clock: ns since the Unix epoch, UTC. May jump."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment. Never goes back."""


class SystemClock:
    """The machine's clocks."""

    now_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)


class ManualClock:
    """A clock that stands until it is told to go on."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000, monotonic: float = 1_000.0) -> None:
        self._now_ns = now_ns
        self._monotonic = monotonic

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let that much time pass on both clocks."""
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds}")
        self._now_ns += round(seconds * 1e9)
        self._monotonic += seconds

    def set_wall(self, now_ns: int) -> None:
        """Set the wall clock alone, as an administrator may, to any time."""
        self._now_ns = now_ns
