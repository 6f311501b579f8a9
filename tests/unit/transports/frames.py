"""Frames as a client sends them, good ones and others."""

from __future__ import annotations

import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10


def frame(opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0, mask: bytes | None = b"\x01\x80\xff\x00"):
    """One frame (RFC 6455, 5.2). mask: None = not masked."""
    first, masked, n = (FIN if fin else 0) | rsv | opcode, 0 if mask is None else 0x80, len(payload)
    if n < 126:
        head = struct.pack("!BB", first, masked | n)
    elif n < 1 << 16:
        head = struct.pack("!BBH", first, masked | 126, n)
    else:
        head = struct.pack("!BBQ", first, masked | 127, n)
    if mask is None:
        return head + payload
    return head + mask + bytes(octet ^ mask[i % 4] for i, octet in enumerate(payload))


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)
