"""A process that publishes as fast as it can until its standard input ends.

``python -m tests.integration.store_writer PATH TICKS [NAME]``: a store in the file PATH, or shared as NAME in the
directory PATH, with a heartbeat.

Tick number s of the store is row ``(s - 1) % len(pattern())`` of the pattern: a reader knows each row from its number.
Prints "ready" when the file is there, and at its end the head.
"""

import random
import select
import sys
import time

from marketfeed.model import TickStore
from marketfeed.model.shared import SharedStore
from marketfeed.model.tick import Ticks
from tests.ticks import numbered

INSTRUMENTS = 50


def pattern() -> Ticks:
    """Far longer than the ring, and of a length that shares no factor with it: no lap looks like another."""
    return numbered(1, 65_537, INSTRUMENTS)


def main(path: str, ticks: int, name: str = "") -> None:
    if name:
        shared = SharedStore(name, ticks, INSTRUMENTS, path)
        store = shared.store
        feed = store.directory.add_feed("pattern")
        for number in range(INSTRUMENTS):
            store.directory.add(feed, f"S{number}")
        shared.announce(time.time_ns())
    else:
        store = TickStore.create(ticks=ticks, instruments=INSTRUMENTS, path=path)
    print("ready", flush=True)
    rows = pattern()
    rng = random.Random(1)
    # Ones and twos, what a feed gives, and more at once than the ring holds.
    sizes = [rng.choice([1, 2, 3, 17, 64, ticks // 3, ticks // 2, ticks, ticks * 2 + 1]) for _ in range(1_000)]
    place = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        for size in sizes:
            if place + size > len(rows):
                size = len(rows) - place
            store.publish(rows[place : place + size])
            store.beat(time.time_ns())
            place = (place + size) % len(rows)
    print(store.ring.head, flush=True)
    if name:
        shared.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
