"""What a user asks for, checked and cut into commands that a server reads; pure.

::

    subscribe(...) -> [Command, ...]      for :meth:`~marketfeed.client.session.Session.ask`, which has them answered
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from marketfeed.client.errors import CommandError
from marketfeed.client.messages import Error, Position, Subscription
from marketfeed.client.parts import BAR_CHANNELS, Name, Options

#: A command's symbols take at most so many bytes; more go in several commands. A server reads 64 KiB in one.
_COMMAND_BYTES = 32 * 1024
#: And its options so many: a command that is too long ends the connection.
_OPTIONS_BYTES = 16 * 1024

Since = Position | Mapping[str, int] | datetime.datetime | str


class Request:
    """What a user asked for, in one command or several; ``done`` is called once, with the answer or the error."""

    def __init__(self, commands: int, done: Callable[[Subscription | CommandError], None]) -> None:
        self._left = commands
        self._done = done
        self._recovered: bool | None = None
        self._seq: int | None = None

    def answer(self, reply: Subscription) -> None:
        """One of its commands was carried out."""
        if reply.recovered is not None:
            self._recovered = reply.recovered and self._recovered is not False
        if self._seq is None:
            self._seq = reply.seq
        self._left -= 1
        if not self._left:
            self._done(msgspec.structs.replace(reply, recovered=self._recovered, seq=self._seq))

    def fail(self, error: Error) -> None:
        """One of its commands was not: the first error is the answer to all."""
        if self._left > 0:
            self._left = -1
            self._done(CommandError(error.code, error.msg))


@dataclass
class Command:
    """A command that has no answer yet."""

    action: str
    names: Sequence[Name]
    options: Options = field(default_factory=Options)
    snapshot: bool = False
    since: Position | str | None = None
    heartbeat: float | None = None
    #: who waits for the answer; None = nobody: it resumes what was cut
    request: Request | None = None

    def text(self) -> str:
        """As it is sent."""
        wire: dict[str, Any] = {"action": self.action}
        for channel, pattern in self.names:
            wire.setdefault(channel, []).append(pattern)
        wire |= self.options.as_wire()
        # Of a command that was cut in several, or of a subscription whose bars were given up, no bars may be left.
        if not any(channel in wire for channel in BAR_CHANNELS):
            wire.pop("bar_seconds", None)
        if self.snapshot:
            wire["snapshot"] = True
        if self.since is not None:
            wire["since"] = self.since
        if self.heartbeat is not None:
            wire["heartbeat"] = self.heartbeat
        return msgspec.json.encode(wire).decode()


def subscribe(
    quotes: Iterable[str] = (),
    trades: Iterable[str] = (),
    *,
    max_hz: float | None = None,
    where: str | None = None,
    fields: Iterable[str] | None = None,
    snapshot: bool = False,
    since: Since | None = None,
    heartbeat: float | None = None,
    bars: Iterable[str] = (),
    updated_bars: Iterable[str] = (),
    bar_seconds: int | None = None,
) -> list[Command]:
    """To add symbols. What each argument means stands at :meth:`Feed.subscribe`, which takes the same.

    Raises:
        ValueError, TypeError: what is asked for makes no sense.
    """
    if max_hz is not None and not (math.isfinite(max_hz) and max_hz > 0):
        raise ValueError(f"max_hz is a number above 0, not {max_hz}")
    if snapshot and since is not None:
        raise ValueError("snapshot and since exclude each other: what came since then holds the latest of each")
    if heartbeat is not None and not (math.isfinite(heartbeat) and heartbeat >= 0):
        raise ValueError(f"heartbeat is a number of seconds, 0 = none, not {heartbeat}")
    names = _named(quotes, trades, bars, updated_bars)
    if bar_seconds is not None and not any(name[0] in BAR_CHANNELS for name in names):
        raise ValueError("bar_seconds is the length of bars: name some in bars or updated_bars")
    options, place = _options(max_hz, where, fields, bar_seconds), _place(since)
    return [
        Command("subscribe", chunk, options, snapshot, place, heartbeat) for chunk in _some_chunks("subscribe", names)
    ]


def unsubscribe(
    quotes: Iterable[str] = (),
    trades: Iterable[str] = (),
    bars: Iterable[str] = (),
    updated_bars: Iterable[str] = (),
) -> list[Command]:
    """To take symbols away, written as they were subscribed.

    Raises:
        ValueError, TypeError: what is asked for makes no sense.
    """
    names = _named(quotes, trades, bars, updated_bars)
    return [Command("unsubscribe", chunk) for chunk in _some_chunks("unsubscribe", names)]


def resume(names: Iterable[Name], options: Options, since: Position | None, snapshot: bool) -> list[Command]:
    """To have again what was cut, from that place; with a ``snapshot`` that may not have come whole."""
    return [Command("subscribe", chunk, options, snapshot, since) for chunk in _chunks(sorted(names))]


def _named(
    quotes: Iterable[str], trades: Iterable[str], bars: Iterable[str], updated_bars: Iterable[str]
) -> list[Name]:
    """Every name once, with its channel as it is named on the wire."""
    given = {"quotes": quotes, "trades": trades, "bars": bars, "updatedBars": updated_bars}
    return list(dict.fromkeys(name for channel, patterns in given.items() for name in _names(channel, patterns)))


def _names(channel: str, patterns: Iterable[str]) -> list[Name]:
    if isinstance(patterns, str):
        raise TypeError(f"{channel} is a list of symbols, not one text: {patterns!r}")
    names = [(channel, pattern) for pattern in patterns]
    for _, pattern in names:
        if not isinstance(pattern, str):
            raise TypeError(f"{channel} is a list of texts: {pattern!r} is none")
    return names


def _options(max_hz: float | None, where: str | None, fields: Iterable[str] | None, bar_seconds: int | None) -> Options:
    if where is not None and not isinstance(where, str):
        raise TypeError(f"where is a text, not {where!r}")
    if isinstance(fields, str):
        raise TypeError(f"fields is a list of keys, not one text: {fields!r}")
    keys = None if fields is None else set(fields)
    for key in keys or ():
        if not isinstance(key, str):
            raise TypeError(f"fields is a list of texts: {key!r} is none")
    if bar_seconds is not None and not isinstance(bar_seconds, int):
        raise TypeError(f"bar_seconds is a whole number, not {bar_seconds!r}")
    options = Options(max_hz, where, None if keys is None else tuple(sorted(keys)), bar_seconds)
    size = len(msgspec.json.encode(options.as_wire()))
    if size > _OPTIONS_BYTES:
        raise ValueError(f"where and fields have at most {_OPTIONS_BYTES:,} bytes, not {size:,}")
    return options


def _place(since: Since | None) -> Position | str | None:
    if isinstance(since, Mapping):
        return msgspec.convert(since, Position)
    if isinstance(since, datetime.datetime):
        if since.tzinfo is None:
            raise ValueError(f"since has no time zone: {since}")
        return since.isoformat()
    return since


def _some_chunks(action: str, names: Sequence[Name]) -> list[list[Name]]:
    if not names:
        raise ValueError(f"{action} names no symbols: give quotes, trades or bars")
    return _chunks(names)


def _chunks(names: Sequence[Name]) -> list[list[Name]]:
    """The names in lists that each fit in one command."""
    chunks: list[list[Name]] = []
    room = 0
    for name in names:
        size = len(msgspec.json.encode(name[1])) + 1
        if not chunks or size > room:
            chunks.append([])
            room = _COMMAND_BYTES
        chunks[-1].append(name)
        room -= size
    return chunks
