"""The messages, as data: what a client may say, and what it is told besides ticks.

Alpaca's market data protocol v2 with optional extensions; `docs/protocol.md` is its full description.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from marketfeed.model.bars import DEFAULT_SECONDS, LONGEST_SECONDS, SHORTEST_SECONDS
from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.stream.codes import ErrorCode, GapReason, ProtocolError
from marketfeed.stream.encoding.fields import FIELDS, TICK_FIELDS, check_fields
from marketfeed.stream.encoding.rfc3339 import time_from_text
from marketfeed.stream.subscription import CHANNELS, Options, check_pattern
from marketfeed.stream.where import Where

#: What an `error` message may repeat of a client's own text, in characters.
_QUOTE_CHARS = 120

Message = dict[str, Any]


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place in the stream of one server's life."""

    seq: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    epoch: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)] | None = None


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="action", tag="auth"):
    """Says who is there: `key` and `secret`, or `token`."""

    key: str = ""
    secret: str = ""
    token: str = ""


NOT_SERVED = ("dailyBars", "statuses", "lulds", "corrections", "cancelErrors", "orderbooks")


class _Symbols(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="action"):
    quotes: list[str] = []
    trades: list[str] = []
    bars: list[str] = []
    updatedBars: list[str] = []
    # Alpaca's other channels: clients name them all, empty where they want none.
    dailyBars: list[str] = []
    statuses: list[str] = []
    lulds: list[str] = []
    corrections: list[str] = []
    cancelErrors: list[str] = []
    orderbooks: list[str] = []

    def patterns(self) -> list[tuple[int, str]]:
        """(kind, pattern) of every symbol named, once each, in the order they were named.

        Raises:
            ProtocolError: one of them is not a pattern, or there is none.
        """
        for channel in NOT_SERVED:
            if getattr(self, channel):
                served = ", ".join(CHANNELS)
                raise ProtocolError(ErrorCode.SYNTAX, f"channel {channel!r} is not served; there are: {served}")
        named = {(kind, pattern): None for channel, kind in CHANNELS.items() for pattern in getattr(self, channel)}
        if not named:
            raise ProtocolError(ErrorCode.SYNTAX, f"names no symbols: give {' or '.join(CHANNELS)}")
        for _, pattern in named:
            try:
                check_pattern(pattern)
            except ValueError as error:
                raise ProtocolError(ErrorCode.SYNTAX, str(error)) from None
        return list(named)


class Subscribe(_Symbols, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="subscribe"):
    """Adds symbols, with options that hold for the symbols of this command."""

    max_hz: Annotated[float, msgspec.Meta(ge=0.001, le=1_000_000)] | None = None
    snapshot: bool = False
    since: Position | str | None = None
    where: str | None = None
    fields: list[str] | None = None
    heartbeat: Annotated[float, msgspec.Meta(ge=0, le=3600)] | None = None
    bar_seconds: Annotated[int, msgspec.Meta(ge=SHORTEST_SECONDS, le=LONGEST_SECONDS)] | None = None

    def options(self) -> Options:
        """How these symbols are wanted.

        Raises:
            ProtocolError: the condition is none, there is no such field, or an option that is not for these channels.
        """
        bars = bool(self.bars or self.updatedBars)
        if not bars and self.bar_seconds is not None:
            raise ProtocolError(ErrorCode.SYNTAX, "bar_seconds is for bars and updatedBars, and none are named")
        length = DEFAULT_SECONDS if self.bar_seconds is None else self.bar_seconds
        if bars:
            # A command's options are those of all its symbols: none is left out in silence.
            for name in ("max_hz", "where"):
                if getattr(self, name) is not None:
                    raise ProtocolError(ErrorCode.SYNTAX, f"{name} is not for bars: ask for them in a command without")
            if self.snapshot and length != DEFAULT_SECONDS:
                text = f"there is a snapshot of bars of {DEFAULT_SECONDS} s only"
                raise ProtocolError(ErrorCode.SYNTAX, text)
        try:
            where = None if self.where is None else Where.parse(self.where)
            fields = None if self.fields is None else check_fields(self.fields)
        except ValueError as error:
            raise ProtocolError(ErrorCode.SYNTAX, str(error)) from None
        if fields is not None and fields.issuperset(FIELDS if bars else TICK_FIELDS):
            fields = None  # all of them are the same as none named, and shared with those who name none
        return Options(self.max_hz, where, fields, length)


