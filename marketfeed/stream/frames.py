"""The frames of a flush: each group's ticks behind one another in one buffer, made with one join."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from marketfeed.stream.encoding import EncodedTicks, Encoding
from marketfeed.stream.encoding.pieces import Layout, Pieces
from marketfeed.stream.lane import Wanted
from marketfeed.stream.link import Link

#: About so many bytes go into one buffer; what is more goes into the next.
_BUFFER_BYTES = 4 << 20
#: What opens a frame is kept for so many different frames.
_KEPT = 1 << 15
#: A frame holds fewer ticks than this: see FRAME_TICKS.
_COUNT_BITS = 12

_AT_ZERO = np.zeros(1, np.int64)


class Frames:
    """Some groups' frames, one each.

    Attributes:
        groups: which groups: places in :attr:`Wanted.slots`.
        begins, lengths: shape (groups,): where each frame begins in the buffer, and how many bytes it has.
    """

    def __init__(
        self,
        groups: slice,
        begins: NDArray[np.int64],
        lengths: NDArray[np.int64],
        buffer: bytes | None = None,
        made: list[bytes] | None = None,
    ) -> None:
        self.groups = groups
        self.begins = begins
        self.lengths = lengths
        self._buffer = buffer
        self._made = made

    @property
    def buffer(self) -> bytes:
        """All of them behind one another."""
        if self._buffer is None:
            assert self._made is not None
            self._buffer = b"".join(self._made)
        return self._buffer

    def frame(self, n: int) -> bytes:
        """The n-th of them; where frames are made one by one, the very object that `wrap` gave."""
        if self._made is not None:
            return self._made[n]
        begin = int(self.begins[n])
        return self.buffer[begin : begin + int(self.lengths[n])]


class Framer:
    """Makes the frames of all groups that are written alike."""

    def __init__(self, encoding: Encoding, link_type: type[Link]) -> None:
        self.encoding = encoding
        self._wrap = link_type.wrap
        self._head = link_type.head
        #: bytes of a frame's pieces with what is between them, and their count -> what stands before the first
        self._opens: dict[int, bytes] = {}

    def frames(self, wanted: Wanted, encoded: EncodedTicks, seq: int) -> Iterator[Frames]:
        """The frames of these groups.

        Args:
            encoded: the ticks that ``wanted.order`` names.
            seq: the position of whoever has taken them.
        """
        if len(wanted.slots) > 1 and self._head is not None and isinstance(encoded, Pieces):
            yield from self._joined(wanted, encoded)
            return
        binary, order = self.encoding.BINARY_TICKS, wanted.order.tolist()
        if len(wanted.slots) == 1:
            # As where everybody takes everything; without the sums that several need.
            frame = self._wrap(encoded.frame(order), binary, seq)
            yield Frames(slice(0, 1), _AT_ZERO, np.array([len(frame)]), frame, [frame])
            return
        begin, made, size = 0, [], 0
        for n, (low, high) in enumerate(pairwise(wanted.bounds.tolist()), 1):
            made.append(self._wrap(encoded.frame(order[low:high]), binary, seq))
            size += len(made[-1])
            if size >= _BUFFER_BYTES or n == len(wanted.slots):
                lengths = _lengths(made)
                # One alone is its own buffer; more are put together only where they go to wires.
                buffer = made[0] if len(made) == 1 else None
                yield Frames(slice(begin, n), lengths.cumsum() - lengths, lengths, buffer, made)
                begin, made, size = n, [], 0

    def _joined(self, wanted: Wanted, encoded: Pieces) -> Iterator[Frames]:
        """All frames of a buffer in one join.

        Each group's pieces are put together by Python's own join and not by arrays of places: that takes two thirds of
        the time where some hundred groups want a tick or two each.
        """
        layout, opens = encoded.layout, self._opens
        separated = layout.separator.join
        for begin, stop in _runs(wanted, encoded):
            bounds = wanted.bounds[begin : stop + 1]
            pieces = [*map(encoded.pieces.__getitem__, wanted.order[bounds[0] : bounds[-1]].tolist())]
            cuts = pairwise((bounds - bounds[0]).tolist())
            bodies = [pieces[i] if j - i == 1 else separated(pieces[i:j]) for i, j in cuts]
            sizes = _lengths(bodies)
            if layout.counted:
                keys = sizes << _COUNT_BITS
                keys |= bounds[1:] - bounds[:-1]
            else:
                keys = sizes
            parts = [b""] * (2 * len(bodies))
            parts[1::2] = bodies
            try:
                parts[::2] = map(opens.__getitem__, keys.tolist())
            except KeyError:
                self._know(keys.tolist(), layout)
                parts[::2] = map(opens.__getitem__, keys.tolist())
            # In the buffer each frame is opened behind the end of the one before it; so there is one end too many.
            end = len(layout.end)
            sizes += _lengths(parts[::2])
            yield Frames(slice(begin, stop), sizes.cumsum() - sizes + end, sizes, b"".join(parts) + layout.end)

    def _know(self, keys: list[int], layout: Layout) -> None:
        """Have what opens frames like these: the end of the one before and all that stands before the first piece."""
        if len(self._opens) > _KEPT:
            self._opens.clear()
        assert self._head is not None
        for key in keys:
            if key not in self._opens:
                size, count = divmod(key, 1 << _COUNT_BITS) if layout.counted else (key, 0)
                begin = layout.begin(count)
                head = self._head(len(begin) + size + len(layout.end), self.encoding.BINARY_TICKS)
                self._opens[key] = layout.end + head + begin


def _lengths(parts: list[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(len, parts), np.int64, len(parts))


def _runs(wanted: Wanted, encoded: Pieces) -> Iterator[tuple[int, int]]:
    """Groups that go into one buffer together: from, to."""
    groups = len(wanted.slots)
    if len(wanted.order) * max(map(len, encoded.pieces)) <= _BUFFER_BYTES:
        yield 0, groups
        return
    sizes = np.add.reduceat(_lengths(encoded.pieces)[wanted.order], wanted.bounds[:-1])
    run = (sizes.cumsum() - sizes) // _BUFFER_BYTES
    cuts = (run[1:] != run[:-1]).nonzero()[0] + 1
    yield from pairwise([0, *cuts.tolist(), groups])
