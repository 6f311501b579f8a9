"""JSON: what Alpaca's stream sends, plus `seq` and, on `/stream`, `f`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import BAR, QUOTE, TRADE, Ticks, rows_of
from marketfeed.stream.encoding.bars import bar_messages
from marketfeed.stream.encoding.fields import QUOTE_FIELDS, TRADE_FIELDS
from marketfeed.stream.encoding.pieces import Layout, Pieces
from marketfeed.stream.encoding.rfc3339 import SecondTexts

#: A tick seen as ten f8: where the columns of a quote begin, those of a trade, and all of them.
_WIDTH = 10
_QUOTE_BEGIN, _TRADE_BEGIN = 4, 8
_COLUMNS = slice(4, 10)

#: So many ticks are written one by one.
_FEW = 128
_SECOND_NS = 1_000_000_000


class _Some:
    """How one kind of tick is written with some of its keys only."""

    def __init__(
        self, letter: str, columns: dict[str, str], begin: int, fields: frozenset[str], with_feed: bool
    ) -> None:
        keys = [key for key in columns if key in fields]
        #: of a tick seen as ten f8
        self.columns = [begin + n for n, key in enumerate(columns) if key in fields]
        self.with_time = "t" in fields
        self.template = "".join(
            (
                f'{{"T":"{letter}","S":%s',
                *(f',"{key}":%s' for key in keys),
                ',"t":"%s%09dZ"' if self.with_time else "",
                ',"seq":%d',
                ',"f":%s}' if with_feed else "}",
            )
        )


class JsonEncoding:
    """Ticks and messages are JSON objects; a frame is the array of them."""

    NAME = "json"
    BINARY_TICKS = BINARY_MESSAGES = False
    RECORDS = False

    def __init__(self, directory: InstrumentDirectory, with_feed: bool, fields: frozenset[str] | None = None) -> None:
        self._directory = directory
        self.with_feed = with_feed
        self._fields = fields
        self._some: dict[int, _Some] | None = None
        if fields is not None:
            self._some = {
                QUOTE: _Some("q", QUOTE_FIELDS, _QUOTE_BEGIN, fields, with_feed),
                TRADE: _Some("t", TRADE_FIELDS, _TRADE_BEGIN, fields, with_feed),
            }
        # By instrument id: how its messages begin and end. Grows with the directory, which is bounded.
        self._quote_heads: list[str] = []
        self._trade_heads: list[str] = []
        self._tails: list[str] = []
        self._seconds = SecondTexts()

    def ticks(self, rows: Ticks, seqs: NDArray[np.uint64]) -> Pieces:
        if len(rows) <= _FEW and self._some is None and (each := self._each(rows, seqs)) is not None:
            return Pieces(each, _ARRAY)
        kinds = rows["kind"]
        if not len(rows) or kinds.max() < BAR:
            return Pieces(self._objects(rows, seqs), _ARRAY)
        pieces: list[bytes] = [b""] * len(rows)
        for mine, encode in ((kinds < BAR, self._objects), (kinds >= BAR, self._bars)):
            places = mine.nonzero()[0]
            for i, piece in zip(places.tolist(), encode(rows[places], seqs[places]), strict=True):
                pieces[i] = piece
        return Pieces(pieces, _ARRAY)

    def _objects(self, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        if self._some is not None:
            return self._with_some(self._some, rows, seqs)
        self._follow()
        quote, trade, tails = self._quote_heads, self._trade_heads, self._tails
        # Every number of every tick, of its kind or not, is written in one call: cheaper than to part the kinds.
        number = iter(number_texts(rows, _COLUMNS))
        return [
            (
                f'{quote[i]}{b},"bs":{bs},"ap":{a},"as":{as_},"t":"{t}{ns:09d}Z","seq":{seq}{tails[i]}'
                if kind == QUOTE
                else f'{trade[i]}{p},"s":{s},"t":"{t}{ns:09d}Z","seq":{seq}{tails[i]}'
            ).encode()
            for i, kind, b, bs, a, as_, p, s, t, ns, seq in zip(
                rows["instrument"].tolist(),
                rows["kind"].tolist(),
                *[number] * 6,
                *self._seconds.split(rows["ts_event"]),
                seqs.tolist(),
                strict=False,
            )
        ]

    def _each(self, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes] | None:
        """The same, one by one: for a few that is cheaper than a dozen calls into numpy. None = not all are ticks."""
        symbols, feed_of, feeds = self._directory.symbols(), self._directory.feed_of(), self._directory.feeds()
        text_of, dumps, with_feed = self._seconds.text, orjson.dumps, self.with_feed
        pieces, second, text = [], None, ""
        for row, seq in zip(rows_of(rows), seqs.tolist(), strict=True):
            time, _, _, i, _, kind, _, bid, bid_size, ask, ask_size, price, size = row
            of_time, ns = divmod(time, _SECOND_NS)
            if of_time != second:
                second, text = of_time, text_of(of_time)
            message: dict[str, Any]
            if kind == QUOTE:
                total = bid + bid_size + ask + ask_size
                if total != total:  # it may be that one of them is not there
                    bid, bid_size, ask, ask_size = (x if x == x else 0.0 for x in (bid, bid_size, ask, ask_size))
                message = {
                    "T": "q",
                    "S": symbols[i],
                    "bp": bid,
                    "bs": bid_size,
                    "ap": ask,
                    "as": ask_size,
                    "t": f"{text}{ns:09d}Z",
                    "seq": seq,
                }
            elif kind == TRADE:
                message = {
                    "T": "t",
                    "S": symbols[i],
                    "p": price if price == price else 0.0,
                    "s": size if size == size else 0.0,
                    "t": f"{text}{ns:09d}Z",
                    "seq": seq,
                }
            else:
                return None
            if with_feed:
                message["f"] = feeds[feed_of[i]]
            pieces.append(dumps(message))
        return pieces

    def _bars(self, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        messages = bar_messages(rows, seqs, self._directory, self.with_feed, self._fields)
        for message, second, ns in zip(messages, *self._seconds.split(rows["ts_event"]), strict=True):
            if "t" in message:
                message["t"] = f"{second}{ns:09d}Z"
        return [orjson.dumps(message) for message in messages]

    def _with_some(self, some: dict[int, _Some], rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        """Keeps nothing by instrument: there may be many encodings with different fields."""
        pieces: list[bytes] = [b""] * len(rows)
        for kind, how in some.items():
            of_kind = (rows["kind"] == kind).nonzero()[0]
            if len(of_kind):
                written = self._of_kind(how, rows[of_kind], seqs[of_kind])
                for i, piece in zip(of_kind.tolist(), written, strict=True):
                    pieces[i] = piece
        return pieces

    def _of_kind(self, how: _Some, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        symbols, feed_of, feeds = self._directory.symbols(), self._directory.feed_of(), self._directory.feeds()
        ids = rows["instrument"].tolist()
        names = {i: orjson.dumps(symbols[i]).decode() for i in set(ids)}
        count = len(how.columns)
        numbers = number_texts(rows, how.columns)
        values: list[Iterable[object]] = [[names[i] for i in ids], *(numbers[n::count] for n in range(count))]
        if how.with_time:
            values += self._seconds.split(rows["ts_event"])
        values.append(seqs.tolist())
        if self.with_feed:
            feed_names = [orjson.dumps(feed).decode() for feed in feeds]
            values.append([feed_names[feed_of[i]] for i in ids])
        template = how.template
        return [(template % row).encode() for row in zip(*values, strict=True)]

    def _follow(self) -> None:
        if len(self._tails) == len(self._directory):
            return
        symbols, feed_of, feeds = self._directory.symbols(), self._directory.feed_of(), self._directory.feeds()
        for i in range(len(self._tails), len(symbols)):
            symbol = orjson.dumps(symbols[i]).decode()
            self._quote_heads.append(f'{{"T":"q","S":{symbol},"bp":')
            self._trade_heads.append(f'{{"T":"t","S":{symbol},"p":')
            feed = orjson.dumps(feeds[feed_of[i]]).decode()
            self._tails.append(f',"f":{feed}}}' if self.with_feed else "}")

    def messages(self, messages: Sequence[dict[str, Any]]) -> bytes:
        return orjson.dumps(messages)


_ARRAY = Layout(begin=lambda _: b"[", counted=False, separator=b",", end=b"]")


def number_texts(rows: Ticks, columns: slice | list[int]) -> list[str]:
    """Row by row each number's shortest text, written in one call; what is not there is 0, as Alpaca writes it."""
    numbers = np.ascontiguousarray(rows).view(np.float64).reshape(-1, _WIDTH)[:, columns].flatten()
    np.copyto(numbers, 0.0, where=numbers != numbers)
    return orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode().split(",")
