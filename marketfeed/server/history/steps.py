"""Work that is done in steps, so that nobody has to wait for all of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")

#: A generator that does some work between two ``yield``, well under a millisecond of it, and returns a T in the end.
Steps = Generator[None, None, T]

#: Whether there is time left. What can be cut short is, with a token to go on from; what cannot raises OutOfTime.
InTime = Callable[[], bool]


class OutOfTime(Exception):
    """There was no time left before the answer was there."""
