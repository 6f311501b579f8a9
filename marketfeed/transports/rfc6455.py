"""The WebSocket protocol (RFC 6455) of a server: bytes in, events out; no I/O.

What breaks the rules ends the connection with the close code that the RFC has for it, and as soon as it can be seen:
a header by itself, text by its first octet that is no UTF-8, a message before it is longer than allowed.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
import struct
import sys
from typing import NamedTuple, Protocol

NORMAL, PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1000, 1002, 1007, 1009

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FIN, _RSV1, _RSV, _CONTROL, _OPCODE = 0x80, 0x40, 0x70, 0x8, 0x0F
_MASKED, _LENGTH_16, _LENGTH_64 = 0x80, 126, 127
#: Of a control frame's payload (5.5), and of a close frame's reason.
_CONTROL_BYTES, _REASON_BYTES = 125, 123
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Violation(Exception):
    """A client broke the rules; the connection is to be failed (7.1.7) with this close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Ping(NamedTuple):
    """To be answered by a pong with the same data."""

    data: bytes


class Pong(NamedTuple):
    """The answer to a ping, or unasked for."""

    data: bytes


class Close(NamedTuple):
    """The client's close frame. ``code`` is 1005 where it has none (7.1.5). No event comes after it."""

    code: int
    reason: str


class Fail(NamedTuple):
    """The client broke the rules: close with this code. No event comes after it."""

    code: int
    reason: str


#: A message is a `str` (text) or `bytes` (binary) as it is.
Event = str | bytes | Ping | Pong | Close | Fail


class Inflater(Protocol):
    """Undoes the compression of one message at a time."""

    def inflate(self, data: bytes, most: int) -> bytes:
        """What these bytes of the message stand for.

        Raises:
            Violation: more than so many bytes, or no compressed data.
        """

    def end(self, most: int) -> bytes:
        """The message is complete: what is left of it."""


