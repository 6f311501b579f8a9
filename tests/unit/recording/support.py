"""A folder that is recorded into by hand, and what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from marketfeed.model import ManualClock
from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import QUOTE, TRADE, Ticks, empty_ticks
from marketfeed.recording.folder import RecordingFolder

#: 2025-03-01T10:00:00Z
HOUR = 1_740_823_200_000_000_000
SECOND = 1_000_000_000
EPOCH = 4_711


def directory(feeds: int = 2, symbols: int = 3) -> InstrumentDirectory:
    """Instrument i is symbol ``S{i // feeds}`` of feed ``f{i % feeds}``: each symbol is in every feed."""
    made = InstrumentDirectory.on_heap(64)
    numbers = [made.add_feed(f"f{feed}") for feed in range(feeds)]
    for symbol in range(symbols):
        for feed in numbers:
            made.add(feed, f"S{symbol}")
    return made


def some(n: int, first: int = 1, at: int = HOUR, step: int = 1_000, feeds: int = 2, symbols: int = 3) -> Ticks:
    """Quotes and trades of those instruments, each column its own; some sides and sizes are missing."""
    number = np.arange(first, first + n)
    ticks = empty_ticks(n)
    ticks["instrument"] = number % (feeds * symbols)
    ticks["feed"] = ticks["instrument"] % feeds
    ticks["ts_recv"] = at + (number - first) * step
    ticks["ts_event"] = ticks["ts_recv"] - 5_000 - number % 3 * 700
    ticks["venue_seq"] = np.where(number % 5 == 0, 0, number.astype(np.uint64) + np.uint64(1 << 63))
    ticks["flags"] = number % 4
    trade = number % 3 == 0
    ticks["kind"] = np.where(trade, TRADE, QUOTE)
    for name, wanted in (("bid", ~trade), ("bid_size", ~trade), ("ask", ~trade & (number % 7 != 0)), ("price", trade)):
        ticks[name] = np.where(wanted, number + 0.1, np.nan)
    ticks["size"] = np.where(trade & (number % 2 == 0), number, np.nan)
    return ticks


def numbers(n: int, first: int = 1) -> Any:
    return np.arange(first, first + n, dtype=np.uint64)


def opened(path: Path, clock: ManualClock | None = None) -> RecordingFolder:
    folder = RecordingFolder(path, clock or ManualClock(HOUR))
    folder.begin(EPOCH, directory())
    return folder


def files(path: Path) -> list[str]:
    """What a user sees of a folder."""
    return sorted(file.name for file in path.iterdir() if not file.name.startswith("."))


def leftovers(path: Path) -> list[str]:
    """What is hidden in it, but for the lock."""
    return sorted(file.name for file in path.iterdir() if file.name.startswith(".") and file.name != ".lock")


def seqs(path: Path) -> list[int]:
    """The ``seq`` of every row, file by file."""
    return [seq for name in files(path) for seq in pq.read_table(path / name, columns=["seq"])["seq"].to_pylist()]


def told(file: Path, name: str) -> Any:
    """A text of a file's metadata, read as JSON."""
    return json.loads(pq.read_metadata(file).metadata[f"marketfeed.{name}".encode()])
