"""The writer of test_store_processes: a process that publishes as fast as it can until its standard input ends.

``python -m tests.integration.store_writer PATH TICKS``

Tick number s of the store is row ``(s - 1) % len(pattern())`` of the pattern: a reader knows each row from its number.
Prints "ready" when the file is there, and at its end the head.
"""

import os
import random
import select
import sys

from marketfeed.model import TickStore
from marketfeed.model.tick import Ticks
from tests.ticks import numbered

INSTRUMENTS = 50


def pattern() -> Ticks:
    """Far longer than the ring, and of a length that shares no factor with it: no lap looks like another."""
    return numbered(1, 65_537, INSTRUMENTS)


def main(path: str, ticks: int) -> None:
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
            place = (place + size) % len(rows)
    print(store.ring.head, flush=True)


if __name__ == "__main__":
    main(os.fspath(sys.argv[1]), int(sys.argv[2]))