class Unsubscribe(_Symbols, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="unsubscribe"):
    """Takes symbols away."""


Command = Auth | Subscribe | Unsubscribe

_json: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_msgpack: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)


def decode_command(data: str | bytes) -> Command:
    """Read one command: text is JSON, bytes are msgpack.

    Raises:
        ProtocolError: it is neither, or not a command; the message says where.
    """
    try:
        return _json.decode(data) if isinstance(data, str) else _msgpack.decode(data)
    except msgspec.ValidationError as error:
        text = str(error)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        text = f"invalid {'JSON' if isinstance(data, str) else 'msgpack'}: {error}"
    raise ProtocolError(ErrorCode.SYNTAX, text[: 2 * _QUOTE_CHARS])


def parse_time(text: str) -> int:
    """An RFC 3339 time as ns since the Unix epoch; digits beyond the ninth are cut.

    Raises:
        ProtocolError: it is none.
    """
    time_ns = time_from_text(text)
    if time_ns is None:
        raise ProtocolError(ErrorCode.SYNTAX, f"since is not an RFC 3339 time: {text[:_QUOTE_CHARS]!r}")
    return time_ns


def connected(epoch: int, version: str) -> Message:
    """The first message of every connection."""
    return {"T": "success", "msg": "connected", "epoch": epoch, "version": version}


def authenticated() -> Message:
    """The answer to a good `auth`."""
    return {"T": "success", "msg": "authenticated"}


def subscription(
    state: dict[tuple[int, str], Options],
    epoch: int,
    seq: int,
    recovered: bool | None = None,
    heartbeat: float = 0.0,
) -> Message:
    """The answer to `subscribe` and `unsubscribe`: everything this connection now receives, and from where."""
    rules: dict[Options, Message] = {}
    message: Message = {"T": "subscription", **{channel: [] for channel in CHANNELS}}
    names = {kind: channel for channel, kind in CHANNELS.items()}
    for (kind, pattern), options in state.items():
        message[names[kind]].append(pattern)
        rule = rules.setdefault(options, {"quotes": [], "trades": [], **options.as_message()})
        rule.setdefault(names[kind], []).append(pattern)
    message |= {"rules": list(rules.values()), "epoch": epoch, "seq": seq}
    if recovered is not None:
        message["recovered"] = recovered
    if heartbeat:
        message["heartbeat"] = heartbeat
    return message


def heartbeat(epoch: int, seq: int, now_ns: int) -> Message:
    """The connection lives; all of what it asked for up to ``seq`` has been given to it, or told as a gap."""
    now = datetime.datetime.fromtimestamp(now_ns // 1000 / 1e6, datetime.UTC)
    return {"T": "heartbeat", "epoch": epoch, "seq": seq, "t": now}


def position(epoch: int, seq: int | None) -> Message:
    """All of what the connection asked for up to ``seq`` has been given to it; None = what follows comes in several
    frames, not in order, so that until the next of these no tick tells where the connection is."""
    return {"T": "position", "epoch": epoch, "seq": seq}


def instruments(directory: InstrumentDirectory, ids: Iterable[int], with_feed: bool) -> Message:
    """What the ids in the ticks that follow stand for."""
    symbols, feed_of, feeds = directory.symbols(), directory.feed_of(), directory.feeds()
    told = [{"id": i, "S": symbols[i], **({"f": feeds[feed_of[i]]} if with_feed else {})} for i in ids]
    return {"T": "instruments", "instruments": told}


def gap(first: int, last: int | None, reason: GapReason, epoch: int | None = None) -> Message:
    """Ticks `first` to `last`, both inclusive, are lost; `epoch` where it is not the present one."""
    message: Message = {"T": "gap", "from": first, "to": last, "reason": reason.name.lower()}
    if epoch is not None:
        message["epoch"] = epoch
    return message


def error(code: ErrorCode, text: str) -> Message:
    """Something a client asked for was not done."""
    return {"T": "error", "code": int(code), "msg": text}


#: Every `T` that the server may send.
MESSAGE_TYPES = ("success", "error", "subscription", "gap", "heartbeat", "position", "instruments", "q", "t", "b", "u")
