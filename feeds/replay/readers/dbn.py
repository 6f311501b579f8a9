"""Databento DBN, plain or zstd-compressed; needs databento-dbn, the extra ``dbn``.

Schemas: mbp-1, mbp-10, tbbo, bbo-1s/1m, cmbp-1 and their like, and trades; records of other schemas are passed over,
and how many of each is logged when the file ends. Every record that carries a book is a quote (its best level), and one
whose action is ``T`` (trade) is a trade as well: the quote, which is the book as the trade found it, comes first.
``venue_seq`` is ``sequence`` (0 = none, on consolidated schemas). ``ts_event`` is the record's, but for bbo records,
which sample the book: theirs is ``ts_recv``, the end of the interval.

Prices are integers x 1e9; UNDEF_PRICE means no such side. The symbol is that which the metadata, or a symbol mapping
message, gives to the instrument id; without any, the id in digits.

Source: Databento documentation, "DBN encoding" and the schemas' field tables.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Iterator
from datetime import UTC, date, datetime
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feeds.replay.readers.base import (
    HEAD_BYTES,
    DamagedFile,
    ReaderContext,
    RecordedFile,
    Settings,
    Source,
    ids_of_rows,
    needed,
    one_line,
)
from marketfeed.feed import FeedError
from marketfeed.model.tick import QUOTE, TRADE, Ticks, empty_ticks

log = logging.getLogger("feeds.replay")

_MAGIC = b"DBN"
#: Compressed bytes a step: thousands of records.
_CHUNK_BYTES = 1 << 14
_MOST_ROWS = 4_096

_FIELDS = {
    "rtype": ("u1", 1), "instrument_id": ("<u4", 4), "ts_event": ("<u8", 8), "price": ("<i8", 16), "size": ("<u4", 24),
    "action": ("S1", 28), "ts_recv": ("<u8", 32), "sequence": ("<u4", 44),
}  # fmt: skip
_BOOK_FIELDS = {
    "bid_px": ("<i8", 48), "ask_px": ("<i8", 56), "bid_sz": ("<u4", 64), "ask_sz": ("<u4", 68),
}  # fmt: skip


def _layout(fields: dict[str, tuple[str, int]], size: int) -> np.dtype[np.void]:
    return np.dtype(
        {
            "names": list(fields),
            "formats": [kind for kind, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": size,
        }
    )


#: What all records that carry a trade begin with, and what those with a book go on with; DBN versions 1 to 3.
TRADE_RECORD = _layout(_FIELDS, 48)
BOOK_RECORD = _layout(_FIELDS | _BOOK_FIELDS, 80)

#: ``rtype``: trades; mbp-1 and tbbo, mbp-10, cmbp-1, tcbbo; sampled: cbbo-1s and -1m, bbo-1s and -1m.
_TRADES = 0x00
_BOOKS = frozenset({0x01, 0x0A, 0xB1, 0xC2})
_SAMPLED = frozenset({0xC0, 0xC1, 0xC3, 0xC4})
_UNDEF_PRICE = np.iinfo(np.int64).max
_UNDEF_SIZE = np.iinfo(np.uint32).max
_FOREVER = np.iinfo(np.int64).max


def sources(file: RecordedFile, settings: Settings) -> list[Source]:
    """The file's ticks; empty if it is no DBN.

    Raises:
        FeedError: databento-dbn is not installed, or the header is damaged.
    """
    if not file.head.startswith(_MAGIC) and not _hidden(file):
        return []
    dbn = needed("databento_dbn", "dbn", file.path)
    try:
        decoder = dbn.DBNDecoder()
        decoder.write_and_decode(file.head)
    except (dbn.DBNError, RuntimeError) as error:
        raise FeedError(f"cannot read {file.path}: {one_line(error)}") from None
    return [Source(str(file.path), _Reader(file, dbn).read)]


def _hidden(file: RecordedFile) -> bool:
    """Whether it is DBN in zstd that only databento-dbn can look into, for want of another zstd."""
    if file.compression != "zstd" or file.head or find_spec("databento_dbn") is None:
        return False
    dbn = needed("databento_dbn", "dbn", file.path)
    try:
        with file.path.open("rb") as stream:
            return bool(dbn.DBNDecoder(compression=dbn.Compression.ZSTD).write_and_decode(stream.read(HEAD_BYTES)))
    except (dbn.DBNError, RuntimeError):
        return False


class _Symbols:
    """Which symbol an instrument id has at a time."""

    def __init__(self) -> None:
        #: id -> (from ns, to ns, symbol), in the order they were told
        self._spans: dict[int, list[tuple[int, int, bytes]]] = {}

    def tell(self, metadata: Any) -> None:
        """Learn from a file's metadata."""
        for symbol, intervals in metadata.mappings.items():
            for interval in intervals:
                if interval["symbol"].isdigit():
                    span = (_midnight(interval["start_date"]), _midnight(interval["end_date"]), symbol.encode())
                    self._spans.setdefault(int(interval["symbol"]), []).append(span)

    def map(self, message: Any) -> None:
        """Learn from a symbol mapping message: from here on."""
        self._spans[message.instrument_id] = [(0, _FOREVER, message.stype_out_symbol.encode())]

    def of(self, ids: NDArray[np.uint32], ts: NDArray[np.int64]) -> list[bytes]:
        """The symbol of each record."""
        names = np.empty(len(ids), object)
        for number in np.unique(ids).tolist():
            rows = np.flatnonzero(ids == number)
            spans = self._spans.get(number, [])
            # An interval that is the only one also names what lies a moment outside of it.
            names[rows] = spans[0][2] if len(spans) == 1 else str(number).encode()
            if len(spans) > 1:
                for begin, end, symbol in spans:
                    names[rows[(ts[rows] >= begin) & (ts[rows] < end)]] = symbol
        named: list[bytes] = names.tolist()
        return named