class Receiver:
    """What one client sends.

    Args:
        limit: bytes that a message may have, after decompression too.
        inflater: undoes permessage-deflate (RFC 7692); None = it was not negotiated.

    Holds at most one message of that length and a header; nothing while no message is under way.
    """

    __slots__ = ("_checked", "_inflater", "_left", "_limit", "_mask", "_message", "_opcode", "_over", "_rest", "_wire")

    def __init__(self, limit: int, inflater: Inflater | None = None) -> None:
        self._limit = limit
        self._inflater = inflater
        #: what came of a header, or of a control frame, that is not complete
        self._rest = b""
        #: of the data frame that has begun: the first octet of its header, how much of its payload is still to come,
        #: and the mask, turned so that it begins with what comes next
        self._left = 0
        self._mask = b""
        #: of the message that has begun: the first octet of its first frame (0 = none has), its payload so far, how
        #: much of that is known to be UTF-8, and what it took on the wire
        self._opcode = 0
        self._message: bytearray | None = None
        self._checked = 0
        self._wire = 0
        self._over = False

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes, after those before, complete. Nothing any more after a :class:`Close` or :class:`Fail`."""
        events: list[Event] = []
        if not self._over:
            try:
                self._receive(self._rest + data if self._rest else data, events)
            except Violation as violation:
                events.append(Fail(violation.code, str(violation)))
                self._end()
        return events

    def _end(self) -> None:
        self._over = True
        self._rest, self._message = b"", None

    # ---- frames -----------------------------------------------------------------------------------------------

    def _receive(self, data: bytes, events: list[Event]) -> None:
        at, end = 0, len(data)
        while at < end and not self._over:
            if self._left:
                at = self._payload(data, at, events)
                continue
            if end - at < 2:
                break
            first, second = data[at], data[at + 1]
            self._check_header(first, second)
            length, head = second & ~_MASKED, at + 2
            if length == _LENGTH_16:
                head += 2
                length = int.from_bytes(data[at + 2 : head])
            elif length == _LENGTH_64:
                head += 8
                length = int.from_bytes(data[at + 2 : head])
            if end < head:
                break
            _check_length(second & ~_MASKED, length)
            if first & _CONTROL:
                if end < head + 4 + length:
                    break
                payload = unmask(data[head + 4 : head + 4 + length], data[head : head + 4])
                at = head + 4 + length
                self._control(first & _OPCODE, payload, events)
                continue
            self._check_size(first, length)
            if end < head + 4:
                break
            self._begin(first, length, data[head : head + 4])
            at = head + 4
            if not length:
                self._frame_complete(events)
        self._rest = b"" if self._over else data[at:]

    def _check_header(self, first: int, second: int) -> None:
        """Whether this may be the header of a frame here (5.2, 5.4, 5.5)."""
        opcode = first & _OPCODE
        reserved = first & _RSV
        if reserved and not (reserved == _RSV1 and self._inflater is not None and opcode in (_TEXT, _BINARY)):
            raise Violation(PROTOCOL_ERROR, "reserved bits are set")
        if opcode & _CONTROL:
            if opcode > _PONG:
                raise Violation(PROTOCOL_ERROR, f"unknown opcode {opcode}")
            if not first & _FIN:
                raise Violation(PROTOCOL_ERROR, "a control frame in fragments")
            if second & ~_MASKED > _CONTROL_BYTES:
                raise Violation(PROTOCOL_ERROR, "a control frame that is too long")
        elif opcode > _BINARY:
            raise Violation(PROTOCOL_ERROR, f"unknown opcode {opcode}")
        elif opcode == _CONTINUATION and not self._opcode:
            raise Violation(PROTOCOL_ERROR, "nothing to continue")
        elif opcode != _CONTINUATION and self._opcode:
            raise Violation(PROTOCOL_ERROR, "a message within another")
        if not second & _MASKED:
            raise Violation(PROTOCOL_ERROR, "a frame without a mask")

    def _check_size(self, first: int, length: int) -> None:
        """Refuse a message that is too long before any more of it is taken."""
        # What a compressed one comes to shows when it is inflated. On the wire it may be longer than that: a little,
        # for what does not compress, and for flushes.
        compressed = (self._opcode or first) & _RSV1
        if self._wire + length > (2 * self._limit if compressed else self._limit):
            raise Violation(TOO_BIG, f"a message of more than {self._limit} bytes")

    def _begin(self, first: int, length: int, mask: bytes) -> None:
        if not self._opcode:
            self._opcode, self._checked = first, 0
        elif first & _FIN:
            self._opcode |= _FIN
        self._left, self._mask = length, mask
        self._wire += length

    def _payload(self, data: bytes, at: int, events: list[Event]) -> int:
        """Take what has come of a data frame's payload; returns where that ends."""
        part = data[at : at + self._left] if at or len(data) > self._left else data
        n = len(part)
        plain = unmask(part, self._mask)
        self._left -= n
        if self._left:
            turn = n % 4
            self._mask = self._mask[turn:] + self._mask[:turn]
        opcode = self._opcode
        if self._message is None and not self._left and opcode & _FIN and not opcode & _RSV1:
            # As nearly every message comes: all at once.
            self._opcode = self._wire = 0
            events.append(_text(plain) if opcode & _OPCODE == _TEXT else plain)
            return at + n
        if opcode & _RSV1:
            assert self._inflater is not None
            plain = self._inflater.inflate(plain, self._limit - len(self._message or b""))
        self._add(plain)
        if not self._left:
            self._frame_complete(events)
        return at + n

    # ---- messages -----------------------------------------------------------------------------------------------

    def _add(self, plain: bytes) -> None:
        """More of a message that does not come all at once."""
        if self._message is None:
            self._message = bytearray()
        self._message += plain
        if self._opcode & _OPCODE == _TEXT:
            # At most three octets of a character that is not complete are looked at again.
            try:
                self._checked += codecs.utf_8_decode(self._message[self._checked :], "strict", False)[1]
            except UnicodeDecodeError:
                raise Violation(INVALID_DATA, "text that is not UTF-8") from None
            # Half a surrogate is none by its second octet; Python waits for the third.
            if b"\xed\xa0" <= self._message[self._checked :] < b"\xee":
                raise Violation(INVALID_DATA, "text that is not UTF-8")

    def _frame_complete(self, events: list[Event]) -> None:
        opcode = self._opcode
        if not opcode & _FIN:
            return
        if opcode & _RSV1:
            assert self._inflater is not None
            self._add(self._inflater.end(self._limit - len(self._message or b"")))
        message = self._message or b""
        self._message, self._opcode, self._wire = None, 0, 0
        events.append(_text(message) if opcode & _OPCODE == _TEXT else bytes(message))

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        if opcode == _PING:
            events.append(Ping(payload))
        elif opcode == _PONG:
            events.append(Pong(payload))
        else:
            events.append(_parse_close(payload))
            self._end()


