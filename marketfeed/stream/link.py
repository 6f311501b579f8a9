"""The way out, as the stream sees it. What is behind it (a WebSocket, a long poll, a test) the stream does not know.

::

    hub ──one buffer, many (begin, length, wire)──> Sender     what the network takes at once, for all in one call
        └─one frame──> Link.send                               one session by itself
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from marketfeed.stream.codes import CloseCode

#: The wire of a link that only takes frames by :meth:`Link.send`.
NO_WIRE = -1


class Took(Enum):
    """What became of a frame."""

    #: all of it; there is room for more
    MORE = "more"
    #: all of it, but the next one has to wait until the link says that it is writable
    LAST = "last"
    #: nothing of it; wait until the link says that it is writable
    NOTHING = "nothing"


#: Whole numbers, shape (n,); where one stands for all, just that one.
Numbers = NDArray[np.int64] | int


class Sender(Protocol):
    """Puts frames on many wires in one call. Never waits."""

    def __call__(
        self, buffer: bytes, begins: Numbers, lengths: Numbers, wires: NDArray[np.int64]
    ) -> NDArray[np.int64] | None:
        """Send ``buffer[begins[k]:begins[k] + lengths[k]]`` to ``wires[k]``, for every k.

        Args:
            wires: shape (n,), n > 0. None is named twice.

        Returns:
            Shape (n,): how many bytes each wire took, from none to all; less than 0 = it is broken. None = each took
            all, the usual case.
        """


def no_wires(buffer: bytes, begins: Numbers, lengths: Numbers, wires: NDArray[np.int64]) -> None:
    """The sender of those who have none."""
    raise RuntimeError("a link has a wire, but there is no sender")


class Link(Protocol):
    """One session's way out. At most one frame that the network did not take yet is kept in it.

    When a link said LAST or NOTHING, it calls :meth:`Session.writable` as soon as it can take a frame again, and no
    one sends before that.
    """

    #: what a :class:`Sender` knows it by while it can take frames so; :data:`NO_WIRE` = only by :meth:`send`. A link
    #: that loses its wire says before that it can take no more.
    wire: int

    #: (length of a payload, whether it is binary) -> what goes before it; nothing goes behind it. None = frames are
    #: made otherwise, see :meth:`wrap`.
    head: Callable[[int, bool], bytes] | None

    @staticmethod
    def wrap(payload: bytes, binary: bool, seq: int | None) -> bytes:
        """The frame, ready for the wire, of a payload; the same for every link of this type.

        Args:
            binary: the payload is not text.
            seq: the position of a subscriber that has taken this frame: to ask for what came `since` then loses
                nothing and repeats nothing. None = its position is what it was: the frame has no ticks, or is one of
                several that are of use only together (a long snapshot). It is the position of one subscriber; a
                session with several is where the one is that is furthest behind.
        """

    def send(self, frame: bytes) -> Took:
        """Send one frame to this session alone."""

    def finish(self, frame: bytes, sent: int) -> bool:
        """Of this frame the wire took only so many bytes (less than 0 = it is broken): see to the rest.

        Returns whether the frame is on its way. Either way the link can take no more for now.
        """

    def close(self, code: CloseCode | int, reason: str) -> None:
        """End the connection, in order where that is possible; does not wait."""
