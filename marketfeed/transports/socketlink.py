"""Sending past Tornado's own way: what every transport does that has a socket to itself.

Tornado's `write` makes a future and a copy for each client, and `write_message` a task too. Here the frames of a flush
lie in one buffer and go to all sockets in one call (:mod:`marketfeed.transports.senders`); only what a socket does not
take goes through Tornado's buffer, and while anything is in there nothing else is sent to it. TLS connections always go
through that buffer, for only Tornado knows their state.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable

from tornado.iostream import IOStream, StreamClosedError

from marketfeed.stream.link import NO_WIRE, Took
from marketfeed.transports.base import Connection, Gate

log = logging.getLogger("marketfeed.socket")


class Socket(ABC):
    """One client's socket: at most one frame that it did not take is kept.

    Args:
        stream: what Tornado made of the socket; nobody else writes to it.
        name: of the client, for the log.
    """

    def __init__(self, stream: IOStream, name: str, gate: Gate) -> None:
        self._stream = stream
        self._name = name
        self._gate = gate
        self._tls = isinstance(stream.socket, ssl.SSLSocket)
        self.wire = NO_WIRE if self._tls else stream.socket.fileno()
        self._close_fd = stream.close_fd
        # A descriptor that is closed may at once be another client's: nobody may send to it from then on.
        stream.close_fd = self._closing_fd  # type: ignore[method-assign]  # Tornado tells of it only later
        #: writes that the socket has not taken yet; what it has taken of all, and when that was seen to grow
        self._unfinished = 0
        self._progress = (0, 0.0)
        self._closing = False

    @abstractmethod
    def drained(self) -> None:
        """The socket has taken all that it had not."""

    @abstractmethod
    def lost(self) -> None:
        """The socket is about to be closed: it takes no more."""

    def send(self, frame: bytes) -> Took:
        if self._unfinished or self._closing or self._stream.closed():
            return Took.NOTHING
        try:
            if self._tls:
                done = self._stream.write(frame)
                if not self._stream.writing():
                    return Took.MORE
                self._wait_for(done)
                return Took.LAST
            sent = self._stream.socket.send(frame)
        except BlockingIOError:
            sent = 0
        except (OSError, StreamClosedError) as error:
            self._cut(error)
            return Took.NOTHING
        if sent == len(frame):
            return Took.MORE
        return Took.LAST if self.finish(frame, sent) else Took.NOTHING

    def finish(self, frame: bytes, sent: int) -> bool:
        if sent < 0:
            self._cut(OSError("the connection is broken"))
            return False
        try:
            # A copy: a view would keep the whole buffer of a flush for as long as this client is slow.
            self._wait_for(self._stream.write(frame[sent:]))
        except StreamClosedError:
            return False
        return True

    def _closing_fd(self) -> None:
        self.wire = NO_WIRE
        self.lost()
        self._close_fd()

    def _cut(self, error: Exception) -> None:
        """Nothing can be sent any more: Tornado is told, and tells the gate when all is closed."""
        log.debug("%s: %s", self._name, error)
        self._stream.close(exc_info=error)

    def _wait_for(self, done: asyncio.Future[None]) -> None:
        """Nobody may send past what is in the stream's buffer until it is gone."""
        if not self._unfinished:
            self._progress = (0, self._gate.clock())
        self._unfinished += 1
        done.add_done_callback(self._finished)

    def _finished(self, done: asyncio.Future[None]) -> None:
        self._unfinished -= 1
        if not self._unfinished and not done.cancelled() and done.exception() is None:
            self.drained()

    def check(self, now: float) -> None:
        """End it when it does not take a frame in time."""
        if self._closing or not self._unfinished:
            return
        taken, since = self._progress
        if self._stream._total_write_done_index > taken:
            self._progress = (self._stream._total_write_done_index, now)
        elif now - since > self._gate.limits.write_seconds:
            log.warning("%s: took nothing for %.0f s", self._name, self._gate.limits.write_seconds)
            self._closing = True
            self._stream.close()


class SocketLink(Socket, Connection):
    """A connection that has a socket to itself. A transport adds ``wrap`` and ``close``: see :class:`Connection`."""

    head: Callable[[int, bool], bytes] | None = None

    def drained(self) -> None:
        self._gate.writable(self)

    def lost(self) -> None:
        self._gate.stalled(self)
