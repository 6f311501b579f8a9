"""When what is due: the recording's time laid beside the clock's."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: More than a century: further off nothing is told apart.
FAR_NS = 4 * 10**18


class Pace:
    """A tick of the time ``t`` is due at ``start + (t - mark) / speed``, where ``mark`` is the time due at ``start``.

    Attributes:
        speed: how many times faster than recorded; inf = everything is due at once.
        paused: nothing is due.
        start: when ``mark`` is due.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.paused = False
        self.start = 0
        self._mark: int | None = None

    def begin(self, start_ns: int, mark: int | None) -> None:
        """From now on: this time of the recording is due at this time; None = that of the tick that comes next."""
        self.start = start_ns
        self._mark = mark

    def due(self, keys: NDArray[np.int64], now_ns: int) -> NDArray[np.int64]:
        """When ticks of these times, shape (n,), n > 0, are due."""
        if self._mark is None:
            self._mark = int(keys[0])
        if math.isinf(self.speed):
            return np.full(len(keys), min(self.start, now_ns))
        after = np.ceil((keys - self._mark) / self.speed)
        return self.start + np.minimum(after, FAR_NS).astype(np.int64)

    def time(self, now_ns: int) -> int | None:
        """Which time of the recording is due now; None = its first tick is yet to come, or all of it is due."""
        if self._mark is None or math.isinf(self.speed):
            return self._mark if self.paused else None
        if self.paused:
            return self._mark
        return self._mark + round(min(FAR_NS, max(0, now_ns - self.start) * self.speed))

    def change(self, now_ns: int, mark: int | None, *, speed: float | None = None, paused: bool | None = None) -> None:
        """Go on at another speed, or stand still, from this time of the recording."""
        self.begin(now_ns, mark)
        if speed is not None:
            self.speed = speed
        if paused is not None:
            self.paused = paused
