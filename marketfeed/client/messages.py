"""What a server sends, as typed messages: see docs/protocol.md for the wire."""

from __future__ import annotations

import datetime
import re
from functools import lru_cache
from math import isnan, nan

import msgspec

from marketfeed.client.errors import BadMessage

_SECOND_NS = 1_000_000_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NS_TEXT_CHARS = len("2013-10-07T13:30:00.123456789Z")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@lru_cache(maxsize=4096)
def _second_ns(text: str) -> int:
    """Ticks of one second share its text, so that it is read once."""
    moment = datetime.datetime.fromisoformat(f"{text}+00:00")
    return (moment - _EPOCH) // datetime.timedelta(seconds=1) * _SECOND_NS


def parse_time(text: str) -> int:
    """An RFC 3339 time as ns since the Unix epoch, exactly; digits beyond the ninth are cut.

    Raises:
        ValueError: it is none.
    """
    if len(text) == _NS_TEXT_CHARS and text[29] == "Z":
        return _second_ns(text[:19]) + int(text[20:29])
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text[:64]!r}")
    whole, fraction, zone = match.groups()
    ns = _second_ns(whole) + int((fraction or "0").ljust(9, "0"))
    if zone not in "Zz":
        offset = datetime.datetime.fromisoformat(f"1970-01-02T00:00:00{zone}").utcoffset()
        assert offset is not None
        ns -= offset // datetime.timedelta(seconds=1) * _SECOND_NS
    return ns


class _Timed(msgspec.Struct, gc=False, tag_field="T", omit_defaults=True):
    @property
    def t(self) -> int:
        """:attr:`time` in ns since the Unix epoch, UTC; 0 where it was not asked for."""
        time: str = self.time  # type: ignore[attr-defined]  # each of these has it, in its wire order
        return parse_time(time) if time else 0


class Quote(_Timed, tag="q"):
    """The best bid and ask of a symbol.

    A side that is not there has price NaN and size 0 (on the wire price 0 and size 0), so that no mid comes of it. With
    ``fields``, what was not asked for is NaN, and ``time`` empty; without its size such a side can only have price 0.

    Attributes:
        symbol: its name at the venue.
        bid, ask: prices.
        bid_size, ask_size: as the venue counts them; 0 where it tells none.
        time: when the venue says it happened, RFC 3339 text, as sent; :attr:`t` is the same in integer ns.
        seq: place in the server's stream; 0 from a server that numbers nothing.
        feed: which feed, on `/stream`; empty on `/v2/{feed}`.
    """

    symbol: str = msgspec.field(name="S")
    bid: float = msgspec.field(name="bp", default=nan)
    bid_size: float = msgspec.field(name="bs", default=nan)
    ask: float = msgspec.field(name="ap", default=nan)
    ask_size: float = msgspec.field(name="as", default=nan)
    time: str = msgspec.field(name="t", default="")
    seq: int = 0
    feed: str = msgspec.field(name="f", default="")

    def __post_init__(self) -> None:
        # A size that was not asked for is NaN, which is true: it makes no side missing.
        if not self.bid and not self.bid_size:
            self.bid = nan
        if not self.ask and not self.ask_size:
            self.ask = nan


class Trade(_Timed, tag="t"):
    """Something traded. Attributes as in :class:`Quote`."""

    symbol: str = msgspec.field(name="S")
    price: float = msgspec.field(name="p", default=nan)
    size: float = msgspec.field(name="s", default=nan)
    time: str = msgspec.field(name="t", default="")
    seq: int = 0
    feed: str = msgspec.field(name="f", default="")


class Bar(_Timed, tag="b"):
    """What the trades of one span of time were, for the first time. Attributes besides those of :class:`Quote`:

    Attributes:
        open, high, low, close, vwap: prices; ``vwap`` is weighted by size, and NaN where the volume is 0.
        volume: sum of the sizes.
        count: how many trades.
        time: where it begins.
        seconds: its length.
        source: "trades", or "quotes" where it is made of mid-prices, because the feed gives no trades.
    """

    symbol: str = msgspec.field(name="S")
    open: float = msgspec.field(name="o", default=nan)
    high: float = msgspec.field(name="h", default=nan)
    low: float = msgspec.field(name="l", default=nan)
    close: float = msgspec.field(name="c", default=nan)
    volume: float = msgspec.field(name="v", default=nan)
    count: int = msgspec.field(name="n", default=0)
    vwap: float = msgspec.field(name="vw", default=nan)
    time: str = msgspec.field(name="t", default="")
    seq: int = 0
    seconds: int = msgspec.field(name="sec", default=60)
    source: str = msgspec.field(name="from", default="trades")
    feed: str = msgspec.field(name="f", default="")

    def __post_init__(self) -> None:
        if not self.volume:
            self.vwap = nan


class UpdatedBar(Bar, tag="u"):
    """A bar that was told before, as it is now that a late trade belongs to it."""


class Gap(msgspec.Struct, tag_field="T", tag="gap", omit_defaults=True):
    """Ticks that were asked for and are lost.

    Attributes:
        first, last: sequence numbers, both inclusive; ``last`` is None where it cannot be known.
        reason: "lapped" (this client was too slow, or away too long), "moved" (symbols were given other options while
            this client was behind with some), "epoch" (the server was started anew), or "unnumbered" (told by the
            client itself: the connection was cut, and this server numbers nothing).
        epoch: the life of the server that they belong to, where it is not the present one.
    """

    first: int = msgspec.field(name="from")
    last: int | None = msgspec.field(name="to")
    reason: str
    epoch: int | None = None