def _check_length(told: int, length: int) -> None:
    """A length is written in as few octets as it needs (5.2)."""
    least = {_LENGTH_16: 126, _LENGTH_64: 1 << 16}.get(told, 0)
    if not least <= length < 1 << 63:
        raise Violation(PROTOCOL_ERROR, "a length that is not written as it has to be")


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Violation(INVALID_DATA, "text that is not UTF-8") from None


def _parse_close(payload: bytes) -> Close:
    """Of a close frame (5.5.1, 7.4)."""
    if not payload:
        return Close(1005, "")
    if len(payload) == 1:
        raise Violation(PROTOCOL_ERROR, "a close frame with half a code")
    code = int.from_bytes(payload[:2])
    if not may_be_sent(code):
        raise Violation(PROTOCOL_ERROR, f"{code} is no close code")
    return Close(code, _text(payload[2:]))


def may_be_sent(code: int) -> bool:
    """Whether a close frame may carry this code: 7.4, and those that IANA has registered since (1012 to 1014)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def unmask(data: bytes, mask: bytes) -> bytes:
    """Mask or unmask a payload (5.3). mask: 4 bytes."""
    n = len(data)
    if not n:
        return b""
    order = sys.byteorder
    key = int.from_bytes(mask * (n // 4) + mask[: n % 4], order)
    return (int.from_bytes(data, order) ^ key).to_bytes(n, order)


# ---- to the client ----------------------------------------------------------------------------------------------


def head(first: int, n: int) -> bytes:
    """The header of an unmasked frame: its first octet, and how many bytes its payload has."""
    if n < _LENGTH_16:
        return struct.pack("!BB", first, n)
    if n < 1 << 16:
        return struct.pack("!BBH", first, _LENGTH_16, n)
    return struct.pack("!BBQ", first, _LENGTH_64, n)


def first_octet(binary: bool, compressed: bool = False) -> int:
    """Of the header of a message in one frame."""
    return _FIN | (_RSV1 if compressed else 0) | (_BINARY if binary else _TEXT)


def ping(data: bytes = b"") -> bytes:
    """A ping frame. data: at most 125 bytes."""
    return head(_FIN | _PING, len(data)) + data


def pong(data: bytes) -> bytes:
    """A pong frame. data: at most 125 bytes."""
    return head(_FIN | _PONG, len(data)) + data


def close(code: int, reason: str = "") -> bytes:
    """A close frame; a reason that is too long for one is cut. 1005 = a frame without a code."""
    if code == 1005:
        return head(_FIN | _CLOSE, 0)
    if not may_be_sent(code):
        raise ValueError(f"{code} is no close code")
    # A character that is cut in two is left out.
    text = reason.encode()[:_REASON_BYTES].decode(errors="ignore").encode()
    return head(_FIN | _CLOSE, 2 + len(text)) + struct.pack("!H", code) + text


# ---- the opening handshake ---------------------------------------------------------------------------------------


def accept_of(key: str) -> str | None:
    """The `Sec-WebSocket-Accept` that answers this `Sec-WebSocket-Key` (4.2.2). None = it is not 16 bytes in base64."""
    try:
        nonce = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(nonce) != 16:
        return None
    return base64.b64encode(hashlib.sha1(key.encode() + _MAGIC, usedforsecurity=False).digest()).decode()
