"""Where a time is in the ring, held against a plain scan of everything that was ever published."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.model import QUOTE, TRADE, TickStore, empty_ticks
from marketfeed.model.steps import all_of
from marketfeed.stream.positions import TIMES_TICKS, Found, position_of_time

#: By instrument, as (feed, symbol).
INSTRUMENTS = [("a", "A0"), ("a", "A1"), ("b", "B0"), ("b", "B1")]
#: (instrument, kind, time): in no order at all.
ROW = st.tuples(st.integers(0, 3), st.sampled_from([QUOTE, TRADE]), st.integers(0, 30))


class World:
    """A small ring, and the list of all that came."""

    def __init__(self, capacity: int) -> None:
        self.store = TickStore.create(capacity, 8)
        for feed, symbol in INSTRUMENTS:
            self.store.directory.add(self.store.directory.add_feed(feed), symbol)
        self.every: list[tuple[int, int, int]] = []

    def publish(self, rows: list[tuple[int, int, int]]) -> None:
        batch = empty_ticks(len(rows))
        for tick, (instrument, kind, time) in zip(batch, rows, strict=True):
            tick["instrument"], tick["kind"], tick["ts_event"] = instrument, kind, time
            tick["feed"] = self.store.directory.feed_of()[instrument]
        self.store.publish(batch)
        self.every += rows

    def first_later(self, wanted: set[tuple[int, int]], time: int, until: int) -> int:
        """The place before the first of all that ever came; ``until`` where there is none."""
        rows = enumerate(self.every[:until])
        return next((n for n, (i, kind, t) in rows if (kind, i) in wanted and t > time), until)

    def mask(self, wanted: set[tuple[int, int]]) -> np.ndarray:
        mask = np.zeros((4, self.store.directory.capacity), np.bool_)
        for kind, instrument in wanted:
            mask[kind - QUOTE, instrument] = True
        return mask


@given(
    before=st.lists(st.lists(ROW, max_size=25), max_size=5),
    meanwhile=st.lists(st.lists(ROW, max_size=25), max_size=8),
    wanted=st.sets(st.tuples(st.sampled_from([QUOTE, TRADE]), st.integers(0, 3))),
    time=st.integers(-1, 31),
    step=st.integers(1, 20),
    capacity=st.sampled_from([8, 32, 128]),
)
def test_it_is_before_the_first_later_tick_that_ever_came_or_may_be_lost(
    before, meanwhile, wanted, time, step, capacity
):
    world = World(capacity)
    for rows in before:
        world.publish(rows)
    until, oldest = world.store.ring.head, world.store.ring.oldest
    steps, coming = position_of_time(world.store, world.mask(wanted), time, step), iter(meanwhile)
    try:
        while True:
            next(steps)
            world.publish(next(coming, []))
    except StopIteration as end:
        found: Found = end.value
    expected = world.first_later(wanted, time, until)
    if found.whole:
        assert found.seq == expected
    else:
        # Only what is gone, or is next to go, makes it uncertain: and only a tick of that time of these feeds.
        assert found.seq == 0
        feeds = {INSTRUMENTS[instrument][0] for _, instrument in wanted}
        gone = world.every[: world.store.ring.oldest - 1 + max(1, capacity // 16)]
        assert world.store.ring.oldest > 1
        assert any(t > time and INSTRUMENTS[i][0] in feeds for i, _, t in gone)
    if oldest == world.store.ring.oldest == 1:
        assert found == Found(expected, True)


def test_no_step_looks_at_more_than_so_many_ticks_however_rare_the_one_that_is_looked_for():
    world = World(1 << 17)
    batch = empty_ticks(1 << 17)
    batch["instrument"], batch["kind"], batch["ts_event"] = 0, QUOTE, 5
    batch["instrument"][-1] = 1
    world.store.publish(batch)
    steps, count = position_of_time(world.store, world.mask({(QUOTE, 1)}), 4), 0
    looked: list[int] = []
    view = world.store.ring.view

    def counting(cursor, limit, until):
        looked.append(limit)
        return view(cursor, limit, until)

    world.store.ring.view = counting  # type: ignore[method-assign]  # the same, counted
    for _ in steps:
        count += 1
    # In a step the times of a part are looked at, and then the part.
    assert count + 1 == (1 << 17) // TIMES_TICKS
    assert len(looked) <= 2 * (count + 1)
    assert set(looked) == {TIMES_TICKS}
    assert all_of(position_of_time(world.store, world.mask({(QUOTE, 1)}), 4)) == Found((1 << 17) - 1, True)


def test_a_quiet_symbol_of_which_nothing_is_held_is_answered_for_by_what_its_feed_lost():
    world = World(64)
    world.publish([(1, QUOTE, 1)] + [(0, QUOTE, 10)] * 100)
    assert all_of(position_of_time(world.store, world.mask({(QUOTE, 1)}), 10)) == Found(101, True)
    assert not all_of(position_of_time(world.store, world.mask({(QUOTE, 1)}), 9)).whole
    # The other feed lost nothing.
    assert all_of(position_of_time(world.store, world.mask({(QUOTE, 2)}), -1)) == Found(101, True)


@pytest.mark.parametrize("time", [12, 29])
def test_of_a_recording_that_plays_again_the_pass_before_counts(time):
    world = World(64)
    world.publish([(0, QUOTE, n) for n in range(30)] * 2)
    assert all_of(position_of_time(world.store, world.mask({(QUOTE, 0)}), time)).seq == (13 if time == 12 else 60)
    world.publish([(0, QUOTE, n) for n in range(20)] * 2)
    assert all_of(position_of_time(world.store, world.mask({(QUOTE, 0)}), time)).whole == (time == 29)
