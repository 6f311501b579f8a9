"""Binance combined-stream recordings: ``<local receive time, ns> <frame>`` a line, plain or .gz.

``<symbol>@bookTicker`` frames are quotes (``venue_seq`` = ``u``), ``<symbol>@trade`` frames trades (``venue_seq`` =
``t``). Frames of other streams (depth, ...) and REST replies between them are no ticks: they are passed over, and how
many of each there were is logged when the file ends. What is no frame at all is refused.

Which clock: frames of the futures markets carry the exchange's transaction time ``T``, and that is ``ts_event``. Spot
bookTicker frames carry no time at all, only the recorder's clock tells when they came. The two clocks differ (in a real
recording by 1.3 s), and one file must not jump between them: it is played, and merged, by its times. So once a quote
without a time turns up, this block of lines and the rest of the file, trades too, go by the recorder's clock. In a spot
recording that is so from its first quote; in a futures recording never.

Source: Binance API documentation, "Individual Symbol Book Ticker Streams" and "Trade Streams", spot and futures.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Generator
from typing import Annotated

import msgspec
import numpy as np

from feeds.replay.readers import text
from feeds.replay.readers.base import ReaderContext, RecordedFile, Settings, Source, ids_of_rows
from marketfeed.model.tick import QUOTE, TRADE, Ticks, empty_ticks

log = logging.getLogger("feeds.replay")

_RECORDED = re.compile(rb"\d{16,19} \{")
#: The way the exchange writes its frames; one that is written otherwise takes the long way round.
_COMBINED = re.compile(rb'([1-8]?\d{16,18}) (?=\{"stream":"[^"@]*@(\w+)[^"]*")')
#: Times of 16 digits are in us (``timeUnit=MICROSECOND``), of 13 in ms.
_US_FROM = 10**14

#: The bounds keep out "nan" and "inf", which would pass as numbers.
_Number = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=9 * 10**15)]


class _Quote(msgspec.Struct):
    s: str
    u: _Count
    b: _Number
    B: _Number
    a: _Number
    A: _Number
    T: _Time = 0


class _Trade(msgspec.Struct):
    s: str
    t: _Count
    p: _Number
    q: _Number
    T: _Time


class _QuoteFrame(msgspec.Struct):
    data: _Quote


class _TradeFrame(msgspec.Struct):
    data: _Trade


#: Not strict: the exchange writes numbers as strings.
_DECODERS: dict[bytes, msgspec.json.Decoder[_QuoteFrame] | msgspec.json.Decoder[_TradeFrame]] = {
    b"bookTicker": msgspec.json.Decoder(_QuoteFrame, strict=False),
    b"trade": msgspec.json.Decoder(_TradeFrame, strict=False),
}


def sources(file: RecordedFile, settings: Settings) -> list[Source]:
    """The file's ticks; empty if it is no such recording."""
    return [Source(str(file.path), _Reader(file).read)] if _RECORDED.match(file.head) else []


class _Reader:
    def __init__(self, file: RecordedFile) -> None:
        self._file = file

    def read(self, context: ReaderContext) -> Generator[Ticks, None, None]:
        """The file's ticks, a block of lines a batch."""
        passed: Counter[str] = Counter()
        exchange_clock = True
        with self._file.open() as stream:
            for block in text.blocks(stream, context.refuse):
                local, frames = _frames(block, passed, context)
                if frames:
                    exchange_clock = exchange_clock and all(frame.T for frame in frames)
                    yield _ticks(local, frames, exchange_clock, context)
        if passed:
            kinds = ", ".join(f"{count} {name}" for name, count in sorted(passed.items()))
            log.info("%s: passed over, no ticks: %s", self._file.path, kinds)


def _frames(block: bytes, passed: Counter[str], context: ReaderContext) -> tuple[list[int], list[_Quote | _Trade]]:
    """The frames of a block's lines that hold a tick, with their local times."""
    local: list[int] = []
    frames: list[_Quote | _Trade] = []
    for line in block.splitlines():
        match = _COMBINED.match(line)
        try:
            if match:
                stamp, stream = match.groups()
                payload = line[match.end() :]
            elif line:
                stamp, stream, payload = _other(line)
            else:
                continue
            decoder = _DECODERS.get(stream)
            if decoder is None:
                passed[stream.decode(errors="replace")] += 1
                continue
            frames.append(decoder.decode(payload).data)
            local.append(int(stamp))
        except (ValueError, msgspec.MsgspecError):
            context.refuse("unparsable frame", 1, line[:200].decode(errors="replace"))
    return local, frames


def _other(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Local time, kind of stream and frame of a line that does not begin as the exchange's frames do.

    Raises:
        ValueError, msgspec.DecodeError: it holds no frame.
    """
    stamp, _, payload = line.partition(b" ")
    if not 0 <= int(stamp) < 1 << 63:
        raise ValueError(stamp)
    frame = msgspec.json.decode(payload)
    if not isinstance(frame, dict):
        raise ValueError("not an object")
    if "lastUpdateId" in frame:
        return stamp, b"REST depth snapshot", payload
    stream = frame.get("stream")
    if not isinstance(stream, str):
        return stamp, b"other reply", payload
    return stamp, stream.partition("@")[2].partition("@")[0].encode(), payload


def _ticks(local: list[int], frames: list[_Quote | _Trade], exchange_clock: bool, context: ReaderContext) -> Ticks:
    ticks = empty_ticks(len(frames))
    if exchange_clock:
        event = np.array([frame.T for frame in frames])
        ticks["ts_event"] = event * np.where(event >= _US_FROM, 1_000, 1_000_000)
    else:
        ticks["ts_event"] = local
    ids = np.array(ids_of_rows(context, [frame.s.encode() for frame in frames]))
    ticks["instrument"] = np.maximum(ids, 0)
    quoted = np.array([type(frame) is _Quote for frame in frames])
    ticks["kind"] = np.where(quoted, QUOTE, TRADE)
    quotes = [frame for frame in frames if isinstance(frame, _Quote)]
    trades = [frame for frame in frames if isinstance(frame, _Trade)]
    at = np.flatnonzero(quoted)
    ticks["venue_seq"][at] = [quote.u for quote in quotes]
    ticks["bid"][at] = [quote.b for quote in quotes]
    ticks["bid_size"][at] = [quote.B for quote in quotes]
    ticks["ask"][at] = [quote.a for quote in quotes]
    ticks["ask_size"][at] = [quote.A for quote in quotes]
    at = np.flatnonzero(~quoted)
    ticks["venue_seq"][at] = [trade.t for trade in trades]
    ticks["price"][at] = [trade.p for trade in trades]
    ticks["size"][at] = [trade.q for trade in trades]
    return ticks[ids >= 0]