class _Reader:
    def __init__(self, file: RecordedFile, dbn: Any) -> None:
        self._file = file
        self._dbn = dbn

    def read(self, context: ReaderContext) -> Generator[Ticks, None, None]:
        """The file's ticks, a few thousand records a batch."""
        symbols = _Symbols()
        passed: Counter[str] = Counter()
        zstd = self._file.compression == "zstd"
        decoder = self._dbn.DBNDecoder(compression=getattr(self._dbn.Compression, "ZSTD" if zstd else "NONE"))
        with self._file.path.open("rb") if zstd else self._file.open() as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                try:
                    records = decoder.write_and_decode(chunk)
                except (self._dbn.DBNError, RuntimeError) as error:
                    raise DamagedFile(one_line(error)) from None
                for begin in range(0, len(records), _MOST_ROWS):
                    yield from self._batches(records[begin : begin + _MOST_ROWS], symbols, passed, context)
        if decoder.buffer():
            raise DamagedFile("it ends within a record")
        if passed:
            log.info("%s: passed over, no ticks: %s", self._file.path, ", ".join(f"{n} {k}" for k, n in passed.items()))

    def _batches(
        self, records: list[Any], symbols: _Symbols, passed: Counter[str], context: ReaderContext
    ) -> Iterator[Ticks]:
        """Ticks of runs of records of one kind."""
        run: list[bytes] = []
        kind: type | None = None
        for record in records:
            if type(record) is not kind:
                if run:
                    yield _ticks(run, symbols, context)
                run, kind = [], type(record)
            if isinstance(record, self._dbn.Metadata):
                symbols.tell(record)
            elif isinstance(record, self._dbn.SymbolMappingMsg | self._dbn.SymbolMappingMsgV1):
                symbols.map(record)
            elif int(record.rtype) in _BOOKS or int(record.rtype) in _SAMPLED or int(record.rtype) == _TRADES:
                run.append(bytes(record))
            else:
                passed[kind.__name__ if kind else ""] += 1
        if run:
            yield _ticks(run, symbols, context)


def _ticks(run: list[bytes], symbols: _Symbols, context: ReaderContext) -> Ticks:
    """The ticks of records that are all of one length."""
    whole = np.frombuffer(b"".join(run), np.uint8).reshape(len(run), -1)
    booked = whole.shape[1] >= BOOK_RECORD.itemsize
    layout = BOOK_RECORD if booked else TRADE_RECORD
    records = np.ascontiguousarray(whole[:, : layout.itemsize]).view(layout)[:, 0]
    sampled = np.isin(records["rtype"], list(_SAMPLED))
    stamp = np.where(sampled, records["ts_recv"], records["ts_event"])
    # UNDEF_TIMESTAMP is beyond int64: it stays beyond tomorrow, and is refused.
    ts = np.minimum(stamp, np.uint64(_FOREVER)).astype(np.int64)
    ids = np.array(ids_of_rows(context, symbols.of(records["instrument_id"], ts)))
    traded = (records["action"] == b"T") & ~sampled

    # A place for each tick: the quote of a record, then its trade.
    counts = booked + traded.astype(np.int64)
    row = np.repeat(np.arange(len(records)), counts)
    trade = np.zeros(len(row), np.bool_)
    trade[np.cumsum(counts)[traded] - 1] = True
    row, trade = row[ids[row] >= 0], trade[ids[row] >= 0]
    chosen = records[row]
    ticks = empty_ticks(len(row))
    ticks["ts_event"] = ts[row]
    ticks["venue_seq"] = chosen["sequence"]
    ticks["instrument"] = ids[row]
    ticks["kind"] = np.where(trade, TRADE, QUOTE)
    sides = {"price": ("price", "size", trade)}
    if booked:
        sides |= {"bid": ("bid_px", "bid_sz", ~trade), "ask": ("ask_px", "ask_sz", ~trade)}
    for name, (price, size, here) in sides.items():
        priced = here & (chosen[price] != _UNDEF_PRICE)
        ticks[name] = np.where(priced, chosen[price] / 1e9, np.nan)
        sized = priced & (chosen[size] != _UNDEF_SIZE)
        ticks["size" if name == "price" else f"{name}_size"] = np.where(sized, chosen[size], np.nan)
    return ticks


def _midnight(day: date | int) -> int:
    """The beginning of a date, ns since the epoch; metadata has it as a date, or as the number YYYYMMDD."""
    if isinstance(day, int):
        day = date(day // 10_000, day // 100 % 100, day % 100)
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 10**9
