import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.model import TICK, Lost, Ring
from marketfeed.model.ring import NEVER
from marketfeed.model.tick import RECORD
from tests.ticks import numbered, same


def filled(capacity: int, *sizes: int) -> Ring:
    """A ring with batches of those sizes in it; a tick's number is its sequence number."""
    ring = Ring.on_heap(capacity)
    for size in sizes:
        ring.publish(numbered(ring.head + 1, size))
    return ring


def test_a_new_ring_is_empty() -> None:
    ring = Ring.on_heap(8)
    assert (ring.head, ring.oldest) == (0, 1)
    ticks, first, lost = ring.read(0)
    assert (len(ticks), ticks.dtype, first, lost) == (0, TICK, 1, None)


def test_what_was_published_is_read_as_it_was() -> None:
    ring = filled(8, 3, 2)
    span = ring.read(0)
    assert same(span.ticks, numbered(1, 5))
    assert (span.first, span.lost, span.cursor, ring.head) == (1, None, 5, 5)


def test_what_was_read_is_the_readers_own() -> None:
    ring = filled(4, 4)
    span = ring.read(0)
    ring.publish(numbered(5, 4))
    assert same(span.ticks, numbered(1, 4))


def test_a_batch_may_be_a_slice_with_gaps() -> None:
    ring = Ring.on_heap(8)
    ring.publish(numbered(1, 6)[::2])
    assert same(ring.read(0).ticks, numbered(1, 6)[::2].copy())


def test_a_lapped_reader_is_told_exactly_what_it_lost() -> None:
    ring = filled(8, 5, 5, 5)
    span = ring.read(2)
    assert span.lost == Lost(3, 7)
    assert same(span.ticks, numbered(8, 8))
    assert span.cursor == 15


def test_rows_that_the_writer_has_begun_to_overwrite_are_lost_not_torn() -> None:
    counters = np.zeros(2, np.uint64)
    ring = Ring(np.zeros(8, TICK), counters, np.full(1, NEVER))
    ring.publish(numbered(1, 8))
    counters[0] = 11  # the writer has claimed 9 to 11 and not finished them
    span = ring.read(0)
    assert span.lost == Lost(1, 3)
    assert same(span.ticks, numbered(4, 5))


def test_a_claim_beyond_a_whole_lap_leaves_the_cursor_at_the_head() -> None:
    counters = np.zeros(2, np.uint64)
    ring = Ring(np.zeros(8, TICK), counters, np.full(1, NEVER))
    ring.publish(numbered(1, 8))
    counters[0] = 30
    span = ring.read(5)
    assert (len(span.ticks), span.lost, span.cursor) == (0, Lost(6, 8), 8)
    assert ring.read(span.cursor).lost is None


def test_nothing_beyond_until_is_read_or_lost() -> None:
    ring = filled(8, 8, 8)
    span = ring.read(0, until=5)
    assert (len(span.ticks), span.lost, span.cursor) == (0, Lost(1, 5), 5)
    span = ring.read(0, until=10)
    assert span.lost == Lost(1, 8)
    assert same(span.ticks, numbered(9, 2))


@pytest.mark.parametrize(("cursor", "until"), [(0, 0), (9, 3), (10, 6), (11, 11), (16, 8), (16, 15)])
def test_behind_the_cursor_there_is_nothing_to_account_for(cursor: int, until: int) -> None:
    for ring in (filled(8, 8, 8), filled(16, 8, 8)):
        span = ring.read(cursor, until=until)
        assert (len(span.ticks), span.lost, span.cursor) == (0, None, cursor)


def test_a_limit_leaves_the_rest_for_the_next_read() -> None:
    ring = filled(8, 8, 4)
    span = ring.read(0, limit=3)
    assert (span.lost, span.first, len(span.ticks)) == (Lost(1, 4), 5, 3)
    assert same(ring.read(span.cursor).ticks, numbered(8, 5))


