"""What of a ring need not be looked at, held against looking at all of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.model import TICK, Ring
from marketfeed.model.times import LatestTimes

PART = 1 << 14


def batch_of(times: list[int]) -> np.ndarray:
    batch = np.zeros(len(times), TICK)
    batch["ts_event"] = times
    return batch


@given(
    capacity=st.sampled_from([1, 4, PART, 4 * PART]),
    jumps=st.lists(st.tuples(st.integers(0, 3 * PART), st.integers(-2, 3), st.integers(0, 8)), max_size=12),
)
def test_nothing_that_is_held_and_later_is_passed_over_and_no_more_than_a_part_is_left(capacity, jumps):
    ring = Ring.on_heap(capacity)
    times, every = LatestTimes(ring), np.zeros(0, np.int64)
    for count, time, asked in jumps:
        count = min(count, 3 * capacity)
        ring.publish(batch_of([time] * count))
        every = np.concatenate((every, np.full(count, time)))
        start = cursor = ring.oldest - 1
        later = np.flatnonzero(every[start:] > asked - 2) + start
        while (on := times.pass_over(cursor, asked - 2)) > cursor:
            cursor = on
        assert start <= cursor <= ring.head
        first = int(later[0]) if len(later) else ring.head
        assert cursor <= first
        # Where the part at the cursor is whole, something later has been seen in it.
        end = (cursor // min(PART, capacity) + 1) * min(PART, capacity)
        if end <= ring.head and start <= end - min(PART, capacity) and not len(later):
            raise AssertionError("a whole part without anything later was not passed over")


def test_at_most_one_part_is_looked_at_anew_in_one_call_and_none_twice():
    ring = Ring.on_heap(8 * PART)
    ring.publish(batch_of([1] * (8 * PART)))
    times = LatestTimes(ring)
    assert [times.pass_over(n * PART, 1) for n in range(8)] == [(n + 1) * PART for n in range(8)]
    assert times.pass_over(0, 1) == 8 * PART
    assert times.pass_over(5, 0) == 5
    ring.publish(batch_of([7] * PART))
    # The new part takes the place of the oldest.
    assert times.pass_over(PART, 1) == 8 * PART
    assert times.pass_over(PART, 7) == 9 * PART
