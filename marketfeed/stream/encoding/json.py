"""JSON: what Alpaca's stream sends, plus `seq` and, on `/stream`, `f`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import QUOTE, TRADE, Ticks
from marketfeed.stream.encoding.bars import bar_messages
from marketfeed.stream.encoding.fields import QUOTE_FIELDS, TRADE_FIELDS
from marketfeed.stream.encoding.rfc3339 import SecondTexts

#: A tick seen as ten f8: the columns of a quote, and of a trade.
_QUOTE_COLUMNS = slice(4, 8)
_TRADE_COLUMNS = slice(8, 10)


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
    """Pieces are JSON objects; a frame is the array of them."""

    NAME = "json"
    BINARY = False

    def __init__(self, directory: InstrumentDirectory, with_feed: bool, fields: frozenset[str] | None = None) -> None:
        self._directory = directory
        self.with_feed = with_feed
        self._fields = fields
        self._some: dict[int, _Some] | None = None
        if fields is not None:
            self._some = {
                QUOTE: _Some("q", QUOTE_FIELDS, _QUOTE_COLUMNS.start, fields, with_feed),
                TRADE: _Some("t", TRADE_FIELDS, _TRADE_COLUMNS.start, fields, with_feed),
            }
        # By instrument id: how its messages begin and end. Grows with the directory, which is bounded.
        self._quote_heads: list[str] = []
        self._trade_heads: list[str] = []
        self._tails: list[str] = []
        self._seconds = SecondTexts()

    def ticks(self, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        if not len(rows):
            return []
        if self._some is None:
            self._follow()
        kinds = rows["kind"]
        quotes = kinds == QUOTE
        if quotes.all():
            return self._quotes(rows, seqs)
        trades = kinds == TRADE
        if trades.all():
            return self._trades(rows, seqs)
        pieces: list[bytes] = [b""] * len(rows)
        parts = ((quotes, self._quotes), (trades, self._trades), (~(quotes | trades), self._bars))
        for mine, encode in parts:
            of_kind = np.nonzero(mine)[0]
            if not len(of_kind):
                continue
            for i, piece in zip(of_kind.tolist(), encode(rows[of_kind], seqs[of_kind]), strict=True):
                pieces[i] = piece
        return pieces

    def _quotes(self, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        if self._some is not None:
            return self._with_some(self._some[QUOTE], rows, seqs)
        numbers = _numbers(rows, _QUOTE_COLUMNS)
        heads, tails = self._quote_heads, self._tails
        ids = rows["instrument"].tolist()
        return [
            f'{heads[i]}{b},"bs":{bs},"ap":{a},"as":{as_},"t":"{t}{ns:09d}Z","seq":{seq}{tails[i]}'.encode()
            for i, b, bs, a, as_, t, ns, seq in zip(
                ids,
                numbers[0::4],
                numbers[1::4],
                numbers[2::4],
                numbers[3::4],
                *self._seconds.split(rows["ts_event"]),
                seqs.tolist(),
                strict=True,
            )
        ]

    def _trades(self, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        if self._some is not None:
            return self._with_some(self._some[TRADE], rows, seqs)
        numbers = _numbers(rows, _TRADE_COLUMNS)
        heads, tails = self._trade_heads, self._tails
        ids = rows["instrument"].tolist()
        return [
            f'{heads[i]}{p},"s":{s},"t":"{t}{ns:09d}Z","seq":{seq}{tails[i]}'.encode()
            for i, p, s, t, ns, seq in zip(
                ids, numbers[0::2], numbers[1::2], *self._seconds.split(rows["ts_event"]), seqs.tolist(), strict=True
            )
        ]

    def _bars(self, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        messages = bar_messages(rows, seqs, self._directory, self.with_feed, self._fields)
        for message, second, ns in zip(messages, *self._seconds.split(rows["ts_event"]), strict=True):
            if "t" in message:
                message["t"] = f"{second}{ns:09d}Z"
        return self.messages(messages)

    def _with_some(self, how: _Some, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        """Keeps nothing by instrument: there may be many encodings with different fields."""
        symbols, feed_of, feeds = self._directory.symbols(), self._directory.feed_of(), self._directory.feeds()
        ids = rows["instrument"].tolist()
        names = {i: orjson.dumps(symbols[i]).decode() for i in set(ids)}
        count = len(how.columns)
        numbers = _numbers(rows, how.columns)
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
        symbols, feed_of, feeds = self._directory.symbols(), self._directory.feed_of(), self._directory.feeds()
        for i in range(len(self._tails), len(symbols)):
            symbol = orjson.dumps(symbols[i]).decode()
            self._quote_heads.append(f'{{"T":"q","S":{symbol},"bp":')
            self._trade_heads.append(f'{{"T":"t","S":{symbol},"p":')
            feed = orjson.dumps(feeds[feed_of[i]]).decode()
            self._tails.append(f',"f":{feed}}}' if self.with_feed else "}")

    def messages(self, messages: Sequence[dict[str, Any]]) -> list[bytes]:
        return [orjson.dumps(message) for message in messages]

    def frame(self, pieces: Sequence[bytes]) -> bytes:
        return b"[%b]" % b",".join(pieces)


def _numbers(rows: Ticks, columns: slice | list[int]) -> list[str]:
    """Row by row each number's shortest text, written in one call; what is not there is 0, as Alpaca writes it."""
    numbers = np.ascontiguousarray(rows).view(np.float64).reshape(len(rows), -1)[:, columns].flatten()
    numbers[np.isnan(numbers)] = 0.0
    return orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode().split(",")
