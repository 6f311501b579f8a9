"""Encodings in which a tick is some bytes of its own, and a frame joins them."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Pieces:
    """Ticks as one piece of bytes each.

    Args:
        pieces: of each tick.
        join: makes the payload of a frame of some pieces.
    """

    def __init__(self, pieces: list[bytes], join: Callable[[Sequence[bytes]], bytes]) -> None:
        self._pieces = pieces
        self._join = join

    def __len__(self) -> int:
        return len(self._pieces)

    def frame(self, places: Sequence[int] | None = None) -> bytes:
        pieces = self._pieces
        if places is None or len(places) == len(pieces):
            return self._join(pieces)
        return self._join([pieces[n] for n in places])
