"""Encodings in which a tick is some bytes of its own, and a frame joins them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Layout(NamedTuple):
    """How pieces become the payload of a frame: what it begins with, pieces with a separator between, an end."""

    #: of how many pieces there are
    begin: Callable[[int], bytes]
    #: whether that makes a difference
    counted: bool
    separator: bytes = b""
    end: bytes = b""

    def frame(self, pieces: Sequence[bytes]) -> bytes:
        """The payload of a frame of these."""
        return b"".join((self.begin(len(pieces)), self.separator.join(pieces), self.end))


class Pieces:
    """Ticks as one piece of bytes each.

    Args:
        pieces: of each tick.
    """

    def __init__(self, pieces: list[bytes], layout: Layout) -> None:
        self.pieces = pieces
        self.layout = layout

    def frame(self, places: Sequence[int] | None = None) -> bytes:
        pieces = self.pieces
        if places is None or len(places) == len(pieces):
            return self.layout.frame(pieces)
        return self.layout.frame([pieces[n] for n in places])
