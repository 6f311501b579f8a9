"""How long to wait before the next attempt: exponential back-off with full jitter."""

from __future__ import annotations

import random

BASE_S = 0.5
MOST_S = 30.0


class Backoff:
    """uniform(0, min(most, base * 2**attempt)), so that clients cut off together do not come back together.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ ("full jitter")

    Args:
        rng: where the jitter comes from.
        base, most: seconds.
    """

    def __init__(self, rng: random.Random, base: float = BASE_S, most: float = MOST_S) -> None:
        if not 0 < base <= most:
            raise ValueError(f"a back-off has 0 < base <= most, not {base} and {most}")
        self._rng = rng
        self._base = base
        self.most = most
        #: Attempts since the last success.
        self.attempt = 0

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        # Beyond 2**60 the power says nothing more, and would in the end overflow.
        bound = min(self.most, self._base * 2.0 ** min(self.attempt, 60))
        self.attempt += 1
        return self._rng.uniform(0, bound)

    def reset(self) -> None:
        """It worked: the next pause is short again."""
        self.attempt = 0
