"""The client for scripts and notebooks: the asyncio client on a loop of its own, in a thread of its own.

The thread reads ahead no further than the asyncio client's buffer. The caller takes all that is there in one go, so
that the price of crossing threads is paid once for many messages when there are many.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from marketfeed.client import request
from marketfeed.client.aio import Feed, connect
from marketfeed.client.batch import Batch
from marketfeed.client.errors import ClientError
from marketfeed.client.inbox import BATCH_ROWS, BatchesAsked, Inbox
from marketfeed.client.messages import Message, Subscription
from marketfeed.client.signature import own_parameters_of, parameters_of
from marketfeed.client.state import State

T = TypeVar("T")

#: Seconds that the thread has to end: the closing handshake, and a little.
_END_S = 5.0


class _LoopThread:
    """A loop in a thread. It knows nothing of who uses it, so that a forgotten :class:`SyncFeed` can be collected."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._main, args=(started,), name="marketfeed", daemon=True)
        self._thread.start()
        self._loop = started.result()

    def _main(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        async def until_stopped() -> None:
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()

        asyncio.run(until_stopped())

    def call(self, work: Coroutine[Any, Any, T], within: float | None = None) -> T:
        """Run it there and wait for it here. Ctrl-C, or the time being over, cancels it."""
        if not self._thread.is_alive():
            work.close()
            raise ClientError("the feed was closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(within)
        except BaseException:
            future.cancel()
            raise

    def stop(self, feed: Feed) -> None:
        """Close the feed, end the loop and the thread."""
        if self._thread.is_alive():
            try:
                self.call(feed.close(), _END_S)
            finally:
                self._loop.call_soon_threadsafe(self._stop.set)
                self._thread.join(_END_S)


class SyncFeed:
    """A stream of messages, for one thread at a time. Made by :func:`connect_sync`; context manager and iterator."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._taken = Inbox()
        self._thread = _LoopThread()
        # Also when it is forgotten, and when the interpreter ends.
        self._finalizer = weakref.finalize(self, self._thread.stop, feed)
        try:
            self._thread.call(feed.open())
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Where it is connected to."""
        return self._feed.url

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._feed.state

    @property
    def reconnects(self) -> int:
        """How often the connection was made anew."""
        return self._feed.reconnects

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, with a closing handshake. Iteration ends."""
        self._taken.clear()
        self._finalizer()

    @own_parameters_of(request.subscribe)
    def subscribe(self, *symbols: Any, **options: Any) -> Subscription:
        """As :meth:`Feed.subscribe`."""
        return self._thread.call(self._feed.subscribe(*symbols, **options))

    @own_parameters_of(request.unsubscribe)
    def unsubscribe(self, *symbols: Any, **more: Any) -> Subscription:
        """As :meth:`Feed.unsubscribe`."""
        return self._thread.call(self._feed.unsubscribe(*symbols, **more))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        while (message := self._taken.pop()) is None:
            taken = self.take()
            if not taken:
                raise StopIteration
            self._taken.put(taken)
        return message

    def take(self, timeout: float | None = None) -> list[Message]:
        """All messages that are there, in order; waits until there is one. Empty = the feed was closed.

        Args:
            timeout: seconds to wait at most.

        Raises:
            TimeoutError: none came in that time.
            ClientError: why the feed is at its end; as the iteration raises it.
        """
        if len(self._taken):
            return self._taken.take()
        if not self._finalizer.alive:
            return []
        return self._thread.call(self._feed.take(), timeout)

    def batches(
        self, *, max_rows: int | None = None, timeout: float | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[Batch]:
        """As :meth:`Feed.batches`: ``for batch in feed.batches(max_rows=1_000_000, timeout=10):``."""
        asked = BatchesAsked(max_rows, timeout, batch_rows, self._feed._clock)
        return self._batches(asked)

    def _batches(self, asked: BatchesAsked) -> Iterator[Batch]:
        # First what was taken for somebody who asked for messages.
        while asked.rows() and (batch := self._taken.batch(asked.rows())) is not None:
            yield asked.given(batch)
        while self._finalizer.alive and (batch := self._thread.call(self._feed.next_batch(asked))) is not None:
            yield batch


@parameters_of(connect)
def connect_sync(*address: Any, **options: Any) -> SyncFeed:
    """A feed from a server: ``with marketfeed.connect_sync(url) as feed:``, or without `with` and then `close()`.

    It works wherever plain code runs, also in a notebook's cell. Ctrl-C interrupts any waiting and loses no message.

    Args:
        url, options: as in :func:`connect`; ``on_state`` is called in the background thread.

    Raises:
        ValueError, ConnectionFailed, ConnectionRefused: as :func:`connect` and :meth:`Feed.open`.
    """
    return SyncFeed(connect(*address, **options))
