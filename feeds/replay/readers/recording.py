"""Recordings that marketfeed made: every tick as it was, row for row, in the order of the stream.

Their files are the parts of one source, one after the other, because by time alone they could not be put together: a
tick that came first in one hour may have happened in the one before.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feeds.replay.readers.base import (
    DamagedFile,
    ReaderContext,
    RecordedFile,
    Settings,
    Source,
    needed,
    one_line,
)
from feeds.replay.readers.parquet import MAGIC
from marketfeed.feed import FeedError
from marketfeed.model.tick import Ticks

log = logging.getLogger("feeds.replay")

_BATCH_ROWS = 4_096
_PAGE_BUFFER_BYTES = 1 << 16


@dataclass(frozen=True)
class Part(Source):
    """One file of a recording."""

    #: first ``ts_recv``, then first ``seq``: parts come in this order.
    order: tuple[int, int] = (0, 0)
    #: the symbols that it has of each feed.
    instruments: dict[str, list[str]] = field(default_factory=dict)


def sources(file: RecordedFile, settings: Settings) -> list[Source]:
    """The file as a :class:`Part`; empty if marketfeed did not make it.

    Raises:
        FeedError: pyarrow is not installed; the file is damaged, or of a later format.
    """
    if not file.head.startswith(MAGIC) or file.compression:
        return []
    parquet = needed("pyarrow.parquet", "parquet", file.path)
    arrow = needed("pyarrow", "parquet", file.path)
    try:
        told = parquet.read_metadata(str(file.path))
    except (arrow.ArrowException, OSError) as error:
        raise FeedError(f"cannot read {file.path}: {one_line(error)}") from None
    texts = told.metadata or {}
    if b"marketfeed.format" not in texts:
        return []
    from marketfeed.recording.table import FORMAT

    if texts[b"marketfeed.format"] != str(FORMAT).encode():
        raise FeedError(
            f"{file.path} is of recording format {texts[b'marketfeed.format'].decode()}; this version reads {FORMAT}"
        )
    gaps = json.loads(texts.get(b"marketfeed.gaps", b"[]"))
    if gaps:
        log.warning("%s: the recording has %d gaps, the first at seq %d", file.path, len(gaps), gaps[0]["first"])
    reader = _Reader(file.path, told, settings, parquet, arrow)
    instruments = json.loads(texts.get(b"marketfeed.instruments", b"{}"))
    return [Part(str(file.path), reader.read, reader.read_since, reader.order(), instruments)]


def joined(parts: Sequence[Part], settings: Settings) -> Source:
    """The parts as one source.

    Raises:
        FeedError: the feed that is wanted is not in them; without one, a symbol that is wanted is in several feeds.
    """
    feeds = {name for part in parts for name in part.instruments}
    if settings.feed is not None and settings.feed not in feeds:
        raise FeedError(f"the recording has no feed {settings.feed!r}; it has: {', '.join(sorted(feeds)) or 'none'}")
    if settings.feed is None and len(feeds) > 1:
        _check_symbols(parts, settings)
    ordered = sorted(parts, key=lambda part: part.order)

    def read(context: ReaderContext) -> Generator[Ticks, None, None]:
        return read_since(context, None)

    def read_since(context: ReaderContext, since: int | None) -> Generator[Ticks, None, None]:
        for part in ordered:
            assert part.read_since is not None
            with closing(part.read(context) if since is None else part.read_since(context, since)) as batches:
                for batch in batches:
                    since = None
                    yield batch

    return Source(ordered[0].name, read, read_since)


def _check_symbols(parts: Sequence[Part], settings: Settings) -> None:
    feed_of: dict[str, str] = {}
    for part in parts:
        for feed, symbols in part.instruments.items():
            for symbol in symbols:
                if feed_of.setdefault(symbol, feed) != feed and settings.wants(symbol):
                    raise FeedError(
                        f"the recording has {symbol} of the feeds {feed_of[symbol]} and {feed}:"
                        f" say feed={feed}, and another replay for {feed_of[symbol]}"
                    )


class _Reader:
    def __init__(self, path: Path, told: Any, settings: Settings, parquet: Any, arrow: Any) -> None:
        self._path = path
        self._told = told
        self._settings = settings
        self._parquet = parquet
        self._arrow = arrow
        self._places = {name: place for place, name in enumerate(told.schema.to_arrow_schema().names)}

    def order(self) -> tuple[int, int]:
        if not self._told.num_row_groups:
            return (0, 0)
        first = self._told.row_group(0)
        return tuple(first.column(self._places[name]).statistics.min_raw for name in ("ts_recv", "seq"))

    def read(self, context: ReaderContext) -> Generator[Ticks, None, None]:
        """Every tick."""
        return self._read(context, 0)

    def read_since(self, context: ReaderContext, since: int) -> Generator[Ticks, None, None]:
        """From the row group on in which the first tick at or after this time is."""
        place = self._places[self._settings.clock]
        for number in range(self._told.num_row_groups):
            told = self._told.row_group(number).column(place).statistics
            if told is None or not told.has_min_max or told.max_raw >= since:
                return self._read(context, number)
        return self._read(context, self._told.num_row_groups)

    def _read(self, context: ReaderContext, first: int) -> Generator[Ticks, None, None]:
        groups = range(first, self._told.num_row_groups)
        if not groups:
            return
        try:
            with self._parquet.ParquetFile(str(self._path), buffer_size=_PAGE_BUFFER_BYTES, pre_buffer=False) as opened:
                known = _Ids()
                for batch in opened.iter_batches(_BATCH_ROWS, row_groups=list(groups), use_threads=False):
                    yield self._ticks(batch, context, known)
        except self._arrow.ArrowException as error:
            raise DamagedFile(one_line(error)) from None

    def _ticks(self, batch: Any, context: ReaderContext, known: _Ids) -> Ticks:
        from marketfeed.recording.table import ticks_of

        ticks = ticks_of(batch)
        symbols, feeds = batch.column("symbol"), batch.column("feed")
        which = symbols.indices.to_numpy()
        keep = np.ones(len(ticks), np.bool_)
        if self._settings.feed is not None:
            keep &= feeds.indices.to_numpy() == feeds.dictionary.index(self._settings.feed).as_py()
        ids = known.of(symbols.dictionary, which[keep], context)
        keep &= ids[which] >= 0
        ticks["instrument"] = np.maximum(ids[which], 0)
        return ticks if keep.all() else ticks[keep]


class _Ids:
    """The instruments of a dictionary's symbols, remembered as long as batches have the same dictionary."""

    def __init__(self) -> None:
        self._names: Any = None
        self._ids = np.empty(0, np.int64)

    def of(self, names: Any, which: NDArray[np.int32], context: ReaderContext) -> NDArray[np.int64]:
        """By place in the dictionary; -1 = leave its ticks out, or it is not among these places, shape (n,)."""
        if self._names is None or not names.equals(self._names):
            self._names, self._ids = names, np.full(len(names), -1)
        # One that was refused is asked for again: so all of its rows are counted.
        used, counts = np.unique(which[self._ids[which] < 0], return_counts=True)
        for place, count in zip(used.tolist(), counts.tolist(), strict=True):
            self._ids[place] = context.instrument(names[place].as_py(), count)
        return self._ids
