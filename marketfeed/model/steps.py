"""Work that is done in steps, so that nobody has to wait for all of it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

#: A generator that does some work between two ``yield``, well under a millisecond of it, and returns a T in the end.
Steps = Generator[None, None, T]


def all_of(steps: Steps[T]) -> T:
    """What they lead to, done at one go: for who has nothing else to do meanwhile."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
