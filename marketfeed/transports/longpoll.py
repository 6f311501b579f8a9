"""HTTP long polling: each answer is what came since the one before, for networks where nothing else passes.

::

    POST /poll                       opens: {"session": ID, "cursor": 0}
    GET /poll/ID?cursor=N            waits, then {"cursor": N + 1, "messages": [...], "position": {...}}
    POST, DELETE /poll/ID            more commands; the end

To ask with an answer's cursor says that it has come. Until then it is kept, one at the most, and given again to whoever
asks with the cursor before it. While nobody asks, a link takes nothing: what there is to tell waits in the ring.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from marketfeed.stream.codes import CloseCode
from marketfeed.stream.link import Took
from marketfeed.transports.base import EachLink, Gate
from marketfeed.transports.http import StreamingHandler, as_texts, refused, split_commands

#: The longest wait for an answer, in seconds: proxies give up after 30 and more.
WAIT_SECONDS = 25.0
#: An answer that has so many bytes takes no more frames.
_ANSWER_BYTES = 1 << 16


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What opens a session."""

    #: only this feed's instruments; None = every feed's, each tick with `f`
    feed: str | None = None
    #: as on a WebSocket
    commands: list[dict[str, Any]] = []


class PollLink(EachLink):
    """One client's session, from request to request.

    Args:
        epoch: of the store.
        forget: called when nobody may ask any more.
    """

    def __init__(self, gate: Gate, epoch: int, forget: Callable[[], object]) -> None:
        self._gate = gate
        self._epoch = epoch
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        #: of the last answer, which is kept until the client says that it has come
        self._cursor = 0
        self._answer = b""
        #: frames of the answer that is being put together
        self._frames: list[bytes] = []
        self._size = 0
        self._opening = True
        self._asking: asyncio.Future[bytes] | None = None
        #: ends the wait of who asks
        self._timer: asyncio.Handle | None = None
        #: gives the answer, when all that is to go into it has come
        self._ready: asyncio.Handle | None = None
        self._asked_at = gate.clock()
        #: why it was ended, until that is told
        self._end: dict[str, Any] | None = None
        #: nobody may ask any more
        self.over = False

    @staticmethod
    def wrap(payload: bytes, binary: bool, seq: int | None) -> bytes:
        """The messages without the brackets of their array."""
        return payload[1:-1]

    def send(self, frame: bytes) -> Took:
        if self._opening:
            self._take(frame)
            return Took.MORE
        if self._asking is None or self._size >= _ANSWER_BYTES:
            return Took.NOTHING
        self._take(frame)
        self._soon()
        return Took.MORE if self._size < _ANSWER_BYTES else Took.LAST

    def _take(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._size += len(frame)

    def _soon(self) -> None:
        """Give the answer when the hub has given all that it has to give now."""
        if self._ready is None:
            self._ready = self._loop.call_soon(self._give)

    def opened(self) -> None:
        """The session is there: from now on it takes something only while it is asked."""
        self._opening = False
        self._gate.stalled(self)

    def alive(self) -> None:
        """The client has said something."""
        self._asked_at = self._gate.clock()

    def ask(self, cursor: int, wait: float) -> asyncio.Future[bytes]:
        """The answer, at the latest after so many seconds.

        Args:
            cursor: of the last answer that the client has.

        Raises:
            Refused: it is not one of the last two.
        """
        self.alive()
        asking: asyncio.Future[bytes] = self._loop.create_future()
        if self._answer and cursor == self._cursor - 1:
            asking.set_result(self._answer)
            return asking
        if cursor != self._cursor:
            raise refused(
                f"cursor is that of the last answer, {self._cursor}, or where that one was lost, the one before"
            )
        if self._asking is not None:
            # Its client may have lost the connection without our knowing, and must not be kept out by its own ghost.
            self._asking.set_exception(refused("another request asks for the same answer", 409))
            self._stop_waiting()
        self._answer = b""
        self._asking = asking
        self._timer = self._loop.call_later(wait, self._give)
        if self._end is not None:
            self._give()
            return asking
        self._gate.writable(self)
        if self._frames:
            self._soon()
        return asking

    def forsake(self, asking: asyncio.Future[bytes]) -> None:
        """Who asked has gone. What was taken meanwhile is for the next."""
        self.alive()
        if self._asking is asking:
            self._stop_waiting()
            self._gate.stalled(self)

    def _stop_waiting(self) -> None:
        self._asking = None
        for handle in (self._timer, self._ready):
            if handle is not None:
                handle.cancel()
        self._timer = self._ready = None

    def _give(self) -> None:
        """Answer who asks: with all that was taken, or with nothing, which moves no cursor."""
        asking = self._asking
        if asking is None:
            return
        self._stop_waiting()
        if self._frames:
            self._cursor += 1
        answer = b'{"cursor":%d,"messages":[%b]' % (self._cursor, b",".join(self._frames))
        position = self._gate.position(self)
        if position is not None:
            answer += b',"position":{"epoch":%d,"seq":%d}' % (self._epoch, position)
        if self._end is not None:
            answer += b',"close":%b' % orjson.dumps(self._end)
            self.over = True
            self._forget()
        answer += b"}"
        if self._frames:
            self._answer = answer
            self._frames, self._size = [], 0
        self.alive()
        asking.set_result(answer)
        self._gate.stalled(self)

    def close(self, code: CloseCode | int, reason: str) -> None:
        # Told to whoever asks, now or next; until then it is still the gate's.
        self._end = {"code": int(code), "reason": reason}
        self._give()

    def delete(self) -> None:
        """The client wants no more, or was not heard of for too long."""
        self.over = True
        self._forget()
        if self._asking is not None:
            self._asking.set_exception(gone())
            self._stop_waiting()
        self._gate.left(self)

    def check(self, now: float) -> None:
        """End it when nobody asks any more."""
        if self._asking is None and now - self._asked_at > self._gate.limits.poll_seconds:
            self.delete()


def gone() -> Exception:
    """The answer to who asks for a session that is not there."""
    return refused(
        "no such session: it was ended, or expired. Open another one, and subscribe since your position", 404
    )


class OpenHandler(StreamingHandler):
    """`POST /poll`."""

    def initialize(self, gate: Gate, **more: Any) -> None:
        super().initialize(gate)
        self._links: dict[str, PollLink] = more["links"]

    def post(self) -> None:
        try:
            opening = msgspec.json.decode(self.request.body or b"{}", type=Opening)
        except msgspec.MsgspecError as error:
            raise refused(str(error)) from None
        commands = as_texts(opening.commands)
        session, gate, links = secrets.token_urlsafe(18), self.gate, self._links
        link = PollLink(gate, gate.hub.store.epoch, lambda: links.pop(session, None))
        self.admit(link, f"poll {self.request.remote_ip}", opening.feed or None, commands, in_query=False)
        links[session] = link
        link.opened()
        self.finish(orjson.dumps({"session": session, "cursor": 0}))


class PollHandler(StreamingHandler):
    """`/poll/{session}`."""

    def initialize(self, gate: Gate, **more: Any) -> None:
        super().initialize(gate)
        self._links: dict[str, PollLink] = more["links"]
        self._asking: tuple[PollLink, asyncio.Future[bytes]] | None = None

    def _link(self, session: str) -> PollLink:
        link = self._links.get(session)
        if link is None:
            raise gone()
        return link

    async def get(self, session: str) -> None:
        link = self._link(session)
        assert isinstance(self.request.connection, HTTP1Connection)
        if self.request.connection.stream.closed():
            # Whoever is gone before the answer is waited for is not told of: on_connection_close would not come.
            return
        asking = link.ask(self._number("cursor"), min(self._number("wait", WAIT_SECONDS), WAIT_SECONDS))
        self._asking = link, asking
        try:
            await self.finish(await asking)
        except StreamClosedError:
            pass  # the answer is kept for whoever asks again
        finally:
            if link.over:
                self.gate.left(link)

    def _number(self, name: str, default: Any = None) -> Any:
        """A query parameter that is a whole number; ``default`` where it is not given."""
        text = self.get_query_argument(name, "")
        if not text and default is not None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 18):
            raise refused(f"{name} is a whole number, not {text[:120]!r}")
        return int(text)

    def on_connection_close(self) -> None:
        if self._asking is not None:
            link, asking = self._asking
            link.forsake(asking)
            if not asking.done():
                asking.set_result(b"")

    def post(self, session: str) -> None:
        link = self._link(session)
        link.alive()
        for command in split_commands(self.request.body):
            self.gate.receive(link, command)
        self.set_status(204)

    def delete(self, session: str) -> None:
        self._link(session).delete()
        self.set_status(204)


def routes(gate: Gate) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """What this transport serves."""
    links: dict[str, PollLink] = {}
    return [
        (r"/poll", OpenHandler, {"gate": gate, "links": links}),
        (r"/poll/([\w-]+)", PollHandler, {"gate": gate, "links": links}),
    ]
