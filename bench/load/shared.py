"""Both ends of a shared store as processes of ``bench.attach``: ``python -m bench.load.shared write|follow|scan ...``

Each prints one JSON line with what it measured. The writer begins when a line comes on its standard input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import marketfeed
from bench.load.process import waited_ns
from marketfeed.client.attach import Attached
from marketfeed.model import QUOTE, TRADE, empty_ticks
from marketfeed.model.shared import SharedStore
from marketfeed.model.tick import Ticks

NAME = "bench"
_INSTRUMENTS = 1_000
#: A way of waiting that is no nap of :meth:`Attached.follow`: the writer tells each batch through a pipe.
PIPE = "pipe"


def _store(directory: str, ticks: int) -> SharedStore:
    shared = SharedStore(NAME, ticks, _INSTRUMENTS, directory)
    directory_ = shared.store.directory
    feed = directory_.add_feed("bench")
    for number in range(_INSTRUMENTS):
        directory_.add(feed, f"S{number:03}")
    return shared


def market(n: int) -> Ticks:
    """Quotes and a trade among five of them, shape (n,), TICK; the same each time."""
    rng = np.random.default_rng(1)
    ticks = empty_ticks(n)
    ticks["instrument"] = rng.integers(0, _INSTRUMENTS, n)
    trades = rng.random(n) < 0.2
    ticks["kind"] = np.where(trades, TRADE, QUOTE)
    price = 100 + rng.integers(-500, 500, n) / 100
    ticks["price"][trades], ticks["size"][trades] = price[trades], 100
    quotes = ~trades
    ticks["bid"][quotes], ticks["ask"][quotes] = price[quotes], price[quotes] + 0.01
    ticks["bid_size"][quotes], ticks["ask_size"][quotes] = 200, 300
    return ticks


def write(directory: str, capacity: int, rate: float, seconds: float, rows: int, pipe: int) -> dict[str, Any]:
    """Publish so many batches a second, of so many ticks, each stamped just before; the ring is full before."""
    shared = _store(directory, capacity)
    store = shared.store
    ticks = market(max(capacity, rows))
    store.publish(ticks)
    shared.announce(time.time_ns())
    print("ready", flush=True)
    sys.stdin.readline()
    spent, count = 0, int(rate * seconds)
    batches = [ticks[begin : begin + rows].copy() for begin in range(0, min(len(ticks), 64 * rows), rows)]
    begin = time.monotonic()
    for number in range(count):
        wait = begin + number / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        batch = batches[number % len(batches)]
        now = time.time_ns()
        store.beat(now)
        batch["ts_recv"] = now
        before = time.perf_counter_ns()
        store.publish(batch)
        if pipe >= 0:
            os.write(pipe, b".")
        spent += time.perf_counter_ns() - before
    took = time.monotonic() - begin
    time.sleep(0.1)
    shared.close()
    return {"publish_us": spent / max(1, count) / 1000, "ticks_per_s": count * rows / took}


def follow(directory: str, way: str, pipe: int) -> dict[str, Any]:
    """Follow until the writer ends, and tell how long after their stamps the ticks were in hand."""
    feed = marketfeed.attach(NAME, directory=directory)
    delays: list[int] = []
    cursor = feed.head  # before the writer may begin
    print("ready", flush=True)
    cpu, waited, begin = time.process_time(), waited_ns(os.getpid()), time.monotonic()
    if way == PIPE:
        while os.read(pipe, 65_536):
            for batch in feed.ticks(since=cursor):
                delays += (time.time_ns() - batch.ticks["ts_recv"]).tolist()
                cursor += len(batch)
    else:
        for batch in feed.follow(since=cursor, nap=float(way)):
            delays += (time.time_ns() - batch.ticks["ts_recv"]).tolist()
    cpu, waited, took = time.process_time() - cpu, waited_ns(os.getpid()) - waited, time.monotonic() - begin
    p50, p99, most = np.percentile(np.array(delays) / 1000, [50, 99, 100]).tolist()
    return {
        "p50_us": p50,
        "p99_us": p99,
        "max_us": most,
        "cpu": cpu / took,
        "waited": waited / 1e9 / took,
        "ticks": len(delays),
    }


def _count_quotes(ticks: Ticks) -> int:
    return int(np.count_nonzero(ticks["kind"] == QUOTE))


def _spread(ticks: Ticks) -> float:
    return float(np.nansum(ticks["ask"] - ticks["bid"]))


def _copied(use: Callable[[Ticks], object]) -> Callable[[Attached], int]:
    def run(feed: Attached) -> int:
        rows = 0
        for batch in feed.ticks():
            use(batch.ticks)
            rows += len(batch)
        return rows

    return run


def _scanned(use: Callable[[Ticks], object]) -> Callable[[Attached], int]:
    return lambda feed: sum(scanned.rows for scanned in feed.scan(use))


SCANS: dict[str, Callable[[Attached], int]] = {
    "scan: sum of a column": _scanned(lambda ticks: ticks["size"].sum()),
    "scan: rows of one kind": _scanned(_count_quotes),
    "scan: ask - bid, summed": _scanned(_spread),
    "ticks: batches, as they are": _copied(len),
    "ticks: ask - bid, summed": _copied(_spread),
}


def scan(directory: str, seconds: float) -> dict[str, float]:
    """Rows a second of each scan, over the whole ring again and again for so long; the median of the passes."""
    feed = marketfeed.attach(NAME, directory=directory)
    print("ready", flush=True)
    found = {}
    for name, run in SCANS.items():
        run(feed)
        speeds: list[float] = []
        end = time.perf_counter() + seconds / len(SCANS)
        while time.perf_counter() < end or not speeds:
            begin = time.perf_counter()
            rows = run(feed)
            speeds.append(rows / (time.perf_counter() - begin))
        found[name] = float(np.median(speeds))
    return found


def main(what: str, *given: str) -> None:
    """Run one of them."""
    if what == "write":
        directory, capacity, rate, seconds, rows, pipe = given
        result = write(directory, int(capacity), float(rate), float(seconds), int(rows), int(pipe))
    elif what == "follow":
        directory, way, pipe = given
        result = follow(directory, way, int(pipe))
    else:
        directory, seconds = given
        result = scan(directory, float(seconds))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
