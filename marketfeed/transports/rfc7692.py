"""Compression of messages (permessage-deflate, RFC 7692): what is agreed on, and the bytes; no I/O.

A frame that many share cannot build on what one of them was sent before, so the server never takes its context over
(`server_no_context_takeover`), and needs none of the client's (`client_no_context_takeover`): a connection that is idle
holds no compressor and no window.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from marketfeed.transports.rfc6455 import INVALID_DATA, TOO_BIG, Violation, first_octet, head

#: The window that a frame is compressed in, bits. Measured on frames of 3 to 2,048 ticks: more does not make them
#: smaller (ticks are much like those just before them), and costs up to 8 us a frame to set up; less takes longer.
WINDOW_BITS = 12
#: zlib knows no smaller one of a raw stream.
LEAST_BITS = 9
#: Level 6 saves a tenth of the bytes for 2.5 times the time.
_LEVEL, _MEMORY = 1, 5
#: A shorter payload is sent as it is: of one tick (120 bytes) a seventh would be saved, of two nearly half.
LEAST_BYTES = 200

#: What every agreement says.
ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

_TAIL = b"\x00\x00\xff\xff"
_MAX_BITS = 15

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'[ \t]*({_TOKEN})[ \t]*(?:=[ \t]*(?:({_TOKEN})|"((?:[^"\\,;]|\\.)*)")[ \t]*)?')
_FULL_TOKEN = re.compile(_TOKEN)


class Agreed(NamedTuple):
    """An offer that the server takes."""

    #: the window that it may compress in, bits; at most :data:`WINDOW_BITS`
    bits: int
    #: the answer's `Sec-WebSocket-Extensions`
    header: str


def parse_extensions(header: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """A `Sec-WebSocket-Extensions` header (RFC 6455, 9.1): each offer's name, and its parameters in order.

    Raises:
        ValueError: it is not one.
    """
    offers = []
    for element in header.split(","):
        if not element.strip():
            continue
        parameters: list[tuple[str, str | None]] = []
        for part in element.split(";"):
            match = _PARAMETER.fullmatch(part)
            if match is None:
                raise ValueError(f"not an extension: {element.strip()!r}")
            name, value, quoted = match.groups()
            if quoted is not None:
                value = re.sub(r"\\(.)", r"\1", quoted)
                if not _FULL_TOKEN.fullmatch(value):
                    raise ValueError(f"not an extension: {element.strip()!r}")
            parameters.append((name, value))
        (name, value), *rest = parameters
        if value is not None:
            raise ValueError(f"not an extension: {element.strip()!r}")
        offers.append((name, rest))
    return offers


def agree(offers: Sequence[tuple[str, list[tuple[str, str | None]]]]) -> Agreed | None:
    """The first offer that can be taken; the others are declined (7.1). None = there is no such."""
    for name, parameters in offers:
        if name == "permessage-deflate" and (agreed := _agree(parameters)) is not None:
            return agreed
    return None


def _agree(parameters: list[tuple[str, str | None]]) -> Agreed | None:
    given = dict(parameters)
    if len(given) < len(parameters):
        return None
    answer = ANSWER
    bits = WINDOW_BITS
    for name, value in parameters:
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
        elif name == "client_max_window_bits":
            # It is not limited any further: what inflates a message takes any window, and only as long as that.
            if value is not None and _bits(value) is None:
                return None
        elif name == "server_max_window_bits":
            asked = _bits(value)
            if asked is None or asked < LEAST_BITS:
                return None
            bits = min(asked, WINDOW_BITS)
            answer += f"; server_max_window_bits={asked}"
        else:
            return None
    return Agreed(bits, answer)


def _bits(value: str | None) -> int | None:
    """8 to 15, without leading zeros (7.1.2)."""
    return int(value) if value is not None and re.fullmatch("[89]|1[0-5]", value) else None


def deflate(payload: bytes, bits: int) -> bytes:
    """A message's compressed payload (7.2.1), which needs no other message and a window of so many bits."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -bits, _MEMORY)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data[: -len(_TAIL)]


def frame(payload: bytes, binary: bool, bits: int) -> bytes:
    """A message in one frame (RFC 6455, 5.2), compressed where that is worth it, in a window of so many bits."""
    if len(payload) < LEAST_BYTES:
        return head(first_octet(binary), len(payload)) + payload
    compressed = deflate(payload, bits)
    return head(first_octet(binary, True), len(compressed)) + compressed


class Inflate:
    """Undoes a client's compression (7.2.2), one message after the other, and never past what a message may have."""

    __slots__ = ("_stream",)

    def __init__(self) -> None:
        #: of the message that has begun
        self._stream: zlib._Decompress | None = None

    def inflate(self, data: bytes, most: int) -> bytes:
        """What these bytes of the message stand for, at most so many.

        Raises:
            Violation: it is more, or it is no compressed data.
        """
        out = bytearray()
        while data:
            if self._stream is None or self._stream.eof:
                # A sender may flush by a final block (7.2.3.4); what follows is a stream of its own.
                self._stream = zlib.decompressobj(-_MAX_BITS)
            try:
                out += self._stream.decompress(data, most - len(out) + 1)
            except zlib.error:
                raise Violation(INVALID_DATA, "not compressed as it has to be") from None
            if len(out) > most:
                raise Violation(TOO_BIG, "a message that is too long when it is decompressed")
            data = self._stream.unused_data
        return bytes(out)

    def end(self, most: int) -> bytes:
        """The message is complete: what is left of it."""
        out = self.inflate(_TAIL, most)
        self._stream = None
        return out
