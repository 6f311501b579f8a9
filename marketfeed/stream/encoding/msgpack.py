"""msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md): the same messages, times as Timestamp extension."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import BAR, QUOTE, TRADE, Ticks
from marketfeed.stream.encoding.bars import bar_messages
from marketfeed.stream.encoding.fields import FIELDS, QUOTE_FIELDS, TRADE_FIELDS
from marketfeed.stream.encoding.pieces import Layout, Pieces

_SECOND_NS = 1_000_000_000


def _key(name: str) -> bytes:
    return bytes([0xA0 | len(name)]) + name.encode()


def _layout(columns: dict[str, str], with_time: bool) -> tuple[np.dtype[np.void], bytes]:
    """Everything of a message behind its symbol: a record of fixed length, and that record with only its constants."""
    fields: list[tuple[str, str]] = []
    template = b""

    def put(name: str, code: str, constant: bytes = b"") -> None:
        nonlocal template
        fields.append((name, code))
        template += constant or bytes(np.dtype(code).itemsize)

    for key, column in columns.items():
        begin = _key(key) + b"\xcb"  # float 64
        put(f"_{key}", f"V{len(begin)}", begin)
        put(column, ">f8")
    if with_time:
        begin = _key("t") + b"\xc7\x0c\xff"  # ext 8, 12 bytes, type -1: timestamp 96
        put("_t", f"V{len(begin)}", begin)
        put("ns", ">u4")
        put("s", ">i8")
    begin = _key("seq") + b"\xcf"  # uint 64
    put("_seq", f"V{len(begin)}", begin)
    put("seq", ">u8")
    return np.dtype(fields), template


class _Kind:
    """How one kind of tick is written."""

    def __init__(self, letter: str, columns: dict[str, str], fields: frozenset[str]) -> None:
        columns = {key: column for key, column in columns.items() if key in fields}
        self.with_time = "t" in fields
        self.begin = _key("T") + _key(letter) + _key("S")
        self.keys = 2 + len(columns) + self.with_time + 1
        self.columns = tuple(columns.values())
        self.dtype, self.template = _layout(columns, self.with_time)


def _kinds(fields: frozenset[str]) -> dict[int, _Kind]:
    return {QUOTE: _Kind("q", QUOTE_FIELDS, fields), TRADE: _Kind("t", TRADE_FIELDS, fields)}


class MsgpackEncoding:
    """Ticks and messages are msgpack maps; a frame is the array of them."""

    NAME = "msgpack"
    BINARY_TICKS = BINARY_MESSAGES = True
    RECORDS = False

    def __init__(self, directory: InstrumentDirectory, with_feed: bool, fields: frozenset[str] | None = None) -> None:
        self._directory = directory
        self.with_feed = with_feed
        self._fields = fields
        self._kinds = _kinds(frozenset(FIELDS) if fields is None else fields)
        # By instrument id: how its messages begin. Grows with the directory, which is bounded. Encodings with fields
        # may be many, so they keep none.
        self._keeps_heads = fields is None
        self._heads: dict[int, list[bytes]] = {kind: [] for kind in self._kinds}

    def ticks(self, rows: Ticks, seqs: NDArray[np.uint64]) -> Pieces:
        if self._keeps_heads:
            self._follow()
        pieces: list[bytes] = [b""] * len(rows)
        for kind, how in self._kinds.items():
            of_kind = np.nonzero(rows["kind"] == kind)[0]
            if not len(of_kind):
                continue
            part = rows[of_kind]
            records = np.frombuffer(how.template * len(part), how.dtype).copy()
            for column in how.columns:
                records[column] = np.nan_to_num(part[column])
            if how.with_time:
                records["s"], records["ns"] = np.divmod(part["ts_event"], _SECOND_NS)
            records["seq"] = seqs[of_kind]
            packed, length = records.tobytes(), how.dtype.itemsize
            ids = part["instrument"].tolist()
            heads: Mapping[int, bytes] | list[bytes] = self._heads[kind]
            if not self._keeps_heads:
                distinct = set(ids)
                heads = dict(zip(distinct, self._begin(how, distinct), strict=True))
            for n, (i, instrument) in enumerate(zip(of_kind.tolist(), ids, strict=True)):
                pieces[i] = heads[instrument] + packed[n * length : (n + 1) * length]
        bars = (rows["kind"] >= BAR).nonzero()[0]
        if len(bars):
            for i, piece in zip(bars.tolist(), self._bars(rows[bars], seqs[bars]), strict=True):
                pieces[i] = piece
        return Pieces(pieces, _ARRAY)

    def _bars(self, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        messages = bar_messages(rows, seqs, self._directory, self.with_feed, self._fields)
        for message in messages:
            if "t" in message:
                seconds, ns = divmod(message["t"], _SECOND_NS)
                message["t"] = msgspec.msgpack.Ext(-1, struct.pack("!Iq", ns, seconds))
        return [msgspec.msgpack.encode(message) for message in messages]

    def _follow(self) -> None:
        count = len(self._directory)
        for kind, heads in self._heads.items():
            if len(heads) < count:
                heads += self._begin(self._kinds[kind], range(len(heads), count))

    def _begin(self, how: _Kind, instruments: Iterable[int]) -> list[bytes]:
        """All of a message up to and with the symbol, for each of these instruments."""
        symbols, feed_of, feeds = self._directory.symbols(), self._directory.feed_of(), self._directory.feeds()
        encode = msgspec.msgpack.encode
        begin = bytes([0x80 | how.keys + self.with_feed])  # fixmap
        # The feed stands before the symbol, whose value is followed by the numbers: maps have no order.
        names = [_key("f") + encode(feed) if self.with_feed else b"" for feed in feeds]
        return [begin + names[feed_of[i]] + how.begin + encode(symbols[i]) for i in instruments]

    def messages(self, messages: Sequence[dict[str, Any]]) -> bytes:
        return msgspec.msgpack.encode(messages)


def _array(count: int) -> bytes:
    """What an array of so many begins with."""
    if count < 16:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2) if count < 1 << 16 else b"\xdd" + count.to_bytes(4)


_ARRAY = Layout(begin=_array, counted=True)
