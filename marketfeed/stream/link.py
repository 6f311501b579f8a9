"""The way out, as the stream sees it. What is behind it (a WebSocket, a long poll, a test) the stream does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from marketfeed.stream.codes import CloseCode

if TYPE_CHECKING:
    from marketfeed.stream.lane import Subscriber

#: Takes a frame; returns its length when all of it is on its way and more can be taken, else some other number.
RawSend = Callable[[bytes], int]


class Took(Enum):
    """What became of a frame."""

    #: all of it; there is room for more
    MORE = "more"
    #: all of it, but the next one has to wait until the link says that it is writable
    LAST = "last"
    #: nothing of it; wait until the link says that it is writable
    NOTHING = "nothing"


class Link(Protocol):
    """One session's way out. At most one frame that the network did not take yet is kept in it.

    When a link said LAST or NOTHING, it calls :meth:`Session.writable` as soon as it can take a frame again, and no
    one sends before that.
    """

    #: what :meth:`deliver` calls for a session that can take a frame
    raw_send: RawSend

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

    @staticmethod
    def deliver(frames: Iterable[tuple[bytes, Mapping[Subscriber, RawSend]]]) -> list[tuple[Subscriber, bool]]:
        """Send each frame to all that are named with it, none of them named twice.

        Returns those that can take no more, and whether they took this frame.
        """

    def send(self, frame: bytes) -> Took:
        """Send one frame to this session alone."""

    def close(self, code: CloseCode | int, reason: str) -> None:
        """End the connection, in order where that is possible; does not wait."""
