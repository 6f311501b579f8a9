"""The asyncio client: one connection at a time over Tornado's WebSocket client, made anew when it is lost.

One task reads frames into a bounded buffer; the consumer takes messages out of it. A full buffer stops the reading, so
that a consumer's pace reaches the server through TCP: it then serves this client from the ring as fast as it takes,
and says with a :class:`Gap` what the ring no longer held. Nothing grows on either side.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from marketfeed.client import request
from marketfeed.client.backoff import Backoff
from marketfeed.client.batch import Batch
from marketfeed.client.errors import ClientError, CommandError, ConnectionFailed, ConnectionRefused
from marketfeed.client.inbox import BATCH_ROWS, BatchesAsked, Inbox
from marketfeed.client.messages import Message, Subscription
from marketfeed.client.request import Command
from marketfeed.client.session import Credentials, Session, closed_for_good
from marketfeed.client.signature import own_parameters_of, parameters_of
from marketfeed.client.state import State, StateChange
from marketfeed.client.transport import Transport, open_transport
from marketfeed.model.clock import Clock, SystemClock

log = logging.getLogger("marketfeed.client")

#: Messages read ahead of the consumer. A message takes about 300 bytes, a record 88.
BUFFER = 32_768
#: What a connection may be asked to carry -> the subprotocol to ask for; JSON is what every server speaks.
ENCODINGS: dict[str, str | None] = {"json": None, "binary": "marketfeed.binary"}
#: While a command's answer is awaited, so many messages more are read: the answer comes behind the ticks that are on
#: their way, and those are no more than the sockets' buffers hold.
_READ_ON = 262_144
#: A connection on which nothing comes for so many intervals of its heartbeat is dead.
_OVERDUE = 2.5
#: A consumer that never waits still lets the loop go round after so many messages.
_TURN = 256


class Feed:
    """A stream of messages. Made by :func:`connect`; an async context manager and an async iterator.

    Attributes:
        state: where the connection stands.
        reconnects: how often it was made anew.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        secret: str = "",
        token: str = "",
        reconnect: bool = True,
        wait_for_server: bool = False,
        on_state: Callable[[StateChange], object] | None = None,
        encoding: str = "json",
        buffer: int = BUFFER,
        open_timeout: float = 10.0,
        command_timeout: float = 30.0,
        ping_interval: float = 20.0,
        ssl_context: ssl.SSLContext | None = None,
        backoff: Backoff | None = None,
        clock: Clock | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"not a WebSocket address: {url!r}; it looks like ws://127.0.0.1:8000/stream")
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding is one of {', '.join(ENCODINGS)}, not {encoding!r}")
        if buffer < 1:
            raise ValueError(f"the buffer holds at least one message, not {buffer}")
        self.url = url
        self._encoding = encoding
        self.state = State.CLOSED
        self.reconnects = 0
        credentials = Credentials(key, secret, token) if key or secret or token else None
        self._session = Session(credentials, parts.path.removeprefix("/v2/") if parts.path.startswith("/v2/") else "")
        self._reconnect = reconnect
        self._wait_for_server = wait_for_server
        self._on_state = on_state
        self._limit = buffer
        self._open_timeout = open_timeout
        self._command_timeout = command_timeout
        self._ping_interval = ping_interval
        self._ssl_context = ssl_context
        self._backoff = backoff or Backoff(random.Random())
        self._clock = clock or SystemClock()
        self._inbox = Inbox()
        self._there_is = asyncio.Event()  # something to take, or the end
        self._go_on = asyncio.Event()  # room in the inbox, or an answer to read for
        self._given = 0
        self._transport: Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._ended: Exception | None = None

    @property
    def epoch(self) -> int | None:
        """The server's present life, as far as it has been read; None = it has not told, or numbers nothing."""
        return self._session.epoch

    # Beginning and end.

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> Self:
        """Connect. `async with` does it.

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
                if not self._wait_for_server:
                    self._tell(State.CLOSED, str(error))
                    raise
                await self._pause(str(error))
            except BaseException as error:
                self._tell(State.CLOSED, str(error))
                raise
        self._task = asyncio.create_task(self._run(transport), name=f"marketfeed {self.url}")
        return self

    async def close(self) -> None:
        """End it, with a closing handshake. Iteration ends; what was read but not taken is dropped."""
        if self._task is not None and not self._task.done():
            if not self._closing:
                self._closing = True
                self._task.cancel()
            await asyncio.wait([self._task])
        if self._transport is not None:
            await self._finish()  # the task was cancelled before it had begun
        self._inbox.clear()

    # Commands.

    @own_parameters_of(request.subscribe)
    async def subscribe(self, *symbols: Any, **options: Any) -> Subscription:
        """Add symbols to what this feed receives. The options hold for these symbols; named again they take new ones.

        Args:
            quotes, trades: symbols, or globs with ``*`` and ``?``; on `/stream` also ``feed:SYMBOL``.
            max_hz: only the latest of each symbol, at most so often a second. None = every tick.
            where: only ticks for which this holds, e.g. ``"spread_bps < 5 and bid_size >= 100"``.
            fields: only these keys of the wire, of ``bp bs ap as p s t`` and of bars ``o h l c v n vw``; the others are
                NaN (a count is 0), and ``time`` empty.
            snapshot: the latest of each symbol first.
            since: what came after this place first: a :class:`Position`, or a time (RFC 3339 or an aware datetime).
            heartbeat: of the whole feed: every so many seconds a :class:`Heartbeat`, so that a quiet stream and a dead
                one differ; where none comes in 2.5 times that, the feed connects again. 0 = none, None = as it was.
            bars: a :class:`Bar` of these when it has ended; neither ``max_hz`` nor ``where`` is for bars.
            updated_bars: an :class:`UpdatedBar` of these when a late trade has changed one.
            bar_seconds: their length, 1 to 3,600. None = 60.

        Returns:
            Everything that is now received.

        Raises:
            CommandError: the server does not do it; its code and words.
            ClientError: no answer came in time (it may still come to hold), or the feed is at its end.
            ValueError, TypeError: what is asked for makes no sense.
        """
        return await self._answer_to(request.subscribe(*symbols, **options))

    @own_parameters_of(request.unsubscribe)
    async def unsubscribe(self, *symbols: Any, **more: Any) -> Subscription:
        """Take symbols away, written as they were subscribed. Returns and raises as :meth:`subscribe`."""
        return await self._answer_to(request.unsubscribe(*symbols, **more))

    async def _answer_to(self, commands: Sequence[Command]) -> Subscription:
        if self._task is None or self._task.done():
            raise self._ended or ClientError("the feed is not open")
        answered: asyncio.Future[Subscription | CommandError] = asyncio.get_running_loop().create_future()
        self._session.ask(commands, lambda answer: None if answered.done() else answered.set_result(answer))
        self._go_on.set()
        self._send()
        # The end of the feed ends the waiting too.
        either: list[asyncio.Future[Any]] = [answered, self._task]
        done, _ = await asyncio.wait(either, timeout=self._command_timeout, return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            answered.cancel()
            if done:
                raise self._ended or ClientError("the feed was closed")
            raise ClientError(f"the server did not answer within {self._command_timeout:g} s")
        answer = answered.result()
        if isinstance(answer, CommandError):
            raise answer
        return answer

    # Messages.

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        self._given += 1
        if not self._given % _TURN:
            await asyncio.sleep(0)
        # Records of a kind that is not known leave no message behind.
        while (message := self._inbox.pop()) is None:
            if not await self._wait():
                raise StopAsyncIteration
        self._look_for_room()
        return message

    async def take(self) -> list[Message]:
        """All messages that are there, in order; waits until there is one. Empty = the feed was closed.

        Cheaper than one by one.

        Raises:
            ClientError: why the feed is at its end; as the iteration raises it.
        """
        messages: list[Message] = []
        while not messages and await self._wait():
            messages = self._inbox.take()
            self._look_for_room()
        return messages

    def batches(
        self, *, max_rows: int | None = None, timeout: float | None = None, batch_rows: int = BATCH_ROWS
    ) -> AsyncIterator[Batch]:
        """Ticks as arrays: ``async for batch in feed.batches():``.

        Each batch is what has come meanwhile, so that a consumer that takes longer gets larger ones. What is lost comes
        as :attr:`Batch.gaps`; heartbeats are passed over. Messages and batches may be asked for in turn: each takes up
        where the other stopped. Made for ``encoding="binary"``; with JSON the arrays are made from messages, no faster
        than those come.

        Args:
            max_rows: end after so many ticks in all, exactly. None = go on.
            timeout: end after so many seconds, whether something came or not. None = go on.
            batch_rows: at most so many ticks in one batch; the feed's ``buffer`` bounds them too.

        Raises:
            ValueError: a number that makes no sense.
            ClientError: while iterating: why the feed is at its end, as the iteration over messages raises it.
        """
        asked = BatchesAsked(max_rows, timeout, batch_rows, self._clock)
        return self._batches(asked)

    async def _batches(self, asked: BatchesAsked) -> AsyncIterator[Batch]:
        while (batch := await self.next_batch(asked)) is not None:
            yield batch

    async def next_batch(self, asked: BatchesAsked) -> Batch | None:
        """For :meth:`batches`: the next one; None = that was all."""
        left = asked.seconds_left()
        if left is not None and left <= 0:
            return None
        try:
            async with asyncio.timeout(left):
                while asked.rows() and await self._wait():
                    batch = self._inbox.batch(asked.rows())
                    self._look_for_room()
                    if batch is not None:
                        return asked.given(batch)
        except TimeoutError:
            pass
        return None

    def _look_for_room(self) -> None:
        if len(self._inbox) < self._limit:
            self._go_on.set()

    async def _wait(self) -> bool:
        """Until there is a message; False = there will be none. Always lets the loop go round once."""
        await asyncio.sleep(0)
        while not len(self._inbox):
            if self._task is None:
                raise ClientError("the feed is not open")
            if self._task.done():
                if self._ended is not None:
                    raise self._ended
                return False
            self._there_is.clear()
            await self._there_is.wait()
        return True

    # The task.

    async def _run(self, transport: Transport) -> None:
        try:
            while True:
                begun = self._clock.monotonic()
                self._told_resumed()
                came, reason = await self._read(transport)
                if came or self._clock.monotonic() - begun > self._backoff.most:
                    self._backoff.reset()
                if not self._reconnect:
                    raise ConnectionFailed(f"the connection to {self.url} ended: {reason}")
                transport = await self._again(reason)
        except asyncio.CancelledError:
            pass  # close() asked for it, and only close() has the task
        except Exception as error:  # noqa: BLE001  # whoever iterates gets it, whatever it is
            self._ended = error
        finally:
            await self._finish()

    async def _finish(self) -> None:
        if self._transport is not None:
            await self._drop(self._transport)
        self._tell(State.CLOSED, str(self._ended or ""))
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
        log.info("%s: %s; connecting again in %.1f s", self.url, reason, delay)
        self._tell(State.WAITING, reason, delay)
        await asyncio.sleep(delay)

    async def _connect(self) -> Transport:
        """Open a connection, up to where the server takes commands."""
        self._tell(State.CONNECTING)
        transport = await open_transport(
            self.url, self._open_timeout, self._ping_interval, self._ssl_context, ENCODINGS[self._encoding]
        )
        self._transport = transport
        session = self._session
        session.connected()
        try:
            async with asyncio.timeout(self._open_timeout):
                while not session.ready:
                    frame = await transport.read()
                    if frame is None:
                        said = session.last_error.msg if session.last_error is not None else transport.reason
                        if closed_for_good(transport.code):
                            raise ConnectionRefused(transport.code or 0, f"{self.url} refused the connection: {said}")
                        raise ConnectionFailed(f"{self.url} ended the connection at once: {said}")
                    session.receive(frame)
                    self._send()
                    if session.failure is not None:
                        raise session.failure
        except TimeoutError:
            await self._drop(transport)
            raise ConnectionFailed(f"{self.url} did not greet within {self._open_timeout:g} s") from None
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


@parameters_of(Feed)
def connect(*address: Any, **options: Any) -> Feed:
    """A feed from a server: ``async with marketfeed.connect(url) as feed:``.

    Args:
        url: ``ws://HOST:PORT/stream`` (every feed) or ``.../v2/FEED`` (one), or ``wss://``.
        key, secret, token: who is there; a server without keys takes any.
        reconnect: connect again after a cut and resume: each tick still comes once, and what is lost comes as a
            :class:`Gap`. Else a cut raises :class:`ConnectionFailed` from the iteration.
        wait_for_server: also try the first connection again and again, rather than raise.
        on_state: called on the loop with each :class:`StateChange`.
        encoding: ``"json"``, or ``"binary"``: ticks as records, for :meth:`Feed.batches`, of a server that has them.
        buffer: messages to read ahead. A consumer slower than its stream makes the reading wait, and with it the pongs:
            one that takes nothing at all for longer than the server waits for a pong is cut off, and resumes when it
            goes on.
        open_timeout: seconds for a connection to be made, greeting and authentication included.
        command_timeout: seconds for the answer to a command, a reconnect included.
        ping_interval: after so many seconds of silence the server is pinged; after as many more it is given up.
        ssl_context: for ``wss://``; None = the system's authorities.
        backoff, clock: for tests; the pause before attempt n is uniform(0, min(30 s, 0.5 s * 2**n)).

    Raises:
        ValueError: not such an address.
    """
    return Feed(*address, **options)
