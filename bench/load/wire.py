"""WebSocket as the load client speaks it: RFC 6455, only what is needed, bytes in and bytes out."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


def upgrade(host: str, path: str) -> tuple[bytes, bytes]:
    """The opening request, and the ``Sec-WebSocket-Accept`` that a server must answer with."""
    key = base64.b64encode(os.urandom(16))
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key.decode()}\r\n\r\n"
    ).encode()
    return request, base64.b64encode(hashlib.sha1(key + _GUID).digest())


def accepted(head: bytes, accept: bytes) -> bool:
    """Whether an answer's head (without the empty line) opens the connection."""
    status, *lines = head.split(b"\r\n")
    headers = dict(line.split(b":", 1) for line in lines if b":" in line)
    given = {name.strip().lower(): value.strip() for name, value in headers.items()}
    return status.split(b" ")[1:2] == [b"101"] and given.get(b"sec-websocket-accept") == accept


def frame(opcode: int, payload: bytes) -> bytes:
    """One client frame, masked."""
    mask = os.urandom(4)
    n = len(payload)
    if n < 126:
        head = bytes((0x80 | opcode, 0x80 | n))
    elif n < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + n.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + n.to_bytes(8, "big")
    key = (mask * (n // 4 + 1))[:n]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(n, "big")
    return head + mask + masked


def frames(data: bytes | bytearray) -> Iterator[tuple[int, bytes, int]]:
    """Every whole server frame in the bytes: opcode, payload, and where the next one begins.

    Raises:
        ValueError: masked, fragmented, compressed or of an unknown opcode: no server here may send that.
    """
    at = 0
    while len(data) - at >= 2:
        opcode, size, begin = data[at] & 0x0F, data[at + 1], at + 2
        if data[at] & 0xF0 != 0x80 or opcode not in (TEXT, CLOSE, PING, PONG) or size > 127:
            raise ValueError(f"byte {at} begins no frame that is expected here: {bytes(data[at : at + 2]).hex()}")
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[begin : begin + width], "big")
            if len(data) < begin + width:
                return
            begin += width
        if len(data) < begin + size:
            return
        yield opcode, bytes(data[begin : begin + size]), begin + size
        at = begin + size


def subscription(wanted: list[int] | None, symbols: list[str], max_hz: float | None) -> dict[str, object]:
    """The command: quotes and trades of these indices of ``symbols``, None = all."""
    names = ["*"] if wanted is None else [symbols[i] for i in wanted]
    command: dict[str, object] = {"action": "subscribe", "quotes": names, "trades": names}
    if max_hz is not None:
        command["max_hz"] = max_hz
    return command


class WebSocketDialect:
    """A server that speaks marketfeed's protocol on a WebSocket."""

    #: what to say once the connection is open, before the subscription.
    greeting: bytes = b""
    #: how the answer to the greeting ends.
    greeted: bytes = b""
    #: the updates are one text, repeated.
    prebuilt = False

    def __init__(self, path: str) -> None:
        self.path = path

    def opening(self) -> tuple[bytes, bytes]:
        """The first bytes to send, and what must come back: see :func:`upgrade`. Empty = no handshake."""
        return upgrade("127.0.0.1", self.path)

    def subscribe(self, wanted: list[int] | None, symbols: list[str], max_hz: float | None) -> bytes:
        """The bytes that subscribe; the server's answer has ``"subscription"`` in it."""
        return frame(TEXT, json.dumps(subscription(wanted, symbols, max_hz)).encode())

    def pong(self) -> bytes:
        """What keeps a connection alive: a pong that nobody asked for (RFC 6455, 5.5.3)."""
        return frame(PONG, b"")

    def messages(self, text: bytes) -> list[dict[str, object]]:
        """The messages in one text frame.

        Raises:
            ValueError: it is no array of messages.
        """
        found = json.loads(text)
        if not isinstance(found, list):
            raise ValueError(f"not an array of messages: {text[:80]!r}")
        return found


class SocketIoDialect(WebSocketDialect):
    """The same in Socket.IO 4 over Engine.IO 4: '0' open, '40' connect, '42' event, '2' ping, '3' pong."""

    greeting = frame(TEXT, b"40")
    #: Of '40{"sid":"..."}'; Engine.IO's own '0{...}' before it ends with a number.
    greeted = b'"}'

    def subscribe(self, wanted: list[int] | None, symbols: list[str], max_hz: float | None) -> bytes:
        return frame(TEXT, b"42" + json.dumps(["subscribe", subscription(wanted, symbols, max_hz)]).encode())

    def pong(self) -> bytes:
        return frame(TEXT, b"3")

    def messages(self, text: bytes) -> list[dict[str, object]]:
        found = json.loads(text[2:])[1] if text.startswith(b"42") else []
        # A peer's events are arrays of messages; ours are so where they are ticks.
        return found if isinstance(found, list) else [found]


class PlainDialect(WebSocketDialect):
    """The floor's: no handshake, one line with the symbols' indices; what comes back are WebSocket frames."""

    prebuilt = True

    def opening(self) -> tuple[bytes, bytes]:
        return b"", b""

    def subscribe(self, wanted: list[int] | None, symbols: list[str], max_hz: float | None) -> bytes:
        return (" ".join(["*"] if wanted is None else [str(i) for i in wanted]) + "\n").encode()

    def pong(self) -> bytes:
        return b""


DIALECTS = {"websocket": WebSocketDialect, "socket.io": SocketIoDialect, "plain": PlainDialect}
