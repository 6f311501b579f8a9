"""From a ring into a folder: a subscriber like any other, in a thread of its own, so that nobody waits for a disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from marketfeed.model.clock import Clock
from marketfeed.model.store import TickStore
from marketfeed.model.tick import TRADE
from marketfeed.recording.folder import PIECE_ROWS, RecordingFolder
from marketfeed.recording.hour import LostTicks, reason

log = logging.getLogger("marketfeed.recording")

#: Seconds between two looks at a ring in which little happens; less where it would turn too far meanwhile.
_LOOK_S = 0.1
_LOOK_LEAST_S = 0.001
#: A ring may turn so far between two looks.
_SHARE = 1 / 8


class Recorder:
    """A cursor into a store's ring whose ticks end in files. Quotes and trades are recorded; bars follow from those.

    Begins with the oldest tick that the ring holds. Being lapped is a gap: see :meth:`RecordingFolder.lost`. What
    cannot be written, be it for a full disk, ends the recording, and nothing else: one error in the log, and
    :meth:`status` tells.

    Args:
        on_end: called in the recorder's thread when the recording has ended, be it for an error.

    Attributes:
        cursor: sequence number of the last tick that was taken.
        error: why the recording has ended; "" = it has not.
    """

    def __init__(
        self, store: TickStore, folder: RecordingFolder, clock: Clock, on_end: Callable[[], object] = lambda: None
    ) -> None:
        self.folder = folder
        self.cursor = 0
        self.error = ""
        self._store = store
        self._clock = clock
        self._on_end = on_end
        self._stop = threading.Event()
        self._look_s = _LOOK_S
        self._looked = clock.monotonic()
        self._salvage: Iterator[None] | None = folder.salvage()
        # Its own directory: the caches of the store's belong to the loop's thread.
        folder.begin(store.epoch, store.directory.reader())
        self._thread = threading.Thread(target=self._run, name="marketfeed recorder", daemon=True)

    def start(self) -> None:
        """Record from now on."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Record what was published before this call, end the last file, and wait for that, at most so long."""
        self._stop.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            log.error("the recording does not end within %.0f s: the next start makes a file of its rest", seconds)

    def status(self) -> dict[str, Any]:
        """Counters since the start, and how it stands: "recording", "stopped", or "failed" and why."""
        state = "failed" if self.error else "recording" if self._thread.is_alive() else "stopped"
        behind = self._store.ring.head - self.cursor
        file = self.folder.file
        name = None if file is None else file.path.name
        return {"state": state, "error": self.error, "file": name, "behind": behind, **asdict(self.folder.stats)}

    def _run(self) -> None:
        try:
            while True:
                # Asked first: what was published before it was set is read below.
                stopping = self._stop.is_set()
                if self._step():
                    continue
                if stopping:
                    break
                self._stop.wait(self._look_s)
            self.folder.close()
        except Exception as error:  # noqa: BLE001  # whatever it is, the alarm is raised, and streaming goes on
            self.error = reason(error)
            level_of = log.error if isinstance(error, OSError) else log.exception
            level_of(
                "RECORDING HAS STOPPED: %s: %s; streaming goes on; what is safe, the next start makes a file of",
                self.folder.path, self.error,
            )  # fmt: skip
            self.folder.abandon()
        self._on_end()

    def _step(self) -> bool:
        """Take what there is, some thousands of ticks at the most. Returns whether there is more to do at once."""
        ring = self._store.ring
        span = ring.read(self.cursor, PIECE_ROWS)
        if span.lost is not None:
            self.folder.lost(LostTicks(self._store.epoch, span.lost.first, span.lost.last, "lapped"))
        ticks = span.ticks
        seqs = np.arange(span.first, span.first + len(ticks), dtype=np.uint64)
        wanted = ticks["kind"] <= TRADE
        self.folder.write(*((ticks, seqs) if wanted.all() else (ticks[wanted], seqs[wanted])))
        self.cursor = span.cursor
        self._pace(len(ticks))
        if len(ticks) == PIECE_ROWS:
            return True
        self.folder.turn()
        # While nothing is to be recorded there is time for what was left.
        if self._salvage is not None and next(self._salvage, self) is self:
            self._salvage = None
        return self._salvage is not None

    def _pace(self, came: int) -> None:
        """How long to wait before the next look, by how much came since the one before."""
        now = self._clock.monotonic()
        per_second = came / max(1e-6, now - self._looked)
        self._looked = now
        wanted = self._store.ring.capacity * _SHARE / max(1e-6, per_second)
        self._look_s = min(_LOOK_S, max(_LOOK_LEAST_S, wanted))
