"""What every transport needs: a :class:`Gate` that lets clients in, and what it promises (:class:`Connection`).

A transport that has a socket to itself takes :class:`~marketfeed.transports.socketlink.SocketLink`; one whose frames go
another way (an answer, a library) takes :class:`EachLink`. Either way it says how a frame is wrapped, and how its
connection is kept alive and closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from marketfeed.stream import protocol
from marketfeed.stream.codes import CloseCode, ErrorCode
from marketfeed.stream.hub import Hub
from marketfeed.stream.link import NO_WIRE, Link
from marketfeed.stream.session import Authenticate, Session

log = logging.getLogger("marketfeed.gate")

__all__ = ["Connection", "EachLink", "Gate", "Limits", "Link"]


@dataclass(frozen=True)
class Limits:
    """What one client, and all together, may use."""

    #: connections at a time
    connections: int = 10_000
    #: symbols and globs of one session
    symbols: int = 10_000
    #: how many of them may be globs
    globs: int = 100
    #: of how many different options they may be
    rules: int = 100
    #: WebRTC connections at a time
    peers: int = 100
    #: bytes of one message from a client
    message_bytes: int = 64 * 1024
    #: seconds to authenticate in, where keys are set
    auth_seconds: float = 10.0
    #: seconds after which a client that takes nothing of a frame is cut
    write_seconds: float = 60.0
    #: seconds between two pings, and for the answer to one
    ping_seconds: float = 20.0
    #: seconds after which a long-polling session that is asked for nothing ends
    poll_seconds: float = 60.0
    #: seconds for a closing handshake
    close_seconds: float = 5.0
    #: whether a WebSocket client may ask for compression
    compression: bool = False


class Connection(Link, Protocol):
    """A link with what the gate asks of it besides."""

    def check(self, now: float) -> None:
        """Called about once a second: keep alive, or end what is dead."""


class EachLink(Connection):
    """For a link that has no wire: there remain ``wrap``, ``send``, ``close`` and ``check`` to write.

    ``send`` must not call the gate before it has returned: the hub is in the midst of giving out frames.
    """

    wire = NO_WIRE
    head: Callable[[int, bool], bytes] | None = None

    def finish(self, frame: bytes, sent: int) -> bool:
        """Never asked for: see :meth:`Link.finish`."""
        raise RuntimeError("this link has no wire")


class Gate:
    """Lets clients in, and knows who is there.

    Args:
        hub: where their subscriptions live.
        wake: has the hub run soon.
        clock: seconds on the clock that the hub is run by.
        version: told in the first message.
        authenticate: None = everybody may subscribe.
    """

    def __init__(
        self,
        hub: Hub,
        wake: Callable[[], None],
        clock: Callable[[], float],
        version: str,
        limits: Limits,
        authenticate: Authenticate | None = None,
    ) -> None:
        self.hub = hub
        self.wake = wake
        self.clock = clock
        self.limits = limits
        self._version = version
        self._authenticate = authenticate
        self._sessions: dict[Connection, Session] = {}
        #: when those who did not authenticate yet came; in that order
        self._waiting: dict[Connection, float] = {}
        self._closing = False
        self._empty: asyncio.Event = asyncio.Event()
        #: what else has to know that nobody is let in any more
        self.at_close: list[Callable[[], object]] = []

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def closing(self) -> bool:
        """Whether nobody is let in any more, because the server goes down."""
        return self._closing

    def has_feed(self, name: str) -> bool:
        """Whether there is a feed of that name."""
        return name in self.hub.directory.feeds()

    def allows(self, credentials: protocol.Auth | None) -> bool:
        """Whether one who shows these may have data: whoever asks where no keys are set, else who has one."""
        return self._authenticate is None or (credentials is not None and self._authenticate(credentials))

    def refusal(self, credentials: protocol.Auth | None) -> protocol.Message | None:
        """Why a client would not be let in with these: for transports to which that is much work. None = it would."""
        if self._closing or len(self._sessions) >= self.limits.connections:
            return protocol.error(ErrorCode.CONNECTION_LIMIT, "connection limit exceeded")
        if self._authenticate is None:
            return None
        if credentials is None:
            return protocol.error(ErrorCode.NOT_AUTHENTICATED, "not authenticated")
        if not self._authenticate(credentials):
            return protocol.error(ErrorCode.AUTH_FAILED, "auth failed")
        return None

    def admit(
        self,
        connection: Connection,
        name: str,
        encoding: str,
        feed: str | None,
        credentials: protocol.Auth | None,
    ) -> Session:
        """A client has come. It may have been turned away when this returns; its link is closed then.

        Args:
            name: of the client, for the log.
            encoding: a name of :data:`ENCODINGS`.
            feed: only this feed's instruments, its messages without `f`; None = every feed's.
            credentials: those of its handshake.
        """
        session = Session(
            self.hub,
            connection,
            self.hub.encoding(encoding, feed is None),
            name,
            feed,
            self._authenticate,
            self.limits.symbols,
            self.limits.globs,
            self.limits.rules,
        )
        if self._closing:
            session.end(CloseCode.SHUTDOWN)
            return session
        if len(self._sessions) >= self.limits.connections:
            full = protocol.error(ErrorCode.CONNECTION_LIMIT, "connection limit exceeded")
            session.end(CloseCode.CONNECTION_LIMIT, full)
            return session
        self._sessions[connection] = session
        if not session.authenticated:
            self._waiting[connection] = self.clock()
        session.start(self._version, credentials)
        return session

    def receive(self, connection: Connection, data: str | bytes) -> None:
        """A message came from a client: text is JSON, bytes are msgpack."""
        session = self._sessions.get(connection)
        if session is not None:
            session.receive(data, self.clock())
            self.wake()

    def writable(self, connection: Connection) -> None:
        """A link that was full is not any more."""
        session = self._sessions.get(connection)
        if session is not None:
            session.writable()
            self.wake()

    def stalled(self, connection: Connection) -> None:
        """A link is full because of something the transport sent itself."""
        session = self._sessions.get(connection)
        if session is not None:
            self.hub.stalled(session)

    def position(self, connection: Connection) -> int | None:
        """Where a client is that has taken all that its link has: see :meth:`Session.position`."""
        session = self._sessions.get(connection)
        return None if session is None else session.position()

    def end(self, connection: Connection, code: CloseCode) -> None:
        """The transport finds that a connection has to end."""
        session = self._sessions.get(connection)
        if session is not None:
            session.end(code)

    def left(self, connection: Connection) -> None:
        """A client has gone. May be called twice."""
        session = self._sessions.pop(connection, None)
        self._waiting.pop(connection, None)
        if session is not None:
            session.closed()
        if self._closing and not self._sessions:
            self._empty.set()

    def check(self) -> None:
        """Called about once a second."""
        now = self.clock()
        late = [c for c, since in self._waiting.items() if now - since > self.limits.auth_seconds]
        for connection in late:
            del self._waiting[connection]
            self._sessions[connection].auth_timeout()
        for connection, session in list(self._sessions.items()):
            try:
                connection.check(now)
            except Exception:
                # A defect, but one client's: the others go on.
                log.exception("%s: could not be checked", session.name)
                self.end(connection, CloseCode.INTERNAL)

    def close(self) -> None:
        """Let nobody in any more, and ask all to go and come again (to another server, or to this one's next life)."""
        self._closing = True
        for told in self.at_close:
            told()
        for session in list(self._sessions.values()):
            session.end(CloseCode.SHUTDOWN)
        if not self._sessions:
            self._empty.set()

    async def emptied(self) -> None:
        """Wait, after :meth:`close`, until all have gone."""
        await self._empty.wait()
