"""QuantConnect Lean tick zips: quotes and trades of equities, forex, CFD and futures.

A zip holds headerless CSV members, ``20131007_aig_Quote_Tick.csv`` (equities) or ``20140505_eurusd_tick_quote.csv``
(the others; futures with one member an expiry, ``20131007_gc_tick_trade_201312.csv``, which is symbol ``GC201312``).
The first column is milliseconds since midnight of that date, with up to six decimals, in the zone of the data:
New York for equities, fixed UTC-05:00 for FXCM, else UTC. Which of these it is, is told by the folders that Lean lays
out (``forex/fxcm/tick/eurusd/20140505_quote.zip``), or by the member's name where the zip lies elsewhere; the market of
a currency pair cannot be told then: UTC is taken, ``tz`` states another.

========================= =========================================== ==================
kind                      columns                                     price
========================= =========================================== ==================
quote of forex, CFD       ms, bid, ask                                as it is
quote of the others       ms, bid, bid size, ask, ask size, ...       equities: x 10000
trade                     ms, price, size, ...                        equities: x 10000
========================= =========================================== ==================

Equity quotes are one-sided: a row with 0,0 for the other side says nothing of it. The other side is then that of the
member's own last row that had one, NaN before there was any. Crossed and locked quotes, and rows that are marked
suspicious, are kept.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from feeds.replay.readers import text, times
from feeds.replay.readers.base import DAMAGE, ReaderContext, RecordedFile, Settings, Source, one_line
from marketfeed.feed import FeedError
from marketfeed.model.instruments import check_name
from marketfeed.model.tick import QUOTE, TRADE, Ticks, empty_ticks

MAGIC = b"PK\x03\x04"

_EQUITY_MEMBER = re.compile(r"(?:(\d{8})_)?(.+)_(quote|trade)_tick()\.csv", re.IGNORECASE)
_OTHER_MEMBER = re.compile(r"(?:(\d{8})_)?(.+)_tick_(quote|trade)(?:_(\d{6}|\d{8}))?\.csv", re.IGNORECASE)
_ZIP_DATE = re.compile(r"(\d{8})(?!\d)")
_SECURITY_TYPES = frozenset({"equity", "forex", "cfd", "future", "crypto", "cryptofuture", "index"})
_NEW_YORK = "America/New_York"
_FXCM = timezone(timedelta(hours=-5))
_EQUITY_PRICE_PLACES = 4


@dataclass(frozen=True)
class _Member:
    path: Path
    name: str
    #: midnight of its date, ns since the epoch as if it were UTC
    midnight: int
    zone: tzinfo
    symbol: str
    kind: int
    price_places: int


def sources(file: RecordedFile, settings: Settings) -> list[Source]:
    """The ticks of each member; empty if it is no Lean tick zip.

    Raises:
        FeedError: the zip is damaged or encrypted, or its date or symbol cannot be told.
    """
    if file.compression or not file.head.startswith(MAGIC):
        return []
    found = []
    try:
        with zipfile.ZipFile(file.path) as archive:
            for info in archive.infolist():
                plain = info.filename.rsplit("/", 1)[-1]
                match = _EQUITY_MEMBER.fullmatch(plain) or _OTHER_MEMBER.fullmatch(plain)
                if match:
                    member = _member(file.path, info.filename, match, settings)
                    archive.open(info).close()
                    found.append(Source(f"{file.path}:{info.filename}", _Reader(member).read))
    except (*DAMAGE, RuntimeError, NotImplementedError) as error:
        raise FeedError(f"cannot read {file.path}: {one_line(error)}") from None
    return found


def _member(path: Path, name: str, match: re.Match[str], settings: Settings) -> _Member:
    date_text, ticker, kind, expiry = match.groups()
    if date_text is None:
        in_zip_name = _ZIP_DATE.match(path.name)
        if not in_zip_name:
            raise FeedError(f"{path}: neither the zip's name nor its member {name} tells the date (YYYYMMDD)")
        date_text = in_zip_name[1]
    try:
        midnight = datetime.strptime(date_text, "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        raise FeedError(f"{path}: {date_text} in the name of member {name} is no date") from None
    # .../SECURITY TYPE/MARKET/tick/SYMBOL/DATE_KIND.zip; futures and equities alike.
    folders = [part.lower() for part in path.resolve().parts[-5:-1]]
    security, market = "", ""
    if len(folders) == 4 and folders[2] == "tick" and folders[0] in _SECURITY_TYPES:
        security, market = folders[:2]
    equity = security == "equity" if security else match.re is _EQUITY_MEMBER
    zone: tzinfo = UTC
    if settings.zone is not None:
        zone = settings.zone
    elif equity:
        try:
            zone = ZoneInfo(_NEW_YORK)
        except ZoneInfoNotFoundError:
            raise FeedError(f"{path} is in the time of {_NEW_YORK}: pip install tzdata") from None
    elif market == "fxcm":
        zone = _FXCM
    symbol = ticker.upper() + (expiry or "")
    try:
        check_name(symbol)
    except ValueError as error:
        raise FeedError(f"{path}: member {name}: {error}") from None
    return _Member(
        path=path,
        name=name,
        midnight=int(midnight.timestamp()) * 10**9,
        zone=zone,
        symbol=symbol,
        kind=QUOTE if kind.lower() == "quote" else TRADE,
        price_places=_EQUITY_PRICE_PLACES if equity else 0,
    )


class _Reader:
    def __init__(self, member: _Member) -> None:
        self._member = member

    def read(self, context: ReaderContext) -> Generator[Ticks, None, None]:
        """The member's ticks, a block of lines a batch."""
        if not context.wants(self._member.symbol):
            return
        width = 0
        last = dict.fromkeys(("bid", "bid_size", "ask", "ask_size"), np.nan)
        with zipfile.ZipFile(self._member.path) as archive, archive.open(self._member.name) as stream:
            for block in text.blocks(stream, context.refuse):
                width = width or _usual_width(block)
                if width < 3:
                    context.refuse("wrong number of columns", block.count(b"\n"), block[:80].decode(errors="replace"))
                    width = 0
                    continue
                table = text.split(block, width, context.refuse)
                if len(table):
                    ticks = self._ticks(table, width, last, context)
                    instrument = context.instrument(self._member.symbol, len(ticks)) if len(ticks) else -1
                    if instrument >= 0:
                        ticks["instrument"] = instrument
                        yield ticks

    def _ticks(self, table: text.Table, width: int, last: dict[str, float], context: ReaderContext) -> Ticks:
        member = self._member
        if member.kind == TRADE:
            columns = {"price": 1, "size": 2}
        elif width < 5:
            columns = {"bid": 1, "ask": 2}
        else:
            columns = {"bid": 1, "bid_size": 2, "ask": 3, "ask_size": 4}
        when = table.decimals(0)
        bad = {"unparsable time": (when.state != text.OK) | (when.mantissa < 0)}
        numbers = {}
        for name, column in columns.items():
            places = 0 if name.endswith("size") else member.price_places
            numbers[name], state = table.floats(column, places)
            bad[f"unparsable {name}"] = state != text.OK
        of_day = times.scaled_ns(when.mantissa, when.scale, "ms")
        # A day has 25 hours at the most; what lies beyond is no time of that date.
        bad["time of another day"] = of_day > 25 * 3_600 * 10**9
        keep = table.sound(bad, context.refuse)
        if len(columns) == 4:
            _fill(numbers, keep, last, table, context)
        ticks = empty_ticks(int(keep.sum()))
        ticks["kind"] = member.kind
        ticks["ts_event"] = times.to_utc(member.midnight + of_day[keep], member.zone)
        for name, values in numbers.items():
            ticks[name] = values[keep]
        return ticks


def _fill(
    numbers: dict[str, NDArray[np.float64]],
    keep: NDArray[np.bool_],
    last: dict[str, float],
    table: text.Table,
    context: ReaderContext,
) -> None:
    """Give each row the side that it has not, from the last row that had it; ``last`` goes on to the next batch."""
    there = {side: keep & ((numbers[side] != 0) | (numbers[f"{side}_size"] != 0)) for side in ("bid", "ask")}
    neither = keep & ~there["bid"] & ~there["ask"]
    if neither.any():
        context.refuse("no price", int(neither.sum()), table.line(int(neither.argmax())))
        keep &= ~neither
    for side, here in there.items():
        source = np.maximum.accumulate(np.where(here, np.arange(len(here)), -1))
        for name in (side, f"{side}_size"):
            values = np.where(source >= 0, numbers[name][source], last[name])
            last[name] = float(values[-1])
            numbers[name] = values


def _usual_width(block: bytes) -> int:
    """How many columns most of the first lines have."""
    widths = [line.count(b",") + 1 for line in block[: 1 << 14].splitlines() if line.strip()]
    return max(set(widths), key=widths.count) if widths else 0
