"""What waits is given once and in order, however it is asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.client.batch import Batch, Chunk
from marketfeed.client.inbox import BatchesAsked, Inbox, Item
from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.messages import Gap, Heartbeat, Instrument, Quote, Trade
from marketfeed.model import QUOTE, TRADE
from marketfeed.model.clock import ManualClock
from marketfeed.stream.encoding.binary import read_frame
from tests.unit.client.support import INSTRUMENTS, records

TABLES = [InstrumentTable(epoch) for epoch in (5, 6)]
for table in TABLES:
    table.tell(Instrument(i, name, "x") for i, name in enumerate(INSTRUMENTS))


def chunk(first: int, n: int, table: InstrumentTable = TABLES[0]) -> Chunk:
    return Chunk(read_frame(records(*((i % 4, (QUOTE, TRADE)[i % 2], i) for i in range(first, first + n)))), table)


def item_of(kind: str, seq: int, n: int) -> Item:
    if kind == "quote":
        return Quote("A", 1.0, 2.0, 3.0, 4.0, "2024-01-01T00:00:00.000000007Z", seq, "x")
    if kind == "gap":
        return Gap(seq, seq + n - 1, "lapped")
    if kind == "heartbeat":
        return Heartbeat(5, seq, "2024-01-01T00:00:00Z")
    return chunk(seq, n, TABLES[kind == "another life"])


KINDS = st.sampled_from(["quote", "gap", "heartbeat", "records", "records", "another life"])
ASKED = st.one_of(st.sampled_from(["pop", "take"]), st.integers(1, 9), st.none())


@given(st.lists(st.tuples(KINDS, st.integers(1, 6)), max_size=12), st.lists(ASKED, max_size=30))
def test_everything_comes_once_and_in_order_as_messages_and_as_batches_in_any_turn(put, asked) -> None:
    inbox = Inbox()
    expected: list[tuple[str, int]] = []
    waiting = []
    seq = 1
    for kind, n in put:
        item = item_of(kind, seq, n)
        ticks = range(seq, seq + n) if isinstance(item, Chunk) else [seq]
        what = {"gap": "gap", "heartbeat": "heartbeat"}.get(kind, "tick")
        expected += [(what, number) for number in ticks]
        waiting.append(item)
        seq += n
    got: list[tuple[str, int]] = []
    passed_over = False

    def message(each) -> None:
        if isinstance(each, Gap):
            got.append(("gap", each.first))
        else:
            got.append(("heartbeat" if isinstance(each, Heartbeat) else "tick", each.seq))

    for ask in [*asked, None, "take"]:
        if ask is None:
            inbox.put(waiting)
            waiting = []
        elif ask == "pop":
            if (each := inbox.pop()) is not None:
                message(each)
        elif ask == "take":
            for each in inbox.take():
                message(each)
            assert len(inbox) == 0
        else:
            passed_over = True
            batch = inbox.batch(ask)
            if batch is not None:
                assert len(batch) <= ask
                assert len(batch) or batch.gaps
                assert not batch.ticks.flags.writeable or not len(batch)
                got += [("gap", gap.first) for gap in batch.gaps]
                got += [("tick", number) for number in batch.ticks["seq"].tolist()]
                assert all(batch.instruments[i] for i in batch.ticks["instrument"].tolist())
    if passed_over:
        got = [each for each in got if each[0] != "heartbeat"]
        expected = [each for each in expected if each[0] != "heartbeat"]
    assert got == expected


def test_records_of_one_life_are_joined_and_of_two_are_not() -> None:
    inbox = Inbox()
    inbox.put([chunk(1, 3), chunk(4, 2), chunk(1, 2, TABLES[1])])
    assert len(inbox) == 7
    first, second = inbox.batch(100), inbox.batch(100)
    assert isinstance(first, Batch)
    assert isinstance(second, Batch)
    assert (first.ticks["seq"].tolist(), first.instruments) == ([1, 2, 3, 4, 5], TABLES[0])
    assert (second.ticks["seq"].tolist(), second.instruments) == ([1, 2], TABLES[1])
    assert inbox.batch(100) is None


def test_one_chunk_alone_is_not_copied() -> None:
    inbox = Inbox()
    inbox.put([whole := chunk(1, 5)])
    batch = inbox.batch(3)
    assert batch is not None
    assert np.shares_memory(batch.ticks, whole.ticks)
    rest = inbox.batch(3)
    assert rest is not None
    assert rest.ticks["seq"].tolist() == [4, 5]
    assert np.shares_memory(rest.ticks, whole.ticks)


def test_a_loss_begins_a_batch_and_is_told_even_if_nothing_follows() -> None:
    inbox = Inbox()
    gaps = [Gap(3, 5, "lapped"), Gap(6, 7, "lapped"), Gap(9, 9, "moved")]
    inbox.put([chunk(1, 2), *gaps[:2], chunk(8, 1), gaps[2]])
    batches = [inbox.batch(10) for _ in range(4)]
    assert [None if b is None else (b.ticks["seq"].tolist(), b.gaps) for b in batches] == [
        ([1, 2], ()),
        ([8], tuple(gaps[:2])),
        ([], (gaps[2],)),
        None,
    ]


def test_messages_become_rows_with_everything_they_say() -> None:
    inbox = Inbox()
    quote = Quote("A", 1.5, 2.0, 0.0, 0.0, "2024-01-01T00:00:00.000000007Z", 4, "x")
    inbox.put([quote, Trade("A", 1.25, 3.0, "2024-01-01T00:00:00Z", 5, "y"), Trade("A", 1.0, 1.0, "", 6, "x")])
    batch = inbox.batch(10)
    assert batch is not None
    ticks = batch.ticks
    assert ticks["seq"].tolist() == [4, 5, 6]
    assert ticks["kind"].tolist() == [QUOTE, TRADE, TRADE]
    assert ticks["ts_event"].tolist() == [1_704_067_200_000_000_007, 1_704_067_200_000_000_000, 0]
    assert list(zip(batch.symbols, batch.feeds, strict=True)) == [("A", "x"), ("A", "y"), ("A", "x")]
    assert (ticks["bid"][0], ticks["bid_size"][0], ticks["ask_size"][0]) == (1.5, 2.0, 0.0)
    assert ticks["price"].tolist()[1:] == [1.25, 1.0]
    assert np.isnan([ticks["ask"][0], ticks["price"][0], ticks["size"][0], ticks["bid"][1]]).all()


def test_what_is_asked_for_is_counted() -> None:
    clock = ManualClock()
    asked = BatchesAsked(5, 2.0, 3, clock)
    assert (asked.rows(), asked.seconds_left()) == (3, 2.0)
    asked.given(Batch(*chunk(1, 3)))
    assert asked.rows() == 2
    clock.advance(1.5)
    assert asked.seconds_left() == 0.5
    endless = BatchesAsked(None, None, 3, clock)
    endless.given(Batch(*chunk(1, 3)))
    assert (endless.rows(), endless.seconds_left()) == (3, None)


@pytest.mark.parametrize(
    "asked", [(-1, None, 1), (None, 0, 1), (None, float("nan"), 1), (None, -1, 1), (None, None, 0)]
)
def test_numbers_that_make_no_sense_are_refused(asked) -> None:
    with pytest.raises(ValueError, match=r"max_rows|timeout|batch_rows"):
        BatchesAsked(*asked, ManualClock())
