"""What recording costs: rows a second, CPU a row, and bytes a row, of ticks that lie in a ring already.

::

    python -m bench.record 'replay:ticks/spy?speed=max' 'sim?symbols=500&rate=1000000'
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from marketfeed.feed import FeedSpec
from marketfeed.ingest import FeedRunner
from marketfeed.model import SystemClock, TickStore
from marketfeed.recording.folder import RecordingFolder
from marketfeed.recording.recorder import Recorder

_MOST = 3_000_000


def measure(spec: str) -> str:
    """One row of the table."""
    clock, store = SystemClock(), TickStore.create(1 << 22)
    runner = FeedRunner("feed", FeedSpec.parse(spec).build(), store, clock, lambda: None)
    while store.ring.head < _MOST and runner.step() is not None:
        pass
    runner.close()
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(store, RecordingFolder(Path(folder), clock), clock)
        begun, cpu = time.perf_counter(), time.process_time()
        recorder.start()
        recorder.stop(600)
        took, cpu = time.perf_counter() - begun, time.process_time() - cpu
        stats = recorder.folder.stats
    rows = stats.rows
    return f"| {spec} | {rows:,} | {rows / took:,.0f} | {cpu / rows * 1e6:.2f} | {stats.bytes / rows:.1f} |"


if __name__ == "__main__":
    print("| feed | rows | rows/s | CPU us a row | bytes a row |\n| --- | --- | --- | --- | --- |")
    for spec in sys.argv[1:] or ["sim?symbols=500&rate=1000000"]:
        print(measure(spec))
