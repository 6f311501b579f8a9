"""Pages of ticks, held against a list of everything that was ever published."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.model import QUOTE, TRADE, TickStore
from marketfeed.model.ring import Lost
from marketfeed.model.tick import Ticks
from marketfeed.server.history.scan import TickPage, covers, held_from, tick_page
from tests.ticks import same
from tests.unit.server.history.support import BEGIN, always, batch_of, done, query, store_of

#: Instruments 0 to 2 are of feed `a`, 3 and 4 of `b`.
SELECTED = np.array([True, True, False, False, False])


class Market:
    """A small ring into which ticks come, and the list of all of them."""

    def __init__(self, capacity: int) -> None:
        self.store: TickStore = store_of(capacity, a=["A0", "A1", "A2"], b=["B0", "B1"])
        self.every: Ticks = batch_of(self.store, [])
        self.now = BEGIN

    def publish(self, rows: list[tuple[int, int, int]]) -> None:
        """Rows of (instrument, kind, time since the tick before, ns)."""
        full = []
        for instrument, kind, later in rows:
            self.now += later
            full.append((instrument, kind, self.now, float(len(self.every) + len(full))))
        batch = batch_of(self.store, full)
        self.every = np.concatenate((self.every, batch))
        self.store.publish(batch)


ROW = st.tuples(st.integers(0, 4), st.sampled_from([QUOTE, TRADE]), st.integers(0, 3))
ROWS = st.lists(ROW, max_size=20)


@given(
    before=st.lists(ROWS, max_size=4),
    while_asking=st.lists(ROWS, max_size=12),
    kind=st.sampled_from([QUOTE, TRADE]),
    descending=st.booleans(),
    start=st.none() | st.integers(-1, 60),
    length=st.none() | st.integers(0, 60),
    limit=st.integers(1, 9),
    step=st.integers(1, 20),
    patience=st.lists(st.booleans(), max_size=6),
)
def test_pages_and_gaps_are_all_that_was_asked_for_each_tick_once_while_the_ring_moves_on(
    before, while_asking, kind, descending, start, length, limit, step, patience
):
    market = Market(32)
    for rows in before:
        market.publish(rows)
    first = None if start is None else BEGIN + start
    last = None if length is None else (first or BEGIN) + length
    asked = query("a", kind, start=first, end=last, limit=limit, descending=descending)
    until = market.store.ring.head
    coming, hurry = iter(while_asking), iter(patience)

    def between() -> None:
        market.publish(next(coming, []))

    def in_time() -> bool:
        return next(hurry, True)

    pages: list[TickPage] = []
    place: int | None = until if descending else 0
    while place is not None:
        # No page is without progress, so this bounds how many there are.
        assert len(pages) <= until + 1
        pages.append(done(tick_page(market.store, asked, SELECTED, until, place, in_time, step), between))
        place = pages[-1].place
        between()

    seqs = [seq for page in pages for seq in page.seqs.tolist()]
    assert seqs == sorted(set(seqs), reverse=descending)
    assert all(len(page.seqs) <= limit for page in pages)
    assert same(np.concatenate([page.ticks for page in pages]), market.every[np.array(seqs, np.int64) - 1])

    wanted = {
        number
        for number, tick in enumerate(market.every[:until].tolist(), 1)
        if SELECTED[tick[3]]
        and tick[5] == kind
        and (first is None or first <= tick[0])
        and (last is None or tick[0] <= last)
    }
    assert set(seqs) <= wanted
    gaps = [page.gap for page in pages if page.gap is not None]
    lost = {number for gap in gaps for number in range(gap.first, gap.last + 1)}
    assert wanted - set(seqs) <= lost
    assert not lost & set(seqs)
    for page in pages:
        if page.gap is not None and len(page.seqs):
            assert page.gap.last < page.seqs.min()
    if market.store.ring.oldest == 1:
        assert not gaps


def test_where_nothing_was_overwritten_there_is_no_gap():
    market = Market(64)
    market.publish([(0, QUOTE, 1)] * 64)
    page = done(tick_page(market.store, query("a", QUOTE), SELECTED, 64, 0, always))
    assert (len(page.seqs), page.gap, page.place) == (64, None, None)


def test_a_beginning_that_is_gone_is_a_gap_unless_it_was_before_the_start():
    market = Market(64)
    market.publish([(0, QUOTE, 1)] * 100)
    late = query("a", QUOTE, start=BEGIN + 50)
    assert done(tick_page(market.store, query("a", QUOTE), SELECTED, 100, 0, always)).gap == Lost(1, 36)
    assert done(tick_page(market.store, late._replace(start=BEGIN + 36), SELECTED, 100, 0, always)).gap == Lost(1, 36)
    page = done(tick_page(market.store, late, SELECTED, 100, 0, always))
    assert (page.gap, page.seqs.tolist()) == (None, list(range(50, 101)))


def test_of_a_descending_request_only_the_last_page_tells_of_the_beginning():
    market = Market(64)
    market.publish([(0, QUOTE, 1)] * 100)
    asked = query("a", QUOTE, descending=True, limit=40)
    page = done(tick_page(market.store, asked, SELECTED, 100, 100, always))
    assert (page.seqs[[0, -1]].tolist(), page.gap, page.place) == ([100, 61], None, 60)
    page = done(tick_page(market.store, asked, SELECTED, 100, page.place, always))
    assert (page.seqs[[0, -1]].tolist(), page.gap, page.place) == ([60, 37], Lost(1, 36), None)


def test_being_lapped_between_two_pages_is_told():
    market = Market(64)
    market.publish([(0, QUOTE, 1)] * 64)
    asked = query("a", QUOTE, limit=10)
    page = done(tick_page(market.store, asked, SELECTED, 64, 0, always))
    market.publish([(0, QUOTE, 1)] * 30)
    page = done(tick_page(market.store, asked, SELECTED, 64, page.place, always))
    assert (page.gap, page.seqs.tolist()) == (Lost(11, 30), list(range(31, 41)))


def test_being_lapped_within_a_page_ends_it_so_that_the_gap_is_before_the_next():
    market = Market(64)
    market.publish([(0, QUOTE, 1)] * 64)
    asked, coming = query("a", QUOTE), iter([[(0, QUOTE, 1)] * 30])
    steps = tick_page(market.store, asked, SELECTED, 64, 0, always, step=8)
    page = done(steps, lambda: market.publish(next(coming, [])))
    assert (page.seqs.tolist(), page.gap, page.place) == (list(range(1, 9)), None, 8)
    page = done(tick_page(market.store, asked, SELECTED, 64, page.place, always))
    assert (page.seqs.tolist(), page.gap, page.place) == (list(range(31, 65)), Lost(9, 30), None)


def test_without_time_left_a_page_ends_early_and_the_next_goes_on():
    market = Market(64)
    market.publish([(0, QUOTE, 1)] * 20)
    asked = query("a", QUOTE)
    page = done(tick_page(market.store, asked, SELECTED, 20, 0, lambda: False, step=8))
    assert (page.seqs.tolist(), page.gap, page.place) == (list(range(1, 9)), None, 8)


def test_a_tick_that_came_early_counts_as_lost_once_it_is():
    market = Market(64)
    market.publish([(0, QUOTE, 1)] * 30 + [(0, QUOTE, 100)] + [(0, QUOTE, -100)] + [(0, QUOTE, 1)] * 62)
    assert market.store.ring.oldest == 31
    assert held_from(market.store.ring, 0) == BEGIN + 30 + 1
    asked = query("a", QUOTE, start=BEGIN + 31)
    assert done(tick_page(market.store, asked, SELECTED, 94, 0, always)).gap is None
    market.publish([(0, QUOTE, 1)])
    assert held_from(market.store.ring, 0) == BEGIN + 130 + 1
    assert done(tick_page(market.store, asked, SELECTED, 95, 0, always)).gap == Lost(1, 31)


def test_a_quiet_feed_beside_a_busy_one_has_lost_only_what_it_gave():
    market = Market(64)
    market.publish([(0, QUOTE, 1)] * 90 + [(3, QUOTE, 1)] + [(0, QUOTE, 1)] * 5)
    assert covers(held_from(market.store.ring, 1), None)
    market.publish([(0, QUOTE, 1)] * 64)
    assert held_from(market.store.ring, 1) == BEGIN + 91 + 1
    asked = query("b", QUOTE)
    chosen = ~SELECTED
    assert done(tick_page(market.store, asked, chosen, market.store.ring.head, 0, always)).gap == Lost(1, 96)
    later = asked._replace(start=BEGIN + 92)
    assert done(tick_page(market.store, later, chosen, market.store.ring.head, 0, always)).gap is None


@given(
    hour=st.lists(ROW.filter(lambda row: row[0] < 3), min_size=1, max_size=40),
    passes=st.integers(1, 6),
    cut=st.integers(0, 40),
    start=st.none() | st.integers(-1, 60),
    descending=st.booleans(),
    capacity=st.sampled_from([8, 32, 64]),
)
def test_of_a_recording_that_plays_again_and_again_what_is_called_complete_is(
    hour, passes, cut, start, descending, capacity
):
    market = Market(capacity)
    for n in range(passes):
        market.now = BEGIN
        market.publish(hour if n < passes - 1 else hour[:cut])
    first = None if start is None else BEGIN + start
    head = market.store.ring.head
    asked = query("a", QUOTE, start=first, descending=descending)
    page = done(tick_page(market.store, asked, SELECTED, head, head if descending else 0, always))
    wanted = {
        number
        for number, tick in enumerate(market.every.tolist(), 1)
        if SELECTED[tick[3]] and tick[5] == QUOTE and (first is None or first <= tick[0])
    }
    missing = wanted - set(page.seqs.tolist())
    if page.gap is None:
        assert not missing
    else:
        assert missing <= set(range(page.gap.first, page.gap.last + 1))
