import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.model import BAR, QUOTE, TICK, TRADE, UPDATED_BAR, LatestTable
from marketfeed.model.bars import BAR_RECORD, DEFAULT_SECONDS
from marketfeed.model.tick import KINDS, Ticks
from tests.ticks import numbered, same

CAPACITY = 6


def ticks_of(cells: list[tuple[int, int]], first: int) -> Ticks:
    """Ticks, and bars of the default length, of those (kind, instrument), numbered from ``first``."""
    ticks = numbered(first, len(cells))
    ticks["kind"] = [kind for kind, _ in cells]
    ticks.view(BAR_RECORD)["seconds"][ticks["kind"] >= BAR] = DEFAULT_SECONDS
    ticks["instrument"] = [instrument for _, instrument in cells]
    return ticks


def table_of(*cells: tuple[int, int]) -> LatestTable:
    table = LatestTable.on_heap(CAPACITY)
    table.update(ticks_of(list(cells), 1), 1)
    return table


def test_a_new_table_knows_nothing() -> None:
    ticks, seqs = LatestTable.on_heap(CAPACITY).since(0)
    assert (ticks.dtype, len(ticks), len(seqs)) == (TICK, 0, 0)


def test_quote_and_trade_of_an_instrument_are_kept_apart() -> None:
    ticks, seqs = table_of((QUOTE, 3), (TRADE, 3)).since(0)
    assert seqs.tolist() == [1, 2]
    assert ticks["kind"].tolist() == [QUOTE, TRADE]


def test_of_repeated_instruments_in_one_batch_the_last_stays() -> None:
    cells = [(QUOTE, 1), (QUOTE, 2), (QUOTE, 1), (QUOTE, 1), (TRADE, 1)]
    ticks, seqs = table_of(*cells).since(0)
    assert seqs.tolist() == [2, 4, 5]
    assert same(ticks, ticks_of(cells, 1)[[1, 3, 4]])


def test_a_kind_without_a_last_value_is_passed_over() -> None:
    ticks, seqs = table_of((0, 1), (QUOTE, 2), (KINDS[-1] + 1, 1), (255, CAPACITY - 1)).since(0)
    assert (seqs.tolist(), ticks["instrument"].tolist()) == ([2], [2])


@pytest.mark.parametrize("rows", [1, 100], ids=["few rows", "many rows"])
def test_bars_of_other_lengths_have_no_last_value(rows: int) -> None:
    table = LatestTable.on_heap(CAPACITY)
    batch = ticks_of([(BAR, 1), (BAR, 2), (UPDATED_BAR, 3)] * rows, 1)
    batch.view(BAR_RECORD)["seconds"][1::3] = 5
    table.update(batch, 1)
    ticks, seqs = table.since(0)
    assert seqs.tolist() == [3 * rows - 2, 3 * rows]
    assert ticks["kind"].tolist() == [BAR, UPDATED_BAR]


def test_the_first_kinds_may_be_all_that_is_looked_at() -> None:
    table = table_of((QUOTE, 1), (BAR, 1), (TRADE, 1))
    assert table.since(0, kinds=2).seqs.tolist() == [1, 3]
    assert table.since(0, count=3, kinds=1).seqs.tolist() == [1]


def test_a_batch_may_be_a_slice_with_gaps() -> None:
    table = LatestTable.on_heap(CAPACITY)
    batch = ticks_of([(QUOTE, 1), (QUOTE, 2), (QUOTE, 3)], 1)
    table.update(batch[::2], 1)
    assert same(table.since(0).ticks, batch[::2].copy())


def test_what_was_read_is_the_readers_own() -> None:
    table = table_of((QUOTE, 1))
    ticks, _ = table.since(0)
    table.update(ticks_of([(QUOTE, 1)], 2), 2)
    assert same(ticks, ticks_of([(QUOTE, 1)], 1))


def test_a_row_that_the_writer_is_at_is_left_out_until_it_is_done() -> None:
    shape = (len(KINDS), CAPACITY)
    seqs, claims = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
    table = LatestTable(np.zeros(shape, TICK), seqs, claims)
    table.update(ticks_of([(QUOTE, 1), (QUOTE, 2)], 1), 1)
    claims[0, 1] = 3  # the writer has begun with tick 3
    assert table.since(0).seqs.tolist() == [2]
    seqs[0, 1] = 3
    assert table.since(2).seqs.tolist() == [3]


def test_arrays_that_do_not_fit_together_are_an_error() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        LatestTable(np.zeros((2, 4), TICK), np.zeros((2, 4), np.uint64), np.zeros((2, 5), np.uint64))


CELL = st.tuples(st.sampled_from(KINDS), st.integers(0, CAPACITY - 1))


@given(st.lists(st.lists(CELL, max_size=12), max_size=12), st.data())
def test_since_gives_what_a_dictionary_gives(batches: list[list[tuple[int, int]]], data: st.DataObject) -> None:
    table = LatestTable.on_heap(CAPACITY)
    last: dict[tuple[int, int], int] = {}
    every = ticks_of([cell for batch in batches for cell in batch], 1)
    head = 0
    for batch in batches:
        table.update(every[head : head + len(batch)], head + 1)
        last |= {cell: number for number, cell in enumerate(batch, head + 1)}
        head += len(batch)

        cursor = data.draw(st.integers(0, head))
        count = data.draw(st.none() | st.integers(0, CAPACITY))
        until = data.draw(st.none() | st.integers(0, head))
        among = data.draw(st.none() | st.sets(CELL))
        mask = None
        if among is not None:
            mask = np.zeros((len(KINDS), CAPACITY), np.bool_)
            for kind, instrument in among:
                mask[kind - QUOTE, instrument] = True
        wanted = sorted(
            number
            for (kind, instrument), number in last.items()
            if number > cursor
            and (count is None or instrument < count)
            and (until is None or number <= until)
            and (among is None or (kind, instrument) in among)
        )
        ticks, seqs = table.since(cursor, count, until, mask)
        assert seqs.tolist() == wanted
        assert same(ticks, every[np.array(wanted, np.int64) - 1])

        kind, named = data.draw(st.sampled_from([QUOTE, TRADE])), data.draw(st.sets(st.integers(0, CAPACITY - 1)))
        wanted = sorted(number for (of, instrument), number in last.items() if of == kind and instrument in named)
        ticks, seqs = table.of(kind, np.array(list(named), np.int64))
        assert seqs.tolist() == wanted
        assert same(ticks, every[np.array(wanted, np.int64) - 1])


def test_count_is_how_many_there_are_also_where_one_is_being_written() -> None:
    seqs, claims = np.zeros((len(KINDS), CAPACITY), np.uint64), np.zeros((len(KINDS), CAPACITY), np.uint64)
    table = LatestTable(np.zeros((len(KINDS), CAPACITY), TICK), seqs, claims)
    table.update(ticks_of([(QUOTE, 1), (QUOTE, 2), (TRADE, 1)], 1), 1)
    quotes = np.zeros((len(KINDS), CAPACITY), np.bool_)
    quotes[0] = True
    assert (table.count(0, CAPACITY), table.count(1, CAPACITY), table.count(0, CAPACITY, quotes)) == (3, 2, 2)
    assert (table.count(0, 2), table.count(3, 99)) == (2, 0)
    claims[0, 1] = 9
    assert (table.count(0, CAPACITY), len(table.since(0).ticks)) == (3, 2)
