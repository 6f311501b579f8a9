"""Rows as JSON, in Alpaca's shapes: the items of history, which have neither `T` nor `S`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from marketfeed.model.bars import FROM_QUOTES
from marketfeed.model.tick import QUOTE, RAW, TRADE, Ticks
from marketfeed.server.history.steps import Steps
from marketfeed.stream.encoding.json import number_texts
from marketfeed.stream.encoding.rfc3339 import SecondTexts

#: So many items are written in one step.
STEP_ITEMS = 512
#: Of a tick seen as ten f8: bid, bid_size, ask, ask_size; price, size.
_QUOTE_COLUMNS, _TRADE_COLUMNS = slice(4, 8), slice(8, 10)
#: Of a bar: open, high, low, close, vwap, volume.
_BAR_COLUMNS = slice(4, 10)
_OF_QUOTES = ',"from":"quotes"}'


class Rows(NamedTuple):
    """Ticks with their sequence numbers, or bars, which have none."""

    #: QUOTE, TRADE or BAR
    kind: int
    #: shape (n,), TICK or BAR_RECORD
    records: Ticks
    #: shape (n,); of bars without meaning
    seqs: NDArray[np.int64] | NDArray[np.uint64]


def _times(records: Ticks) -> tuple[list[str], list[int]]:
    return SecondTexts().split(records["ts_event"])


# Where Alpaca tells what we do not know (exchanges, conditions, tape) stands something empty, for clients that insist.
def _quotes(records: Ticks, seqs: Sequence[int]) -> list[str]:
    numbers = number_texts(records, _QUOTE_COLUMNS)
    return [
        f'{{"t":"{t}{ns:09d}Z","ax":"","ap":{a},"as":{as_},"bx":"","bp":{b},"bs":{bs},"c":[],"z":"","seq":{seq}}}'
        for b, bs, a, as_, t, ns, seq in zip(
            numbers[0::4], numbers[1::4], numbers[2::4], numbers[3::4], *_times(records), seqs, strict=True
        )
    ]


def _trades(records: Ticks, seqs: Sequence[int]) -> list[str]:
    numbers = number_texts(records, _TRADE_COLUMNS)
    return [
        f'{{"t":"{t}{ns:09d}Z","x":"","p":{p},"s":{s},"c":[],"i":{i},"z":"","seq":{seq}}}'
        for p, s, i, t, ns, seq in zip(
            numbers[0::2], numbers[1::2], records["venue_seq"].tolist(), *_times(records), seqs, strict=True
        )
    ]


def _bars(records: Ticks, seqs: Sequence[int]) -> list[str]:
    numbers = number_texts(records, _BAR_COLUMNS)
    tails = [_OF_QUOTES if flags & FROM_QUOTES else "}" for flags in records["flags"].tolist()]
    return [
        f'{{"t":"{t}{ns:09d}Z","o":{o},"h":{h},"l":{low},"c":{c},"v":{v},"n":{n},"vw":{vw}{tail}'
        for o, h, low, c, vw, v, n, t, ns, tail in zip(
            *(numbers[column::6] for column in range(6)),
            records["count"].tolist(),
            *_times(records),
            tails,
            strict=True,
        )
    ]


_WRITERS: dict[int, Callable[[Ticks, Sequence[int]], list[str]]] = {QUOTE: _quotes, TRADE: _trades}


def items(rows: Rows) -> Steps[list[str]]:
    """Each row as a JSON object."""
    write = _WRITERS.get(rows.kind, _bars)
    written: list[str] = []
    for begin in range(0, len(rows.records), STEP_ITEMS):
        part = slice(begin, begin + STEP_ITEMS)
        written += write(rows.records[part], rows.seqs[part].tolist())
        yield
    return written


def by_symbol(rows: Rows, symbols: Sequence[str]) -> Steps[str]:
    """`{"AAPL": [...], ...}`: the rows of each instrument, in the order they have."""
    order = np.argsort(rows.records["instrument"], kind="stable")
    rows = Rows(rows.kind, rows.records.view(RAW).take(order).view(rows.records.dtype), rows.seqs[order])
    written = yield from items(rows)
    yield
    ids, begins = np.unique(rows.records["instrument"], return_index=True)
    bounds = pairwise([*begins.tolist(), len(written)])
    groups = zip(ids.tolist(), bounds, strict=True)
    return _map((symbols[i], f"[{','.join(written[begin:end])}]") for i, (begin, end) in groups)


def one_by_symbol(rows: Rows, symbols: Sequence[str]) -> Steps[str]:
    """`{"AAPL": {...}, ...}`: the one row that each instrument has."""
    written = yield from items(rows)
    return _map((symbols[i], item) for i, item in zip(rows.records["instrument"].tolist(), written, strict=True))


def snapshots(parts: Mapping[str, Rows], symbols: Sequence[str]) -> Steps[str]:
    """`{"AAPL": {"latestTrade": {...}, ...}, ...}`: of each instrument its row of each part, null where it has none."""
    written: dict[str, dict[int, str]] = {}
    for name, rows in parts.items():
        texts = yield from items(rows)
        written[name] = dict(zip(rows.records["instrument"].tolist(), texts, strict=True))
    ids = sorted({i for items_of in written.values() for i in items_of})
    yield
    of_each = [",".join(f'"{name}":{of.get(i, "null")}' for name, of in written.items()) for i in ids]
    return _map((symbols[i], f"{{{parts_of}}}") for i, parts_of in zip(ids, of_each, strict=True))


def _map(entries: Iterable[tuple[str, str]]) -> str:
    written = ",".join(f"{orjson.dumps(symbol).decode()}:{value}" for symbol, value in entries)
    return f"{{{written}}}"


def body(name: str, content: str, about: Mapping[str, Any]) -> bytes:
    """`{name: content, ...}` with what else is told."""
    return f'{{"{name}":{content},{orjson.dumps(about).decode()[1:]}'.encode()
