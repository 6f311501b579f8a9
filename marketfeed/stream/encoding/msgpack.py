"""msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md): the same messages, times as Timestamp extension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import QUOTE, TRADE, Ticks

_SECOND_NS = 1_000_000_000


def _key(name: str) -> bytes:
    return bytes([0xA0 | len(name)]) + name.encode()


def _layout(columns: dict[str, str]) -> tuple[np.dtype[np.void], bytes]:
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

    def __init__(self, letter: str, columns: dict[str, str]) -> None:
        self.begin = _key("T") + _key(letter) + _key("S")
        self.keys = 2 + len(columns) + 2
        self.columns = tuple(columns.values())
        self.dtype, self.template = _layout(columns)


_KINDS = {
    QUOTE: _Kind("q", {"bp": "bid", "bs": "bid_size", "ap": "ask", "as": "ask_size"}),
    TRADE: _Kind("t", {"p": "price", "s": "size"}),
}


class MsgpackEncoding:
    """Pieces are msgpack maps; a frame is the array of them."""

    NAME = "msgpack"
    BINARY = True

    def __init__(self, directory: InstrumentDirectory, with_feed: bool) -> None:
        self._directory = directory
        self._with_feed = with_feed
        # By instrument id: how its messages begin. Grows with the directory, which is bounded.
        self._heads: dict[int, list[bytes]] = {kind: [] for kind in _KINDS}

    def ticks(self, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        self._follow()
        pieces: list[bytes] = [b""] * len(rows)
        for kind, how in _KINDS.items():
            of_kind = np.nonzero(rows["kind"] == kind)[0]
            if not len(of_kind):
                continue
            part = rows[of_kind]
            records = np.frombuffer(how.template * len(part), how.dtype).copy()
            for column in how.columns:
                records[column] = np.nan_to_num(part[column])
            records["s"], records["ns"] = np.divmod(part["ts_event"], _SECOND_NS)
            records["seq"] = seqs[of_kind]
            packed, length, heads = records.tobytes(), how.dtype.itemsize, self._heads[kind]
            for n, (i, instrument) in enumerate(zip(of_kind.tolist(), part["instrument"].tolist(), strict=True)):
                pieces[i] = heads[instrument] + packed[n * length : (n + 1) * length]
        return pieces

    def _follow(self) -> None:
        symbols, feed_of, feeds = self._directory.symbols(), self._directory.feed_of(), self._directory.feeds()
        for kind, heads in self._heads.items():
            how = _KINDS[kind]
            for i in range(len(heads), len(symbols)):
                feed = _key("f") + msgspec.msgpack.encode(feeds[feed_of[i]]) if self._with_feed else b""
                begin = bytes([0x80 | how.keys + self._with_feed])  # fixmap
                # The feed stands before the symbol's value is followed by the numbers: maps have no order.
                heads.append(begin + feed + how.begin + msgspec.msgpack.encode(symbols[i]))

    def messages(self, messages: Sequence[dict[str, Any]]) -> list[bytes]:
        return [msgspec.msgpack.encode(message) for message in messages]

    def frame(self, pieces: Sequence[bytes]) -> bytes:
        n = len(pieces)
        begin = bytes([0x90 | n]) if n < 16 else b"\xdc" + n.to_bytes(2) if n < 1 << 16 else b"\xdd" + n.to_bytes(4)
        return begin + b"".join(pieces)
