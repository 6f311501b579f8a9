"""A folder of recorded ticks: one file for each hour and each life of a server, by the hour of ``ts_recv``, UTC.

By ``ts_recv`` and not by ``ts_event``: it is when ingest took the tick, so that it does not depend on a venue's clock,
files end with the hour that is on the clock, and the rows of all of them, one file after the other, are in the order
of the stream.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.clock import Clock
from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import RAW, TICK, Ticks
from marketfeed.recording.hour import HourFile, LostTicks, journals, position_of, salvage
from marketfeed.recording.table import Encoder

log = logging.getLogger("marketfeed.recording")

_HOUR_NS = 3_600 * 10**9
#: A piece is written when it has so many rows, or its first row is so old: so much a killed process takes along.
PIECE_ROWS = 65_536
PIECE_SECONDS = 1.0
#: Gaps are logged at most so often.
_GAPS_LOGGED_S = 60.0


class FolderBusy(Exception):
    """Another process records into this folder."""


@dataclass
class RecordingStats:
    """What has been recorded since the start."""

    #: rows that are safe, in a file or its journal
    rows: int = 0
    #: files that are whole
    files: int = 0
    #: of those files
    bytes: int = 0
    #: rows that a killed process had left, and that are safe now
    salvaged: int = 0
    gaps: int = 0
    #: ticks in these gaps, as far as their number is known
    lost: int = 0


class RecordingFolder:
    """Takes ticks in the order of their stream and makes files of them. Used by one thread at a time.

    Args:
        path: the folder; it is made where it is not there.

    Raises:
        OSError: it cannot be made or written to.
        FolderBusy: another process records into it.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.stats = RecordingStats()
        #: the file that is being written
        self.file: HourFile | None = None
        self._clock = clock
        self._hour = 0
        self._encoder: Encoder | None = None
        self._ticks: list[Ticks] = []
        self._seqs: list[NDArray[np.uint64]] = []
        self._rows = 0
        self._gaps: list[LostTicks] = []
        #: when the first of the rows and gaps that wait came
        self._waiting_since: float | None = None
        self._gap_logged = -np.inf
        path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise FolderBusy(f"another process records into {path}") from None
        #: what a killed process left, to be salvaged
        self._left = journals(path)

    @property
    def rows(self) -> int:
        """How many rows there are by now, those that wait for their piece included."""
        return self.stats.rows + self._rows

    @property
    def bytes(self) -> int:
        """How long all files are by now."""
        file = self.file
        return self.stats.bytes + (file.parquet.bytes if file is not None else 0)

    def salvage(self) -> Iterator[None]:
        """Make files of what a killed process left, in small steps."""
        for journal in self._left:
            rows = 0
            for done in salvage(journal):
                rows = done
                yield
            self.stats.salvaged += rows

    def last_position(self) -> tuple[int, int] | None:
        """Epoch and sequence number of the last tick that is in a file; None = there is none, or it has no number."""
        for path in sorted(self.path.glob("[0-9]*.parquet"), reverse=True):
            found = position_of(path)
            if found is not None:
                return found if all(found) else None
        return None

    def begin(self, epoch: int, directory: InstrumentDirectory) -> None:
        """What follows is of this life of a server (0 = it has none); its instruments are in this directory."""
        self._seal()
        self._encoder = Encoder(directory, epoch)

    def write(self, ticks: Ticks, seqs: NDArray[np.uint64]) -> None:
        """Ticks, shape (n,), with their sequence numbers, shape (n,), after all that came before."""
        if not len(ticks):
            return
        # A clock that is set back starts no file for the second time.
        hours = np.maximum.accumulate(np.maximum(ticks["ts_recv"] // _HOUR_NS, self._hour))
        borders = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(ticks)]
        for begin, end in pairwise(borders):
            self._turn_to(int(hours[begin]))
            self._ticks.append(ticks[begin:end])
            self._seqs.append(seqs[begin:end])
            self._rows += end - begin
            self._wait_from_now()
            if self._rows >= PIECE_ROWS:
                self._flush()

    def lost(self, gap: LostTicks) -> None:
        """These ticks are lost to the recording: they stand in the file's metadata, the log and the statistics."""
        self._gaps.append(gap)
        self._wait_from_now()
        self.stats.gaps += 1
        if gap.last is not None:
            self.stats.lost += gap.last - gap.first + 1
        now = self._clock.monotonic()
        if now - self._gap_logged >= _GAPS_LOGGED_S:
            self._gap_logged = now
            log.warning(
                "ticks %d to %s are lost to the recording (%s); %d gaps, %d ticks in all",
                gap.first, "?" if gap.last is None else gap.last, gap.reason, self.stats.gaps, self.stats.lost,
            )  # fmt: skip

    def turn(self) -> None:
        """Nothing more has come by now: write a piece that is old enough, and end a file whose hour is over."""
        if self._waiting_since is not None and self._clock.monotonic() - self._waiting_since >= PIECE_SECONDS:
            self._flush()
        hour = self._clock.now_ns() // _HOUR_NS
        if self.file is not None and hour > self._hour:
            self._turn_to(hour)

    def close(self) -> None:
        """End it: what has been given is in files that are whole."""
        self._seal()
        os.close(self._lock)

    def abandon(self) -> None:
        """End it as it is: what is safe stays, for the next start to make a file of."""
        if self.file is not None:
            self.file.abandon()
            self.file = None
        os.close(self._lock)

    def _wait_from_now(self) -> None:
        if self._waiting_since is None:
            self._waiting_since = self._clock.monotonic()

    def _turn_to(self, hour: int) -> None:
        if hour > self._hour:
            # A gap alone makes no file: it goes with the rows that follow it.
            if self.file is not None or self._rows:
                self._seal()
            self._hour = hour

    def _flush(self) -> None:
        if self._waiting_since is None:
            return
        assert self._encoder is not None
        if self.file is None:
            if not self._ticks:
                self._hour = max(self._hour, self._clock.now_ns() // _HOUR_NS)
            self.file = HourFile(self._free_name(), self._encoder.schema)
        raw = [ticks.view(RAW) for ticks in self._ticks] or [np.empty(0, RAW)]
        seqs = np.concatenate(self._seqs) if self._seqs else np.empty(0, np.uint64)
        self.file.append(self._encoder.batch(np.concatenate(raw).view(TICK), seqs), self._gaps)
        self.stats.rows += self._rows
        self._ticks, self._seqs, self._rows, self._gaps = [], [], 0, []
        self._waiting_since = None

    def _seal(self) -> None:
        self._flush()
        if self.file is None:
            return
        if self.file.seal():
            self.stats.files += 1
            self.stats.bytes += self.file.parquet.bytes
        self.file = None

    def _free_name(self) -> Path:
        """The next name of this hour: in the order of their names, files are in the order of time."""
        hour = datetime.fromtimestamp(self._hour * 3_600, UTC).strftime("%Y%m%dT%HZ")
        taken = re.compile(rf"\.?{hour}-(\d+)\.parquet(\.\w+)?")
        numbers = [int(found[1]) for name in os.listdir(self.path) if (found := taken.fullmatch(name))]
        return self.path / f"{hour}-{max(numbers, default=-1) + 1:03d}.parquet"
