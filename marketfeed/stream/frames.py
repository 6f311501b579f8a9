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
        #: payload's bytes without what it begins with, and count -> what stands before its first piece
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
        """All frames of a buffer in one join."""
        layout = encoded.layout
        counts = wanted.bounds[1:] - wanted.bounds[:-1]
        payloads = np.add.reduceat(_lengths(encoded.pieces)[wanted.order], wanted.bounds[:-1])
        payloads += (counts - 1) * len(layout.separator) + len(layout.end)
        for begin, stop in _runs(payloads):
            bounds = wanted.bounds[begin : stop + 1]
            order = wanted.order[bounds[0] : bounds[-1]]
            begins, lengths, buffer = self._buffer(order, counts[begin:stop], payloads[begin:stop], encoded)
            yield Frames(slice(begin, stop), begins, lengths, buffer)

    def _buffer(
        self, order: NDArray[np.int64], counts: NDArray[np.int64], payloads: NDArray[np.int64], encoded: Pieces
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], bytes]:
        """Where each frame begins, how long it is, and all of them behind one another.

        Args:
            order: whose pieces each frame has, frame after frame.
            counts, payloads: how many these are, and how many bytes the frame's payload has but for what opens it.
        """
        alone = counts == 1
        which = None
        if np.count_nonzero(alone) > len(encoded):
            # More frames of a single tick than there are ticks: many are alike, and are there once.
            order, counts, which = _alike(order, counts, alone, len(encoded))
            every, payloads = payloads, np.empty(len(counts), np.int64)
            payloads[which] = every
        opens = self._opened(payloads, counts, encoded.layout)
        # In the buffer each frame is opened behind the end of the one before it; so there is one end too many.
        first = len(encoded.layout.end)
        lengths = payloads + _lengths(opens) - first
        begins = lengths.cumsum() - lengths + first
        buffer = _join(counts.cumsum() - counts, order, encoded, opens)
        return (begins, lengths, buffer) if which is None else (begins[which], lengths[which], buffer)

    def _opened(self, payloads: NDArray[np.int64], counts: NDArray[np.int64], layout: Layout) -> list[bytes]:
        """The end of one frame and all that stands before the first piece of the next."""
        keys = (payloads << _COUNT_BITS | counts if layout.counted else payloads).tolist()
        known = self._opens
        try:
            return [known[key] for key in keys]
        except KeyError:
            pass
        if len(known) > _KEPT:
            known.clear()
        assert self._head is not None
        for key, payload, count in zip(keys, payloads.tolist(), counts.tolist(), strict=True):
            if key not in known:
                begin = layout.begin(count)
                known[key] = layout.end + self._head(payload + len(begin), self.encoding.BINARY_TICKS) + begin
        return [known[key] for key in keys]


def _join(first: NDArray[np.int64], order: NDArray[np.int64], encoded: Pieces, opens: list[bytes]) -> bytes:
    """What opens each frame, then its pieces; ``first``: where in ``order`` each frame's begin."""
    n, separator = len(encoded), encoded.layout.separator
    table = [*encoded.pieces, *(separator + piece for piece in encoded.pieces), *opens]
    # What stands at each place of the join: where frames open, and between that their pieces.
    opening = first + np.arange(len(opens))
    index = np.empty(len(order) + len(opens), np.int64)
    piece = np.ones(len(index), np.bool_)
    piece[opening] = False
    index[piece] = order + n
    index[opening + 1] -= n  # no separator before the first
    index[opening] = np.arange(2 * n, 2 * n + len(opens))
    return b"".join(map(table.__getitem__, index.tolist())) + encoded.layout.end


def _alike(
    order: NDArray[np.int64], counts: NDArray[np.int64], alone: NDArray[np.bool_], ticks: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """One frame for all groups that want the same single tick.

    Args:
        alone: which groups want a single tick.
        ticks: how many there are.

    Returns order and counts of the frames that remain, and which of them each group gets.
    """
    single = order[counts.cumsum()[alone] - 1]
    there = np.zeros(ticks, np.bool_)
    there[single] = True
    distinct = there.nonzero()[0]
    several = ~alone
    n = len(distinct)
    order = np.concatenate((distinct, order[several.repeat(counts)]))
    which = np.empty(len(alone), np.int64)
    which[alone] = (there.cumsum() - 1)[single]
    counts = np.concatenate((np.ones(n, np.int64), counts[several]))
    which[several] = np.arange(n, len(counts))
    return order, counts, which


def _lengths(parts: list[bytes]) -> NDArray[np.int64]:
    return np.fromiter(map(len, parts), np.int64, len(parts))


def _runs(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Groups that go into one buffer together: from, to."""
    total = sizes.cumsum()
    if total[-1] <= _BUFFER_BYTES:
        yield 0, len(sizes)
        return
    run = (total - sizes) // _BUFFER_BYTES
    cuts = (run[1:] != run[:-1]).nonzero()[0] + 1
    yield from pairwise([0, *cuts.tolist(), len(sizes)])