@pytest.mark.parametrize("cursor", [-1, 6])
def test_a_cursor_outside_the_ring_is_an_error(cursor: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.5"):
        filled(8, 5).read(cursor)


@pytest.mark.parametrize("capacity", [0, 3, 12])
def test_a_capacity_that_is_no_power_of_two_is_an_error(capacity: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Ring.on_heap(capacity)


def test_slots_of_another_type_are_an_error() -> None:
    with pytest.raises(ValueError, match="power of two of TICK"):
        Ring(np.zeros(8, np.float64), np.zeros(2, np.uint64), np.full(1, NEVER))


def test_records_of_another_size_are_an_error_and_not_published() -> None:
    ring = filled(8, 3)
    with pytest.raises(ValueError, match="88"):
        ring.publish(np.zeros(2, RECORD))
    assert ring.head == 3
    assert same(ring.read(0).ticks, numbered(1, 3))


@given(st.integers(1, 40), st.data())
def test_a_column_is_that_of_the_ticks(published: int, data: st.DataObject) -> None:
    ring = filled(8, *[1] * published)
    first = data.draw(st.integers(ring.oldest, ring.head))
    last = data.draw(st.integers(first, ring.head))
    assert ring.column("ts_event", first, last).tolist() == numbered(first, last - first + 1)["ts_event"].tolist()


PUBLISH = st.tuples(st.just("publish"), st.integers(0, 40))
READ = st.tuples(st.just("read"), st.integers(0, 2), st.none() | st.integers(0, 20), st.none() | st.integers(0, 200))


@given(st.sampled_from([1, 2, 4, 8, 16]), st.lists(PUBLISH | READ, max_size=40))
def test_any_publishes_and_reads_give_what_a_plain_list_gives(capacity: int, steps: list[tuple[object, ...]]) -> None:
    ring = Ring.on_heap(capacity)
    published: list[int] = []
    cursors = [0, 0, 0]
    for step in steps:
        match step:
            case ("publish", int(size)):
                assert ring.publish(numbered(len(published) + 1, size)) == len(published) + size
                published += range(len(published) + 1, len(published) + 1 + size)
            case ("read", int(reader), limit, until):
                cursor = cursors[reader]
                wanted = [number for number in published if number > cursor and (until is None or number <= until)]
                held = [number for number in wanted if number in published[-capacity:]]
                gone = [number for number in wanted if number not in held]
                span = ring.read(cursor, limit, until)
                assert span.lost == (Lost(gone[0], gone[-1]) if gone else None)
                assert span.ticks["venue_seq"].tolist() == held[:limit]
                assert same(span.ticks, numbered(span.first, len(held[:limit])))
                assert span.cursor == cursor + len(gone) + len(held[:limit])
                cursors[reader] = span.cursor
    for cursor in cursors:  # read on to the end: all is accounted for, each once
        span = ring.read(cursor)
        assert (span.lost.last - span.lost.first + 1 if span.lost else 0) + len(span.ticks) == len(published) - cursor
        assert span.cursor == len(published)


@pytest.mark.parametrize("sizes", [(5,), (8,), (8, 3), (5, 5, 5), (8, 8)])
def test_views_one_after_the_other_are_what_a_read_gives(sizes: tuple[int, ...]) -> None:
    ring = filled(8, *sizes)
    whole = ring.read(0)
    first = ring.view(0)
    assert (first.first, first.lost) == (whole.first, whole.lost)
    pieces, cursor = [first.ticks], first.cursor
    while cursor < ring.head:
        span = ring.view(cursor)
        assert (span.first, span.lost) == (cursor + 1, None)
        pieces.append(span.ticks)
        cursor = span.cursor
    assert len(pieces) <= 2  # one for each end of the memory
    assert same(np.concatenate(pieces), whole.ticks)
    assert len(ring.view(ring.head).ticks) == 0


def test_a_view_is_the_rings_own_memory_and_cannot_be_written() -> None:
    ring = filled(8, 4)
    view = ring.view(0, limit=3, until=2)
    assert same(view.ticks.copy(), numbered(1, 2))
    with pytest.raises(ValueError, match="read-only"):
        view.ticks["bid"] = 0
    ring.publish(numbered(5, 8))
    assert ring.oldest > view.first  # so it is known that
    assert same(view.ticks.copy(), numbered(9, 2))  # they are others now
    with pytest.raises(ValueError, match="cursor 13 is outside"):
        ring.view(13)


@given(
    power=st.integers(0, 7),
    batches=st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 50)), max_size=300), max_size=12),
)
def test_what_is_gone_of_a_feed_is_never_later_than_is_told_and_that_is_the_time_of_a_tick_of_it(
    power, batches
) -> None:
    ring = Ring.on_heap(1 << power, feeds=3)
    every: list[tuple[int, int]] = []
    for rows in batches:
        batch = np.zeros(len(rows), TICK)
        batch["feed"], batch["ts_event"] = np.array(rows, np.int64).reshape(-1, 2).T
        ring.publish(batch)
        every += rows
        gone = every[: ring.oldest - 1]
        # Some that are next to go may count already.
        counted = every[: ring.oldest - 1 + max(1, ring.capacity // 16)] if gone else []
        for feed in range(3):
            told = ring.gone_until(feed)
            assert told >= max((time for of, time in gone if of == feed), default=NEVER)
            assert told <= max((time for of, time in counted if of == feed), default=NEVER)


def test_a_feed_that_lost_nothing_is_told_so_beside_one_that_did() -> None:
    ring = Ring.on_heap(1 << 13, feeds=2)
    batch = np.zeros(1 << 14, TICK)
    batch["ts_event"] = np.arange(len(batch))
    batch["feed"][-10:] = 1
    ring.publish(batch)
    assert (ring.gone_until(0), ring.gone_until(1)) == ((1 << 13) - 1, NEVER)
