"""What the transports do to a payload of JSON that have no arrays of messages, or none of any length."""

from __future__ import annotations

_BEGIN = b'[{"T":"'
#: Between two messages. Not in a text: there its quotes would be written `\\"`.
_BETWEEN = b'},{"T":"'

#: Types of messages that come alone; all others are ticks of some kind, as many as there are.
ALONE = frozenset((b"success", b"subscription", b"error", b"gap", b"heartbeat", b"position"))
#: Those of them that answer a command, but for the greeting.
ANSWERS = frozenset((b"success", b"subscription", b"error"))
GREETING = b'[{"T":"success","msg":"connected"'


def kind(payload: bytes) -> bytes:
    """`T` of the first message."""
    if not payload.startswith(_BEGIN):
        return b""
    return payload[len(_BEGIN) : payload.find(b'"', len(_BEGIN))]


def split(payload: bytes, most: int) -> list[bytes]:
    """Payloads of at most so many bytes with the same messages; one message that is longer stands alone."""
    parts: list[bytes] = []
    opening, begin, end = b"", 0, len(payload)
    while len(opening) + end - begin > most:
        # Together with the brackets that it lacks.
        cut = payload.rfind(_BETWEEN, begin + 1, begin + most - 2 - len(opening) + len(_BETWEEN))
        if cut < 0:
            cut = payload.find(_BETWEEN, begin + 1)
        if cut < 0:
            break
        parts.append(opening + payload[begin : cut + 1] + b"]")
        opening, begin = b"[", cut + 2
    parts.append(opening + payload[begin:])
    return parts
