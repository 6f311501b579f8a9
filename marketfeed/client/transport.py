"""One WebSocket connection: Tornado's client, with what it takes to end it cleanly and to notice that it is dead."""

from __future__ import annotations

import asyncio
import ssl

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, WebSocketError, websocket_connect

from marketfeed.client.errors import ConnectionFailed, ConnectionRefused

#: The largest frame that is read, bytes.
MAX_FRAME = 16 * 1024 * 1024
#: Seconds that the server has to complete the closing handshake.
_CLOSE_S = 1.0
#: Seconds that a loop has to read what came while it was held up.
_LOOK_AGAIN_S = 0.05
#: HTTP answers to the upgrade that say "not you" or "not here"; others may be different next time.
_FINAL_STATUS = frozenset({400, 401, 403, 404, 405, 410, 426})


class Transport:
    """An open connection.

    It pings only when nothing comes while somebody waits for it: the pong of a server whose data we do not read,
    because the consumer is slow, stands behind that data, and its absence would say nothing about the server.

    Attributes:
        code: the close code that the server sent, None before that or if the connection just broke.
        reason: why it ended, in words.
    """

    def __init__(self, connection: WebSocketClientConnection, ping_interval: float) -> None:
        assert connection.protocol is not None
        self._connection = connection
        self._protocol = connection.protocol
        self._protocol.set_nodelay(True)
        self._reading = False
        self._lost = False
        self._silent = True
        self._pinged = False
        #: why it was given up
        self._dead = ""
        self._overdue: asyncio.TimerHandle | None = None
        self._interval = ping_interval
        self.code: int | None = None
        self.reason = ""
        # Tornado documents this hook for subclasses, but makes the connection itself.
        connection.on_pong = self._heard  # type: ignore[method-assign]  # Tornado's client connection has no callback for it
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(ping_interval, self._look) if ping_interval > 0 else None

    def _heard(self, data: bytes) -> None:
        self._silent = self._pinged = False

    def _look(self) -> None:
        if not self._reading or not self._silent:
            self._pinged = False
        elif self._pinged:
            self._give_up(f"nothing was heard for {2 * self._interval:g} s")
            return
        else:
            self._pinged = True
            try:
                self._connection.ping()
            except (WebSocketClosedError, StreamClosedError):
                return  # read() is about to say so
        self._silent = True
        self._watch = asyncio.get_running_loop().call_later(self._interval, self._look)

    def _look_again(self, silence: float) -> None:
        # A loop that was held up finds the time over before it has read what came meanwhile.
        reason = f"no heartbeat was heard for {silence:g} s"
        self._overdue = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._give_up, reason)

    def _give_up(self, reason: str) -> None:
        self._dead = reason
        self._protocol.stream.close()  # type: ignore[union-attr]  # an open connection has a stream

    async def read(self, within: float | None = None) -> str | bytes | None:
        """The next frame; None when the connection is gone.

        Args:
            within: seconds; where none comes in that time the connection is given up. None = wait.
        """
        if self._lost:
            return None
        self._reading = True
        if within is not None:
            self._overdue = asyncio.get_running_loop().call_later(within, self._look_again, within)
        try:
            frame = await self._connection.read_message()
        finally:
            if self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None
            self._reading = False
        self._silent = self._pinged = False
        if frame is None:
            self._lost = True
            self.code = self._connection.close_code
            if self._dead:
                self.reason = self._dead
            elif self.code is None:
                self.reason = "the connection broke"
            else:
                self.reason = f"closed with {self.code} {self._connection.close_reason or ''}".rstrip()
        return frame

    def write(self, text: str) -> None:
        """Send a text frame. Whether it arrives shows in the answer to it."""
        try:
            sent = asyncio.ensure_future(self._connection.write_message(text))
        except WebSocketClosedError:
            return  # read() is about to say so
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def close(self) -> None:
        """End the connection: with the closing handshake if the server takes part, else by force."""
        if self._watch is not None:
            self._watch.cancel()
        self._connection.close(1000)
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._drain()
        except TimeoutError:
            self._protocol.stream.close()  # type: ignore[union-attr]  # an open connection has a stream
            await self._drain()

    async def _drain(self) -> None:
        while not self._lost:
            self._lost = await self._connection.read_message() is None


async def open_transport(
    url: str, within: float, ping_interval: float, context: ssl.SSLContext | None, subprotocol: str | None = None
) -> Transport:
    """Connect within so many seconds.

    Args:
        subprotocol: what the connection has to carry; None = whatever the server sends unasked.

    Raises:
        ConnectionFailed: nobody there, no answer in time, or no WebSocket behind it.
        ConnectionRefused: the HTTP answer says that another attempt would not help, or the subprotocol is not served.
    """
    request = HTTPRequest(url, connect_timeout=within, request_timeout=within, ssl_options=context)
    opening = asyncio.ensure_future(
        websocket_connect(
            request,
            compression_options=None,
            max_message_size=MAX_FRAME,
            ping_interval=0,
            subprotocols=None if subprotocol is None else [subprotocol],
        )
    )
    try:
        # Tornado keeps the time itself; shielded, so that a connection made while we are cancelled can be closed.
        connection = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_discard)
        raise
    except HTTPClientError as error:
        # 599 is Tornado's own for "no answer at all".
        words = f"{url}: {'' if error.code == 599 else f'HTTP {error.code} '}{error.message}"
        if error.code in _FINAL_STATUS:
            raise ConnectionRefused(error.code, words) from None
        raise ConnectionFailed(f"cannot connect to {words}") from None
    except (OSError, StreamClosedError, WebSocketError, ssl.SSLError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConnectionFailed(f"cannot connect to {url}: {text}") from None
    transport = Transport(connection, ping_interval)
    if subprotocol is not None and connection.selected_subprotocol != subprotocol:
        await transport.close()
        raise ConnectionRefused(101, f"{url}: the server does not serve {subprotocol}")
    return transport


def _discard(opening: asyncio.Future[WebSocketClientConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
