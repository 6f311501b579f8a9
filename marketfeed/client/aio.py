"""The asyncio client: a feed's messages or batches as they are taken, and its commands."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from marketfeed.client import request
from marketfeed.client.backoff import Backoff
from marketfeed.client.batch import Batch
from marketfeed.client.connection import Connection, Way
from marketfeed.client.errors import CommandError
from marketfeed.client.inbox import BATCH_ROWS, BatchesAsked, Inbox
from marketfeed.client.messages import Message, Subscription
from marketfeed.client.request import Command
from marketfeed.client.session import Credentials, Session
from marketfeed.client.signature import own_parameters_of, parameters_of
from marketfeed.client.state import State, StateChange
from marketfeed.model.clock import Clock, SystemClock

#: Messages read ahead of the consumer. A message takes about 300 bytes, a record 88.
BUFFER = 32_768
#: What a connection may be asked to carry -> the subprotocol to ask for; JSON is what every server speaks.
ENCODINGS: dict[str, str | None] = {"json": None, "binary": "marketfeed.binary"}
#: A consumer that never waits still lets the loop go round after so many messages.
_TURN = 256


class Feed:
    """A stream of messages. Made by :func:`connect`; an async context manager and an async iterator."""

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
        credentials = Credentials(key, secret, token) if key or secret or token else None
        self._session = Session(credentials, parts.path.removeprefix("/v2/") if parts.path.startswith("/v2/") else "")
        self._command_timeout = command_timeout
        self._clock = clock or SystemClock()
        self._inbox = Inbox()
        self._given = 0
        way = Way(url, ENCODINGS[encoding], reconnect, wait_for_server, open_timeout, ping_interval, ssl_context)
        backoff = backoff or Backoff(random.Random())
        self._connection = Connection(way, self._session, self._inbox, buffer, on_state, backoff, self._clock)

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._connection.state

    @property
    def reconnects(self) -> int:
        """How often the connection was made anew."""
        return self._connection.reconnects

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
        await self._connection.open()
        return self

    async def close(self) -> None:
        """End it, with a closing handshake. Iteration ends; what was read but not taken is dropped."""
        await self._connection.close()
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
        self._connection.check_open()
        answered: asyncio.Future[Subscription | CommandError] = asyncio.get_running_loop().create_future()
        self._session.ask(commands, lambda answer: None if answered.done() else answered.set_result(answer))
        await self._connection.answered(answered, self._command_timeout)
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
            if not await self._connection.filled():
                raise StopAsyncIteration
        self._connection.room()
        return message

    async def take(self) -> list[Message]:
        """All messages that are there, in order; waits until there is one. Empty = the feed was closed.

        Cheaper than one by one.

        Raises:
            ClientError: why the feed is at its end; as the iteration raises it.
        """
        messages: list[Message] = []
        while not messages and await self._connection.filled():
            messages = self._inbox.take()
            self._connection.room()
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
                while asked.rows() and await self._connection.filled():
                    batch = self._inbox.batch(asked.rows())
                    self._connection.room()
                    if batch is not None:
                        return asked.given(batch)
        except TimeoutError:
            pass
        return None


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
