"""Parquet with named columns (see :mod:`feeds.replay.readers.columns`); needs pyarrow, the extra ``parquet``.

Null and NaN mean absent. Times are timestamps, numbers since the epoch (unit: stated, or told by magnitude), or
ISO 8601 text. The file is read page by page, never a row group whole.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feeds.replay.readers import times
from feeds.replay.readers.base import (
    DamagedFile,
    ReaderContext,
    RecordedFile,
    Settings,
    Source,
    ids_of,
    needed,
    one_line,
    symbol_of,
)
from feeds.replay.readers.columns import NUMBERS, Rows, roles, ticks_of
from marketfeed.feed import FeedError
from marketfeed.model.tick import Ticks

MAGIC = b"PAR1"
_BATCH_ROWS = 4_096
_PAGE_BUFFER_BYTES = 1 << 16


def sources(file: RecordedFile, settings: Settings) -> list[Source]:
    """The file's ticks; empty if it is no Parquet, or its columns are not those of ticks.

    Raises:
        FeedError: pyarrow is not installed; the file is damaged; a column has a type that cannot be used.
    """
    if not file.head.startswith(MAGIC) or file.compression:
        return []
    parquet = needed("pyarrow.parquet", "parquet", file.path)
    arrow = needed("pyarrow", "parquet", file.path)
    try:
        schema = parquet.read_schema(str(file.path))
    except (arrow.ArrowException, OSError) as error:
        raise FeedError(f"cannot read {file.path}: {one_line(error)}") from None
    columns = roles(schema.names)
    if columns is None:
        return []
    return [Source(str(file.path), _Reader(file, settings, arrow, parquet, schema, columns).read)]


class _Reader:
    def __init__(
        self, file: RecordedFile, settings: Settings, arrow: Any, parquet: Any, schema: Any, columns: dict[str, int]
    ) -> None:
        self._file = file
        self._settings = settings
        self._arrow = arrow
        self._parquet = parquet
        self._symbol = "" if "symbol" in columns else symbol_of(file, settings)
        #: role -> the column's name in the file
        self._names = {role: schema.names[place] for role, place in columns.items()}
        for role, place in columns.items():
            self._check(role, schema.field(place))

    def _check(self, role: str, field: Any) -> None:
        kinds = self._arrow.types
        kind = field.type.value_type if kinds.is_dictionary(field.type) else field.type
        number = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)
        written = kinds.is_string(kind) or kinds.is_large_string(kind)
        if role == "symbol":
            fits = written
        elif role == "time":
            fits = kinds.is_timestamp(kind) or kinds.is_integer(kind) or kinds.is_floating(kind) or written
        elif role == "venue_seq":
            fits = kinds.is_integer(kind)
        else:
            fits = number
        if not fits:
            raise FeedError(f"{self._file.path}: column {field.name!r} is of type {field.type}, no {role}")

    def read(self, context: ReaderContext) -> Generator[Ticks, None, None]:
        """The file's ticks, _BATCH_ROWS rows a batch."""
        unit = self._settings.time_unit
        try:
            # A buffer instead of whole column chunks: a row group may be as large as the file.
            with self._parquet.ParquetFile(
                str(self._file.path), buffer_size=_PAGE_BUFFER_BYTES, pre_buffer=False
            ) as opened:
                for batch in opened.iter_batches(_BATCH_ROWS, columns=list(self._names.values()), use_threads=False):
                    if batch.num_rows:
                        ts, good, unit = self._times(batch.column(self._names["time"]), unit)
                        yield self._ticks(batch, ts, good, context)
        except self._arrow.ArrowException as error:
            raise DamagedFile(one_line(error)) from None

    def _times(self, column: Any, unit: str | None) -> tuple[NDArray[np.int64], NDArray[np.bool_], str | None]:
        arrow = self._arrow
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        good = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), np.bool_)
        kind = column.type
        if arrow.types.is_timestamp(kind):
            raw = column.cast(arrow.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            ts = times.scaled_ns(raw, np.zeros(len(raw), np.int64), kind.unit)
            if kind.tz is None and self._settings.zone is not None:
                ts = times.to_utc(ts, self._settings.zone)
            return ts, good, unit
        if arrow.types.is_integer(kind):
            raw = column.fill_null(0).to_numpy(zero_copy_only=False)
            raw = np.minimum(raw, times.FAR).astype(np.int64)
            if unit is None and good.any():
                unit = times.guess_unit(raw[good].astype(np.float64))
            return times.scaled_ns(raw, np.zeros(len(raw), np.int64), unit or "ns"), good, unit
        if arrow.types.is_floating(kind):
            values = np.asarray(column.cast(arrow.float64()).to_numpy(zero_copy_only=False), np.float64)
            good = np.isfinite(values)
            if unit is None and good.any():
                unit = times.guess_unit(values[good])
            ns = np.where(good, values, 0.0) * 10.0 ** times.UNITS[unit or "s"]
            # As f8 that is near enough: 2**63 itself is out of reach.
            return np.clip(np.rint(ns), -9.2e18, 9.2e18).astype(np.int64), good, unit
        cells = [cell.encode()[:64] for cell in column.fill_null("").to_pylist()]
        padded = np.array(cells, "S64").view(np.uint8).reshape(len(cells), 64)
        ts, readable = times.iso_ns(np.ascontiguousarray(padded.T), self._settings.zone)
        return ts, good & readable, unit

    def _ticks(self, batch: Any, ts: NDArray[np.int64], good: NDArray[np.bool_], context: ReaderContext) -> Ticks:
        if not good.all():
            bad = int(good.argmin())
            context.refuse("unparsable time", int((~good).sum()), str(batch.column(self._names["time"])[bad]))
        ids = np.full(len(ts), -1)
        if "symbol" in self._names:
            column = batch.column(self._names["symbol"])
            encoded = column if self._arrow.types.is_dictionary(column.type) else column.dictionary_encode()
            which = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            nameless = good & (which < 0)
            if nameless.any():
                context.refuse("no symbol", int(nameless.sum()), f"ts_event {ts[nameless.argmax()]}")
            good = good & (which >= 0)
            # Only the symbols of good rows: a dictionary may hold others too.
            used, counts = np.unique(which[good], return_counts=True)
            names = [str(encoded.dictionary[number].as_py()).encode() for number in used.tolist()]
            known = ids_of(context, dict(zip(names, counts.tolist(), strict=True)))
            ids[good] = np.array([known[name] for name in names], np.int64)[np.searchsorted(used, which[good])]
        elif good.any():
            ids[:] = context.instrument(self._symbol, int(good.sum()))
        keep = good & (ids >= 0)
        rows = Rows(ts[keep], ids[keep])
        for role in NUMBERS:
            if role in self._names:
                rows.numbers[role] = self._floats(batch.column(self._names[role]))[keep]
        if "venue_seq" in self._names:
            raw = batch.column(self._names["venue_seq"]).fill_null(0).to_numpy(zero_copy_only=False)
            rows.venue_seq = raw.astype(np.int64)[keep]
        return ticks_of(rows, context)

    def _floats(self, column: Any) -> NDArray[np.float64]:
        if self._arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return np.array(column.cast(self._arrow.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
