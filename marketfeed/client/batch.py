"""Ticks as arrays: what :meth:`Feed.batches` yields, and what a binary frame is until somebody takes it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.messages import Bar, Gap, Numbered, Quote, Trade, UpdatedBar
from marketfeed.model.bars import BAR_ROW, FROM_QUOTES
from marketfeed.model.tick import BAR, QUOTE, RECORD, TICK_KINDS, TRADE, UPDATED_BAR, Records
from marketfeed.stream.encoding.rfc3339 import SecondTexts

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

#: A record that numpy moves as one piece, several times faster than column by column.
_RAW = np.dtype(f"V{RECORD.itemsize}")

#: What a kind is called in tables.
_KINDS = {QUOTE: "quote", TRADE: "trade"}

_NUMBERS_OF = {QUOTE: ("bid", "bid_size", "ask", "ask_size"), TRADE: ("price", "size")}
_NUMBERS = (*_NUMBERS_OF[QUOTE], *_NUMBERS_OF[TRADE])
_BAR_NUMBERS = ("open", "high", "low", "close", "volume", "count", "vwap", "seconds")
_KIND_OF: dict[type[Numbered], int] = {Quote: QUOTE, Trade: TRADE, Bar: BAR, UpdatedBar: UPDATED_BAR}


class Chunk(NamedTuple):
    """Records with what their ids stand for."""

    #: shape (n,), RECORD; read-only
    ticks: Records
    instruments: InstrumentTable

    @classmethod
    def of(cls, messages: Sequence[Numbered], instruments: InstrumentTable) -> Chunk:
        """Messages, which have no ids, as records with ids of this table."""
        ticks = np.zeros(len(messages), RECORD)
        ticks["seq"] = [message.seq for message in messages]
        ticks["ts_event"] = [message.t for message in messages]
        ticks["instrument"] = [instruments.id_of(message.symbol, message.feed) for message in messages]
        ticks["kind"] = [_KIND_OF[type(message)] for message in messages]
        for name in _NUMBERS:
            ticks[name] = nan
        for of, kind in _KIND_OF.items():
            mine = [message for message in messages if type(message) is of]
            places = np.flatnonzero(ticks["kind"] == kind)
            rows = ticks if kind in TICK_KINDS else ticks.view(BAR_ROW)
            for name in _NUMBERS_OF.get(kind, _BAR_NUMBERS):
                rows[name][places] = [getattr(message, name) for message in mine]
            if kind not in TICK_KINDS:
                rows["flags"][places] = [isinstance(message, Bar) and message.source == "quotes" for message in mine]
        ticks.flags.writeable = False
        return cls(ticks, instruments)

    @classmethod
    def joined(cls, chunks: Sequence[Chunk]) -> Chunk:
        """Chunks of one table as one; of one alone no copy."""
        if len(chunks) == 1:
            return chunks[0]
        data = b"".join([chunk.ticks.view(_RAW).data for chunk in chunks])
        return cls(np.frombuffer(data, RECORD), chunks[0].instruments)

    def messages(self) -> list[Numbered]:
        """The same as the messages that a JSON connection gets. A kind that is not known is passed over."""
        ticks = self.ticks
        names = {i: self.instruments[i] for i in np.unique(ticks["instrument"]).tolist()}
        rows = zip(
            ticks["kind"].tolist(),
            ticks["instrument"].tolist(),
            ticks["seq"].tolist(),
            *SecondTexts().split(ticks["ts_event"]),
            # As they are written in JSON; a message knows again what was missing.
            *[np.nan_to_num(ticks[name]).tolist() for name in _NUMBERS],
            strict=True,
        )
        messages: list[Numbered] = []
        for n, (kind, i, seq, text, ns, bid, bid_size, ask, ask_size, price, size) in enumerate(rows):
            symbol, feed = names[i]
            if kind == QUOTE:
                messages.append(Quote(symbol, bid, bid_size, ask, ask_size, f"{text}{ns:09d}Z", seq, feed))
            elif kind == TRADE:
                messages.append(Trade(symbol, price, size, f"{text}{ns:09d}Z", seq, feed))
            elif kind in (BAR, UPDATED_BAR):
                messages.append(_bar(ticks[n : n + 1], symbol, f"{text}{ns:09d}Z", feed))
        return messages


def _bar(record: Records, symbol: str, time: str, feed: str) -> Bar:
    """The message of a record, shape (1,)."""
    row = record.view(BAR_ROW)[0]
    of = UpdatedBar if row["kind"] == UPDATED_BAR else Bar
    return of(
        symbol=symbol,
        **{name: row[name].item() for name in _BAR_NUMBERS},
        time=time,
        seq=row["seq"].item(),
        source="quotes" if row["flags"] & FROM_QUOTES else "trades",
        feed=feed,
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """Some ticks, in the order in which they came.

    Attributes:
        ticks: shape (n,), structured, one row a tick; read-only (``ticks.copy()`` may be changed). Its columns:

            =========== ==== ===============================================================================
            seq         u8   place in the server's stream of all ticks
            ts_event    i8   ns since the Unix epoch, UTC: when the venue says it happened; 0 = not asked for
            ts_recv     i8   ns since the Unix epoch, UTC: when the server took it in; 0 = not told (JSON)
            venue_seq   u8   the venue's own number; 0 = none, or not told (JSON)
            instrument  u4   ``instruments[id]`` is its (symbol, feed)
            feed        u2   the server's number of the feed; 0 where it is not told (JSON)
            kind        u1   1 = quote, 2 = trade; 3 = bar and 4 = updated bar have other columns: :attr:`bars`
            flags       u1   0
            bid, ask    f8   of a quote: price; NaN = no such side, or a trade
            *_size      f8   NaN = not told, or a trade; from JSON 0 where it is not told
            price, size f8   of a trade; NaN in a quote
            =========== ==== ===============================================================================

        instruments: what the ids stand for. With the binary encoding they are the server's, and of one life of it the
            same; else they are of this object alone.
        gaps: what was lost before the first of these ticks. A batch ends where something is lost, so in itself it is
            complete. Where nothing came behind a loss yet, there is a batch with the gap and no ticks.
    """

    ticks: Records
    instruments: InstrumentTable
    gaps: tuple[Gap, ...] = ()

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def quotes(self) -> Records:
        """The quotes among the ticks, as a copy."""
        return self._of(QUOTE)

    @property
    def trades(self) -> Records:
        """The trades among the ticks, as a copy."""
        return self._of(TRADE)

    @property
    def bars(self) -> NDArray[np.void]:
        """The bars, those told again too, as a copy; structured: seq, ts_event (the begin), ts_recv, count, seconds,
        instrument, feed, kind (4 = told again), flags (1 = of mid-quotes), open, high, low, close, vwap, volume."""
        bars: NDArray[np.void] = self.ticks[self._are_bars()].view(BAR_ROW)
        return bars

    def _only_ticks(self) -> Batch:
        """Without the bars, whose columns are others."""
        bars = self._are_bars()
        return Batch(self.ticks[~bars], self.instruments, self.gaps) if bars.any() else self

    def _are_bars(self) -> NDArray[np.bool_]:
        return np.isin(self.ticks["kind"], (BAR, UPDATED_BAR))

    def _of(self, kind: int) -> Records:
        ticks: Records = self.ticks[self.ticks["kind"] == kind]
        return ticks

    @property
    def symbols(self) -> NDArray[np.object_]:
        """Each tick's symbol, shape (n,), text."""
        return self._coded(0).texts()

    @property
    def feeds(self) -> NDArray[np.object_]:
        """Each tick's feed, shape (n,), text; empty on `/v2/{feed}`."""
        return self._coded(1).texts()

    def to_pandas(self) -> pd.DataFrame:
        """A table: seq, ts_event and ts_recv (UTC), symbol, feed and kind (categories), the numbers, venue_seq.
        Bars are not in it: see :attr:`bars`.

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = _needed("pandas", "to_pandas()")
        batch = self._only_ticks()
        columns: dict[str, Any] = {"seq": batch.ticks["seq"].copy()}
        for name in ("ts_event", "ts_recv"):
            columns[name] = pandas.DatetimeIndex(batch._times(name), tz="UTC")
        for name, (codes, texts) in batch._coded_columns().items():
            columns[name] = pandas.Categorical.from_codes(codes, texts)
        for name in (*_NUMBERS, "venue_seq"):
            columns[name] = batch.ticks[name].copy()
        frame: pd.DataFrame = pandas.DataFrame(columns, copy=False)
        return frame

    def to_polars(self) -> pl.DataFrame:
        """As :meth:`to_pandas`; missing numbers and times are null.

        Raises:
            ImportError: polars is not installed.
        """
        polars = _needed("polars", "to_polars()")
        batch = self._only_ticks()
        columns: dict[str, pl.Series] = {"seq": polars.Series(batch.ticks["seq"].copy())}
        for name in ("ts_event", "ts_recv"):
            columns[name] = polars.Series(batch._times(name)).dt.replace_time_zone("UTC")
        for name, (codes, texts) in batch._coded_columns().items():
            columns[name] = polars.Series(texts, dtype=polars.String).cast(polars.Categorical).gather(codes)
        for name in _NUMBERS:
            columns[name] = polars.Series(batch.ticks[name].copy(), nan_to_null=True)
        columns["venue_seq"] = polars.Series(batch.ticks["venue_seq"].copy())
        frame: pl.DataFrame = polars.DataFrame(columns)
        return frame

    def to_arrow(self) -> Any:
        """As :meth:`to_pandas`, as a `pyarrow.Table`: texts are dictionaries, missing numbers and times are null.

        Raises:
            ImportError: pyarrow is not installed.
        """
        arrow = _needed("pyarrow", "to_arrow()")
        batch = self._only_ticks()
        columns: dict[str, Any] = {"seq": arrow.array(batch.ticks["seq"].copy())}
        for name in ("ts_event", "ts_recv"):
            columns[name] = arrow.array(batch._times(name), arrow.timestamp("ns", tz="UTC"))
        for name, (codes, texts) in batch._coded_columns().items():
            columns[name] = arrow.DictionaryArray.from_arrays(codes, arrow.array(texts, arrow.string()))
        for name in _NUMBERS:
            columns[name] = arrow.array(batch.ticks[name].copy(), from_pandas=True)
        columns["venue_seq"] = arrow.array(batch.ticks["venue_seq"].copy())
        return arrow.table(columns)

    def _coded_columns(self) -> dict[str, _Coded]:
        kinds = self.ticks["kind"]
        names = [_KINDS.get(kind, str(kind)) for kind in range(256)]
        return {"symbol": self._coded(0), "feed": self._coded(1), "kind": _code(kinds, names.__getitem__)}

    def _coded(self, part: int) -> _Coded:
        return _code(self.ticks["instrument"], lambda i: self.instruments[i][part])

    def _times(self, name: str) -> NDArray[np.datetime64]:
        """Not a time where it is 0."""
        times = self.ticks[name].astype("M8[ns]")
        times[self.ticks[name] == 0] = np.datetime64("NaT")
        return times


class _Coded(NamedTuple):
    """Texts of which each different one is written once."""

    #: of each row the place of its text, shape (n,)
    codes: NDArray[np.int32]
    #: all different
    words: list[str]

    def texts(self) -> NDArray[np.object_]:
        texts: NDArray[np.object_] = np.array(self.words, np.object_)[self.codes]
        return texts


def _code(numbers: NDArray[Any], text: Callable[[int], str]) -> _Coded:
    """What these small numbers stand for, shape (n,); asked once for each different number."""
    if not len(numbers):
        return _Coded(np.zeros(0, np.int32), [])
    present = np.flatnonzero(np.bincount(numbers))
    places: dict[str, int] = {}
    codes = np.zeros(int(present[-1]) + 1, np.int32)
    codes[present] = [places.setdefault(text(i), len(places)) for i in present.tolist()]
    return _Coded(codes[numbers], list(places))


def _needed(module: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{what} needs {module}; with the extra `frames`: pip install 'marketfeed[frames]'"
        ) from error