class Heartbeat(_Timed, tag="heartbeat"):
    """The server is there, and this is how far it is; only where ``heartbeat`` was asked for.

    Attributes:
        epoch: the server's present life.
        seq: everything up to this sequence number that was asked for has come, or was told as a :class:`Gap`.
        time: the server's clock, RFC 3339 text, as sent; :attr:`t` is the same in integer ns.
    """

    epoch: int
    seq: int
    time: str = msgspec.field(name="t")


class Place(msgspec.Struct, tag_field="T", tag="position"):
    """How far the connection is, where ticks do not tell: `position` on the wire.

    Attributes:
        seq: as in a :class:`Heartbeat`; None = until the next of these no tick tells it, unless it is every tick.
    """

    epoch: int
    seq: int | None


#: What belongs to a symbol, and has a place in the stream.
Numbered = Quote | Trade | Bar | UpdatedBar

#: What a feed yields.
Message = Numbered | Gap | Heartbeat


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place in the stream of one life of a server: ``seq`` 0 is before everything that it still holds."""

    seq: int
    epoch: int | None = None


class Rule(msgspec.Struct):
    """Symbols that are received in the same way.

    Attributes:
        max_hz: None = every tick.
        where: the condition as the server writes it; None = none.
        fields: None = all.
        bar_seconds: length of the bars.
    """

    quotes: list[str] = []
    trades: list[str] = []
    max_hz: float | None = None
    where: str | None = None
    fields: list[str] | None = None
    bars: list[str] = []
    updated_bars: list[str] = msgspec.field(name="updatedBars", default=[])
    bar_seconds: int = 60

    def names(self) -> dict[str, list[str]]:
        """By channel, as it is named on the wire."""
        return {"quotes": self.quotes, "trades": self.trades, "bars": self.bars, "updatedBars": self.updated_bars}


class Subscription(msgspec.Struct, tag_field="T", tag="subscription"):
    """All that this connection now receives: the answer to `subscribe` and `unsubscribe`.

    Attributes:
        quotes, trades, bars, updated_bars: every symbol and glob.
        rules: the same, by how they are received.
        epoch, seq: the symbols of the command are streamed from after this position.
        recovered: whether everything after ``since`` can be given; None where nothing was asked.
        heartbeat: seconds between two heartbeats; None = there are none.
    """

    quotes: list[str] = []
    trades: list[str] = []
    rules: list[Rule] = []
    epoch: int | None = None
    seq: int | None = None
    recovered: bool | None = None
    heartbeat: float | None = None
    bars: list[str] = []
    updated_bars: list[str] = msgspec.field(name="updatedBars", default=[])


class Instrument(msgspec.Struct):
    """What an id in records stands for."""

    id: int
    symbol: str = msgspec.field(name="S")
    feed: str = msgspec.field(name="f", default="")


class Instruments(msgspec.Struct, tag_field="T", tag="instruments"):
    """The instruments of records that are to come."""

    instruments: list[Instrument]


class Success(msgspec.Struct, tag_field="T", tag="success"):
    """`connected` or `authenticated`."""

    msg: str
    epoch: int | None = None
    version: str = ""


class Error(msgspec.Struct, tag_field="T", tag="error"):
    """Something was not done."""

    code: int
    msg: str = ""


Received = Numbered | Gap | Heartbeat | Place | Subscription | Instruments | Success | Error

_frame = msgspec.json.Decoder(list[Received])
_raw_frame = msgspec.json.Decoder(list[msgspec.Raw])
_message = msgspec.json.Decoder(Received)
_KNOWN = frozenset(
    {"q", "t", "b", "u", "gap", "heartbeat", "position", "subscription", "instruments", "success", "error"}
)


class _Tagged(msgspec.Struct):
    T: str = ""


_tagged = msgspec.json.Decoder(_Tagged)


def decode_frame(frame: str | bytes) -> list[Received]:
    """Read one frame, a JSON array of messages. Types and fields that only a newer server has are passed over.

    Raises:
        BadMessage: it is no such array, or a message that should be known is not as it should be.
    """
    try:
        return _frame.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return [_message.decode(raw) for raw in _raw_frame.decode(frame) if _tagged.decode(raw).T in _KNOWN]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMessage(f"the server sent what is not this protocol: {error}: {frame[:120]!r}") from None


def encode_message(message: Message) -> bytes:
    """The message as JSON with the keys of the wire."""
    sides: tuple[tuple[str, str], ...] = ()
    if isinstance(message, Quote) and (isnan(message.bid) or isnan(message.ask)):
        sides = ("bid", "bid_size"), ("ask", "ask_size")
    elif isinstance(message, Bar) and isnan(message.vwap):
        sides = (("vwap", "volume"),)
    if not sides:
        return msgspec.json.encode(message)
    line = msgspec.structs.asdict(message)
    for price, size in sides:
        if not line[size]:
            line[price] = 0.0 if isnan(line[price]) else line[price]
    fields = {field.name: field for field in msgspec.structs.fields(type(message))}
    # What is still NaN, or as it is by default, was not asked for.
    wire = {
        fields[name].encode_name: value
        for name, value in line.items()
        if value == value and value != fields[name].default
    }
    return msgspec.json.encode({"T": message.__struct_config__.tag, **wire})
