"""Work that is done in steps, and may be cut short."""

from __future__ import annotations

from collections.abc import Callable

from marketfeed.model.steps import Steps

__all__ = ["InTime", "OutOfTime", "Steps"]

#: Whether there is time left. What can be cut short is, with a token to go on from; what cannot raises OutOfTime.
InTime = Callable[[], bool]


class OutOfTime(Exception):
    """There was no time left before the answer was there."""
