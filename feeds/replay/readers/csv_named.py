"""CSV with a header line that names its columns (see :mod:`feeds.replay.readers.columns`); also .gz and .zst.

An empty cell means absent: one side of a quote may be, if the other is there. ``nan`` or ``inf`` where a price stands
is no price, and the row is refused; a size that is ``nan`` is absent. The delimiter is a comma, semicolon, tab or bar.
Times are numbers since the epoch (unit: stated, or told by magnitude) or ISO 8601 text.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from feeds.replay.readers import text, times
from feeds.replay.readers.base import ReaderContext, RecordedFile, Settings, Source, ids_of_rows, symbol_of
from feeds.replay.readers.columns import NUMBERS, PRICES, Rows, roles, ticks_of
from marketfeed.model.tick import Ticks

_BOM = b"\xef\xbb\xbf"
_WIDEST_TIME = 40
#: So many rows tell how times are written.
_SAMPLE_ROWS = 1_000


def sources(file: RecordedFile, settings: Settings) -> list[Source]:
    """The file's ticks; empty if it is no such CSV.

    Raises:
        FeedError: its rows have no symbol, and neither has its name.
    """
    header = file.head.removeprefix(_BOM).split(b"\n", 1)[0].decode(errors="replace").rstrip("\r")
    for delimiter in ",;\t|":
        columns = roles(header.split(delimiter))
        if columns is not None:
            reader = _Reader(file, settings, header.count(delimiter) + 1, columns, delimiter)
            return [Source(str(file.path), reader.read)]
    return []


class _Reader:
    def __init__(
        self, file: RecordedFile, settings: Settings, width: int, columns: dict[str, int], delimiter: str
    ) -> None:
        self._file = file
        self._settings = settings
        self._width = width
        self._columns = columns
        self._delimiter = ord(delimiter)
        self._symbol = "" if "symbol" in columns else symbol_of(file, settings)

    def read(self, context: ReaderContext) -> Generator[Ticks, None, None]:
        """The file's ticks, a block of lines a batch."""
        # How the times are written is told by the first block that has any.
        how = self._settings.time_unit or ""
        with self._file.open() as stream:
            for number, block in enumerate(text.blocks(stream, context.refuse)):
                lines = block if number else block[block.index(b"\n") + 1 :]
                table = text.split(lines, self._width, context.refuse, self._delimiter)
                if len(table):
                    how = how or self._how_times_are_written(table)
                    yield self._ticks(table, how or "text", context)

    def _how_times_are_written(self, table: text.Table) -> str:
        """A unit, "text", or "" where no row tells."""
        sample = table.first(_SAMPLE_ROWS)
        values, state = sample.floats(self._columns["time"])
        numeric = state == text.OK
        _, written = times.iso_ns(sample.matrix(self._columns["time"], _WIDEST_TIME), None)
        if written.sum() > numeric.sum():
            return "text"
        return times.guess_unit(values[numeric]) if numeric.any() else ""

    def _ticks(self, table: text.Table, how: str, context: ReaderContext) -> Ticks:
        ts, good = self._times(table, how)
        bad = {"unparsable time": ~good}
        rows = Rows(ts, np.empty(0, np.int64))
        for name in NUMBERS:
            if name not in self._columns:
                continue
            values, state = table.floats(self._columns[name])
            rows.numbers[name] = values
            wrong = state == text.BAD
            if wrong.any() and name not in PRICES:
                for row in np.flatnonzero(wrong).tolist():
                    wrong[row] = table.cell(row, self._columns[name]).lower().lstrip("+-") != "nan"
            bad[f"unparsable {name}"] = wrong
        if "venue_seq" in self._columns:
            numbers = table.decimals(self._columns["venue_seq"])
            rows.venue_seq = numbers.mantissa
            bad["unparsable venue_seq"] = (numbers.state == text.BAD) | (numbers.scale > 0) | (numbers.mantissa < 0)
        keep = table.sound(bad, context.refuse)
        return ticks_of(self._kept(rows, keep, table, context), context)

    def _times(self, table: text.Table, how: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        column = self._columns["time"]
        if how == "text":
            return times.iso_ns(table.matrix(column, _WIDEST_TIME), self._settings.zone)
        numbers = table.decimals(column)
        good = numbers.state == text.OK
        ts = times.scaled_ns(numbers.mantissa, numbers.scale, how)
        for row in np.flatnonzero(numbers.state == text.BAD).tolist():
            # 1.5882912e9 and the like
            try:
                value = Decimal(table.unusual(row, column)).scaleb(times.UNITS[how])
                ts[row] = int(max(min(value, Decimal(times.FAR)), Decimal(-times.FAR)))
                good[row] = True
            except (ArithmeticError, ValueError):
                good[row] = False
        return ts, good

    def _kept(self, rows: Rows, keep: NDArray[np.bool_], table: text.Table, context: ReaderContext) -> Rows:
        """Only the good rows, of them only those of wanted instruments."""
        if "symbol" in self._columns:
            names = table.names(self._columns["symbol"])
            if not keep.all():
                # A bad row must not put its symbol into the directory.
                names = [name for name, kept in zip(names, keep.tolist(), strict=True) if kept]
            ids = np.full(len(table), -1)
            ids[keep] = ids_of_rows(context, names)
        else:
            count = int(keep.sum())
            ids = np.full(len(table), context.instrument(self._symbol, count) if count else -1)
        keep = keep & (ids >= 0)
        rows = replace(rows, ids=ids)
        if keep.all():
            return rows
        return Rows(
            rows.ts[keep],
            ids[keep],
            {name: values[keep] for name, values in rows.numbers.items()},
            None if rows.venue_seq is None else rows.venue_seq[keep],
        )
