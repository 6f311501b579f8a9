"""Binary: ticks as packed records behind a small header, for `numpy.frombuffer`; messages as JSON text.

The layout, with offsets, is in docs/protocol.md.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import RECORD, Records, Ticks, records_of

MAGIC = b"MKTF"
VERSION = 1
#: Magic, version, bytes of this header and of a record, flags, count, first sequence number. Its length is a multiple
#: of 8, as a record's is: where a payload is aligned to 8 bytes, all its columns are aligned to their own size.
HEADER = struct.Struct("<4sHHHHIQ")
assert HEADER.size == 24

_RAW_RECORD = np.dtype(f"V{RECORD.itemsize}")

#: So many records are joined one by one: to have numpy take them out costs more.
_FEW = 16


class BadFrame(ValueError):
    """Bytes that are no frame of records."""


def read_frame(payload: bytes) -> Records:
    """The records of a frame of ticks, shape (n,), RECORD: a read-only view of the payload.

    Raises:
        BadFrame: it is none, or one of another version, or cut short.
    """
    if len(payload) < HEADER.size:
        raise BadFrame(f"{len(payload)} bytes are no frame of records")
    magic, version, begin, length, _, count, _ = HEADER.unpack_from(payload)
    if magic != MAGIC:
        raise BadFrame(f"no frame of records: it begins with {payload[:4]!r}")
    if version != VERSION or length != RECORD.itemsize or begin != HEADER.size:
        raise BadFrame(
            f"records of version {version}, {length} bytes each; this reads version {VERSION}, {RECORD.itemsize} bytes"
        )
    if len(payload) != begin + count * length:
        raise BadFrame(f"{count} records of {length} bytes behind {begin} are not {len(payload)} bytes")
    return np.frombuffer(payload, RECORD, count, begin)


class PackedTicks:
    """Ticks as records, side by side.

    Args:
        records: shape (n,), RECORD as `V88`.
        seqs: shape (n,): of each.
    """

    def __init__(self, records: NDArray[np.void], seqs: NDArray[np.uint64]) -> None:
        self._records = records
        self._seqs = seqs
        self._bytes: bytes | None = None

    def frame(self, places: Sequence[int] | None = None) -> bytes:
        if places is None or len(places) == len(self._records):
            count = len(self._records)
            first = int(self._seqs[0]) if count else 0
            return b"".join((_header(count, first), self._records.data))
        count = len(places)
        first = int(self._seqs[places[0]]) if count else 0
        if count > _FEW:
            return b"".join((_header(count, first), self._records.take(places).data))
        if self._bytes is None:
            self._bytes = self._records.tobytes()
        data, length = self._bytes, RECORD.itemsize
        return b"".join((_header(count, first), *[data[n * length : (n + 1) * length] for n in places]))


def _header(count: int, first: int) -> bytes:
    return HEADER.pack(MAGIC, VERSION, HEADER.size, RECORD.itemsize, 0, count, first)


class BinaryEncoding:
    """Ticks are records; messages are JSON objects, a frame of them the array of them."""

    NAME = "binary"
    BINARY_TICKS, BINARY_MESSAGES = True, False
    RECORDS = True

    def __init__(self, directory: InstrumentDirectory, with_feed: bool, fields: frozenset[str] | None = None) -> None:
        if fields is not None:
            raise ValueError("a record is always whole: there are no fields to choose")
        self.with_feed = with_feed

    def ticks(self, rows: Ticks, seqs: NDArray[np.uint64]) -> PackedTicks:
        return PackedTicks(records_of(rows, seqs).view(_RAW_RECORD), seqs)

    def messages(self, messages: Sequence[dict[str, Any]]) -> bytes:
        return orjson.dumps(messages)
