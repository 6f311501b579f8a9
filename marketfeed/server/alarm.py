"""How a feed is called again in time: without rounding, and without a new timer of the loop for each wait.

A timer of the loop is an object to make for each wait, takes one more turn of the loop to give back, and counts in
whole milliseconds; and feeds wait two hundred times a second. A timerfd(2) is there once, and is only set.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import Callable

from marketfeed.ingest import call_later

log = logging.getLogger("marketfeed.alarm")

# From bits/timerfd.h and time.h of Linux, the same on every architecture but for O_NONBLOCK, which `os` knows.
_CLOCK_MONOTONIC = 1


class Alarm:
    """Calls a function once after some time; whatever it was to call before, it does not call any more.

    Args:
        loop: which calls it.

    Raises:
        OSError, AttributeError: this system has no timerfd.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._set_time = libc.timerfd_settime
        self._fd = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        #: struct itimerspec: the interval (none) and the time, each in s and ns
        self._time = (ctypes.c_long * 4)()
        self._call: Callable[[], None] | None = None
        self._loop = loop
        loop.add_reader(self._fd, self._ring)

    def __call__(self, seconds: float, call: Callable[[], None]) -> Alarm:
        """Call this after so many seconds, never sooner."""
        self._call = call
        # A time of 0 would stop it.
        self._set(max(1, -int(-seconds * 1e9 // 1)))
        return self

    def cancel(self) -> None:
        """Call nothing. After :meth:`close` nothing is called anyway."""
        self._call = None
        self._set(0)

    def _set(self, ns: int) -> None:
        if self._fd < 0:
            return
        self._time[2], self._time[3] = divmod(ns, 1_000_000_000)
        if self._set_time(self._fd, 0, self._time, None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def _ring(self) -> None:
        call, self._call = self._call, None
        try:
            if call is not None:
                call()
        finally:
            # What sets it again has it wait again; else it would ring on.
            if self._call is None:
                self._set(0)

    def close(self) -> None:
        """Give it back to the system. May be called twice."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd, self._call = -1, None


class LoopTimer:
    """The same with timers of the loop, where there is no timerfd."""

    def __call__(self, seconds: float, call: Callable[[], None]) -> asyncio.Handle:
        """See :func:`marketfeed.ingest.call_later`."""
        return call_later(seconds, call)

    def close(self) -> None:
        """Nothing is held."""


def best_alarm(loop: asyncio.AbstractEventLoop) -> Alarm | LoopTimer:
    """What this system has."""
    try:
        return Alarm(loop)
    except (OSError, AttributeError) as error:
        log.info("waiting with the loop's timers: %s", error)
        return LoopTimer()
