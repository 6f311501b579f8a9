"""The full parse that the cheap count is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from bench.load.pump import UPDATE, Clock
from bench.load.wire import TEXT, frames

#: the numbers in each type of update.
_NUMBERS = {"q": ("bp", "bs", "ap", "as", "seq"), "t": ("p", "s", "seq")}


class Problem(Exception):
    """A server does not send what it is measured for."""


def parse(
    data: bytes | bytearray, messages: Callable[[bytes], list[dict[str, object]]]
) -> tuple[list[dict[str, object]], int]:
    """Every quote and trade in all whole frames of what one connection read, and how many bytes those frames take.

    Raises:
        Problem: bytes that are no frame, text that is no array of messages.
    """
    updates: list[dict[str, object]] = []
    end = 0
    try:
        for opcode, payload, end in frames(data):  # noqa: B007 - the last end is wanted
            if opcode == TEXT:
                updates += [message for message in messages(payload) if message.get("T") in _NUMBERS]
    except (ValueError, IndexError, AttributeError) as error:
        raise Problem(f"the full parse failed: {error}") from error
    return updates, end


def check(
    data: bytes | bytearray, wanted: Iterable[str] | None, messages: Callable[[bytes], list[dict[str, object]]]
) -> tuple[int, int]:
    """Hold each update that one connection read against its subscription.

    ``wanted`` are the symbols subscribed to, None = the updates are one text repeated, and only their number is looked
    at. Returns how many updates there are in whole frames, and how many more in the beginning of a frame at the end:
    together what :class:`~bench.load.pump.Pump` must have counted.

    Raises:
        Problem: an update of another symbol, of another form, or out of order.
    """
    updates, end = parse(data, messages)
    cut = bytes(data[end:]).count(UPDATE)
    if wanted is None:
        return len(updates), cut
    symbols, clock, last = set(wanted), Clock(), -1.0
    for update in updates:
        numbers = _NUMBERS[str(update["T"])]
        if missing := {"S", "t", *numbers} - update.keys():
            raise Problem(f"an update without {', '.join(sorted(missing))}: {update}")
        if update["S"] not in symbols:
            raise Problem(f"an update of a symbol that was not asked for: {update}")
        if not all(isinstance(value := update[key], int | float) and math.isfinite(value) for key in numbers):
            raise Problem(f"an update with something else than a number: {update}")
        clock.ns(str(update["t"]).encode())
        seq = float(str(update["seq"]))
        if seq <= last:
            raise Problem(f"seq {seq:.0f} after {last:.0f}: {update}")
        last = seq
    return len(updates), cut
