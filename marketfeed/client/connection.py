"""The feed's connection: one at a time over Tornado's WebSocket client, made anew when it is lost.

One task reads frames into a bounded inbox; the consumer takes messages out of it. A full inbox stops the reading, so
that a consumer's pace reaches the server through TCP: it then serves this client from the ring as fast as it takes,
and says with a :class:`Gap` what the ring no longer held. Nothing grows on either side.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

from marketfeed.client.backoff import Backoff
from marketfeed.client.errors import ClientError, ConnectionFailed, ConnectionRefused
from marketfeed.client.inbox import Inbox
from marketfeed.client.session import Session, closed_for_good
from marketfeed.client.state import State, StateChange
from marketfeed.client.transport import Transport, open_transport
from marketfeed.model.clock import Clock

log = logging.getLogger("marketfeed.client")

#: While a command's answer is awaited, so many messages more are read: the answer comes behind the ticks that are on
#: their way, and those are no more than the sockets' buffers hold.
_READ_ON = 262_144
#: A connection on which nothing comes for so many intervals of its heartbeat is dead.
_OVERDUE = 2.5


class Way(NamedTuple):
    """How to connect; as :func:`marketfeed.connect` takes it."""

    url: str
    #: the subprotocol to ask for
    subprotocol: str | None
    reconnect: bool
    wait_for_server: bool
    open_timeout: float
    ping_interval: float
    ssl_context: ssl.SSLContext | None


class Connection:
    """Keeps a session connected, and its inbox filled.

    Args:
        session: what is said, and what was subscribed.
        inbox: where what comes is put.
        limit: messages to read ahead of whoever takes them out.
        on_state: told each change.

    Attributes:
        state: where it stands.
        reconnects: how often it was made anew.
        ended: why it is at its end; None = it is not, or was closed.
    """

    def __init__(
        self,
        way: Way,
        session: Session,
        inbox: Inbox,
        limit: int,
        on_state: Callable[[StateChange], object] | None,
        backoff: Backoff,
        clock: Clock,
    ) -> None:
        self.state = State.CLOSED
        self.reconnects = 0
        self.ended: Exception | None = None
        self._way = way
        self._session = session
        self._inbox = inbox
        self._limit = limit
        self._on_state = on_state
        self._backoff = backoff
        self._clock = clock
        self._there_is = asyncio.Event()  # something to take, or the end
        self._go_on = asyncio.Event()  # room in the inbox, or an answer to read for
        self._transport: Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def open(self) -> None:
        """Connect, and go on by itself from then on.

        Raises:
            ConnectionFailed: the server cannot be reached (unless it is to be waited for).
            ConnectionRefused: it does not want this client.
        """
        if self._task is not None:
            raise ClientError("a feed is opened once; call connect() for another")
        transport: Transport | None = None
        while transport is None:
            try:
                transport = await self._connect()
            except ConnectionFailed as error:
                if not self._way.wait_for_server:
                    self._tell(State.CLOSED, str(error))
                    raise
                await self._pause(str(error))
            except BaseException as error:
                self._tell(State.CLOSED, str(error))
                raise
        self._task = asyncio.create_task(self._run(transport), name=f"marketfeed {self._way.url}")

    async def close(self) -> None:
        """End it, with a closing handshake."""
        if self._task is not None and not self._task.done():
            if not self._closing:
                self._closing = True
                self._task.cancel()
            await asyncio.wait([self._task])
        if self._transport is not None:
            await self._finish()  # the task was cancelled before it had begun

    def room(self) -> None:
        """Something was taken out of the inbox."""
        if len(self._inbox) < self._limit:
            self._go_on.set()

    async def filled(self) -> bool:
        """Until something is in the inbox; False = nothing will be. Always lets the loop go round once.

        Raises:
            ClientError: why it is at its end.
        """
        await asyncio.sleep(0)
        while not len(self._inbox):
            if self._task is None:
                raise ClientError("the feed is not open")
            if self._task.done():
                if self.ended is not None:
                    raise self.ended
                return False
            self._there_is.clear()
            await self._there_is.wait()
        return True

    def check_open(self) -> None:
        """See that commands can be given.

        Raises:
            ClientError: it was not opened, or is at its end; why.
        """
        if self._task is None or self._task.done():
            raise self.ended or ClientError("the feed is not open")

    async def answered(self, answer: asyncio.Future[Any], seconds: float) -> None:
        """Say what the session has to say, and wait for the answer.

        Raises:
            ClientError: none came in so many seconds, or at all.
        """
        assert self._task is not None
        self._go_on.set()
        self._send()
        # The end of the feed ends the waiting too.
        either: list[asyncio.Future[Any]] = [answer, self._task]
        done, _ = await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            if done:
                raise self.ended or ClientError("the feed was closed")
            raise ClientError(f"the server did not answer within {seconds:g} s")

    # The task.

    async def _run(self, transport: Transport) -> None:
        try:
            while True:
                begun = self._clock.monotonic()
                self._told_resumed()
                came, reason = await self._read(transport)
                if came or self._clock.monotonic() - begun > self._backoff.most:
                    self._backoff.reset()
                if not self._way.reconnect:
                    raise ConnectionFailed(f"the connection to {self._way.url} ended: {reason}")
                transport = await self._again(reason)
        except asyncio.CancelledError:
            pass  # close() asked for it, and only close() has the task
        except Exception as error:  # noqa: BLE001  # whoever iterates gets it, whatever it is
            self.ended = error
        finally:
            await self._finish()

    async def _finish(self) -> None:
        if self._transport is not None:
            await self._drop(self._transport)
        self._tell(State.CLOSED, str(self.ended or ""))
        self._there_is.set()

    async def _read(self, transport: Transport) -> tuple[bool, str]:
        """Until the connection is lost. Returns whether any message came, and why it ended."""
        came = False
        session, inbox = self._session, self._inbox
        while (frame := await transport.read(_OVERDUE * session.heartbeat if session.heartbeat else None)) is not None:
            items = session.receive(frame)
            if items:
                came = True
                inbox.put(items)
                self._there_is.set()
            self._send()
            if isinstance(session.failure, ConnectionFailed):
                break
            if session.failure is not None:
                raise session.failure
            self._told_resumed()
            while len(inbox) >= self._limit + (_READ_ON if session.waiting else 0):
                self._go_on.clear()
                await self._go_on.wait()
        reason = str(session.failure or transport.reason)
        if session.last_error is not None:
            reason = f"{session.last_error.msg} ({session.last_error.code}); {reason}"
        await self._drop(transport)
        if closed_for_good(transport.code):
            raise ConnectionRefused(transport.code or 0, f"the server ended the connection for good: {reason}")
        return came, reason

    async def _again(self, reason: str) -> Transport:
        while True:
            await self._pause(reason)
            try:
                transport = await self._connect()
            except ConnectionFailed as error:
                reason = str(error)
            else:
                self.reconnects += 1
                return transport

    async def _pause(self, reason: str) -> None:
        delay = self._backoff.next()
        log.info("%s: %s; connecting again in %.1f s", self._way.url, reason, delay)
        self._tell(State.WAITING, reason, delay)
        await asyncio.sleep(delay)

    async def _connect(self) -> Transport:
        """Open a connection, up to where the server takes commands."""
        self._tell(State.CONNECTING)
        way = self._way
        transport = await open_transport(way.url, way.open_timeout, way.ping_interval, way.ssl_context, way.subprotocol)
        self._transport = transport
        session = self._session
        session.connected()
        try:
            async with asyncio.timeout(way.open_timeout):
                while not session.ready:
                    frame = await transport.read()
                    if frame is None:
                        said = session.last_error.msg if session.last_error is not None else transport.reason
                        if closed_for_good(transport.code):
                            raise ConnectionRefused(transport.code or 0, f"{way.url} refused the connection: {said}")
                        raise ConnectionFailed(f"{way.url} ended the connection at once: {said}")
                    session.receive(frame)
                    self._send()
                    if session.failure is not None:
                        raise session.failure
        except TimeoutError:
            await self._drop(transport)
            raise ConnectionFailed(f"{way.url} did not greet within {way.open_timeout:g} s") from None
        except BaseException:
            await self._drop(transport)
            raise
        return transport

    async def _drop(self, transport: Transport) -> None:
        """Let go of a connection; what it had not delivered is pending again."""
        self._session.disconnected()
        await transport.close()
        self._transport = None

    def _send(self) -> None:
        texts = self._session.outgoing()
        if self._transport is not None:
            for text in texts:
                self._transport.write(text)

    def _told_resumed(self) -> None:
        if self.state is not State.CONNECTED and self._session.resumed:
            self._tell(State.CONNECTED)

    def _tell(self, state: State, reason: str = "", delay: float = 0.0) -> None:
        self.state = state
        if self._on_state is not None:
            try:
                self._on_state(StateChange(state, reason, delay))
            except Exception:
                log.exception("on_state failed")
