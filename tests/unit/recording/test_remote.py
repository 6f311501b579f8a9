"""What a server's batches become in a recording."""

import math

import numpy as np

from marketfeed.client.batch import Batch, Chunk
from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.messages import Instrument, Quote, Trade
from marketfeed.model.tick import QUOTE, RAW, RECORD, TRADE
from marketfeed.recording.remote import Translator
from tests.unit.recording.support import some

NOW = 1_740_823_200_000_000_000
T = "2025-03-01T09:59:59.123456789Z"


def from_json(*messages: Quote | Trade) -> Batch:
    return Batch(*Chunk.of(messages, InstrumentTable()))


def records(n: int, table: InstrumentTable) -> Batch:
    """Ticks as a server with this table sends them as records."""
    ticks = some(n)
    made = np.zeros(n, RECORD)
    made["seq"] = np.arange(100, 100 + n)
    for name in ticks.dtype.names or ():
        made[name] = ticks[name]
    return Batch(made, table)


def table(epoch: int, *names: tuple[str, str]) -> InstrumentTable:
    made = InstrumentTable(epoch)
    made.tell(Instrument(number, symbol, feed) for number, (symbol, feed) in enumerate(names))
    return made


def named(translator: Translator, ids: np.ndarray) -> list[str]:
    return [translator.directory.symbols()[number] for number in ids.tolist()]


SIX = [(f"S{number // 2}", f"f{number % 2}") for number in range(6)]


def test_records_become_the_same_ticks() -> None:
    translator = Translator("")
    ticks, seqs = translator.ticks(records(600, table(7, *SIX)), NOW)
    wanted = some(600)
    assert seqs.tolist() == list(range(100, 700))
    assert named(translator, ticks["instrument"]) == [SIX[number][0] for number in wanted["instrument"]]
    feeds = translator.directory.feeds()
    assert [feeds[number] for number in ticks["feed"]] == [SIX[number][1] for number in wanted["instrument"]]
    for name in ("instrument", "feed"):
        ticks[name] = wanted[name]
    assert np.array_equal(ticks.view(RAW), wanted.view(RAW))


def test_another_life_numbers_the_same_instruments_otherwise() -> None:
    translator = Translator("")
    first, _ = translator.ticks(records(60, table(7, *SIX)), NOW)
    second, _ = translator.ticks(records(60, table(8, *SIX[::-1])), NOW)
    assert len(translator.directory) == 6
    assert named(translator, second["instrument"]) == [SIX[5 - number][0] for number in some(60)["instrument"]]
    assert len(first) == len(second) == 60


def test_messages_lack_what_their_wire_lacks() -> None:
    translator = Translator("")
    ticks, seqs = translator.ticks(
        from_json(
            Quote("A", 1.5, 2, 1.6, 3, T, 41, "x"),
            Trade("A", 1.55, 7, T, 42, "x"),
            Quote("A", 2.5, 2, 2.6, 3, T, 44, "y"),
        ),
        NOW,
    )
    assert seqs.tolist() == [41, 42, 44]
    assert ticks["kind"].tolist() == [QUOTE, TRADE, QUOTE]
    assert ticks["ts_event"].tolist() == [NOW - 1_000_000_000 + 123_456_789] * 3
    assert ticks["ts_recv"].tolist() == [NOW] * 3
    assert named(translator, ticks["instrument"]) == ["A", "A", "A"]
    assert [translator.directory.feeds()[number] for number in ticks["feed"]] == ["x", "x", "y"]
    assert ticks[["bid", "bid_size", "ask", "ask_size"]][0].tolist() == (1.5, 2, 1.6, 3)
    assert ticks[["price", "size"]][1].tolist() == (1.55, 7)
    assert np.isnan(ticks["price"]).tolist() == [True, False, True]


def test_a_side_that_is_not_there_and_a_size_that_is_not_told_are_nan() -> None:
    ticks, _ = Translator("f").ticks(from_json(Quote("A", 0, 0, 1.6, 0, T, 1), Trade("A", 1.6, 0, T, 2)), NOW)
    assert math.isnan(ticks["bid"][0])
    assert math.isnan(ticks["bid_size"][0])
    assert ticks["ask"][0] == 1.6
    assert math.isnan(ticks["ask_size"][0])
    assert math.isnan(ticks["size"][1])


def test_instruments_that_name_no_feed_are_of_the_one_that_was_asked_for() -> None:
    translator = Translator("sim")
    translator.ticks(from_json(Trade("A", 1, 1, T, 1)), NOW)
    assert translator.directory.feeds() == ["sim"]


def test_a_name_that_cannot_be_is_counted_and_the_others_go_on() -> None:
    translator = Translator("sim")
    batch = from_json(
        Trade("A B", 1, 1, T, 1), Trade("A", 2, 1, T, 2), Trade("A B", 3, 1, T, 3), Trade("A", 1, 1, T, 4, "a:b")
    )
    ticks, seqs = translator.ticks(batch, NOW)
    assert seqs.tolist() == [2]
    assert len(ticks) == 1
    assert translator.refused == 3


def test_a_batch_that_only_tells_a_gap_has_no_ticks() -> None:
    ticks, seqs = Translator("sim").ticks(Batch(np.zeros(0, RECORD), InstrumentTable()), NOW)
    assert (len(ticks), len(seqs)) == (0, 0)
