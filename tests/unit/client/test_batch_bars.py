"""Bars in batches and in frames of records: the same as in JSON."""

from __future__ import annotations

import json

import numpy as np

from marketfeed.client.batch import Batch, Chunk
from marketfeed.client.inbox import Inbox
from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.messages import Bar, UpdatedBar, decode_frame
from marketfeed.model.bars import BAR_RECORD, FROM_QUOTES
from marketfeed.model.tick import BAR, QUOTE, TICK, UPDATED_BAR
from marketfeed.stream.encoding.binary import BinaryEncoding, read_frame
from tests.unit.client.support import bar, directory, quote

TOLD = [
    bar("A", 7, f="x"),
    quote("A", 8, "x"),
    bar("A", 9, "u", sec=5, f="x", **{"from": "quotes"}),
    bar("B", 10, v=0, vw=0, f="x"),
]
MESSAGES = decode_frame(json.dumps(TOLD))


def same(some: list[object], others: list[object]) -> bool:
    """NaN equals NaN; the one text of a time may have more zeros."""
    return [repr(m).replace(".000000000Z", "Z") for m in some] == [repr(m).replace(".000000000Z", "Z") for m in others]


def test_bars_of_a_json_connection_are_in_its_batches_and_come_out_of_them_as_they_went_in() -> None:
    inbox = Inbox()
    inbox.put(MESSAGES)
    batch = inbox.batch(100)
    assert batch is not None
    assert batch.ticks["kind"].tolist() == [BAR, QUOTE, UPDATED_BAR, BAR]
    assert batch.ticks["seq"].tolist() == [7, 8, 9, 10]
    bars = batch.bars
    assert bars["close"].tolist() == [2, 2, 2]
    assert bars["count"].tolist() == [4, 4, 4]
    assert bars["seconds"].tolist() == [60, 5, 60]
    assert bars["flags"].tolist() == [0, FROM_QUOTES, 0]
    assert np.isnan(bars["vwap"]).tolist() == [False, False, True]
    assert same(Chunk(batch.ticks, batch.instruments).messages(), MESSAGES)
    assert len(inbox) == 0


def test_tables_hold_ticks_and_no_bars() -> None:
    batch = Batch(*Chunk.of(MESSAGES, InstrumentTable()))
    assert batch.to_pandas()["seq"].tolist() == [8]
    assert batch.to_polars()["seq"].to_list() == [8]
    assert batch.to_arrow()["seq"].to_pylist() == [8]


def test_a_record_of_a_bar_is_the_message_that_json_has() -> None:
    rows = np.zeros(2, BAR_RECORD)
    rows["kind"], rows["instrument"], rows["seconds"] = [BAR, UPDATED_BAR], [0, 2], [60, 5]
    rows["open"], rows["high"], rows["low"], rows["close"], rows["vwap"], rows["volume"] = 1, 3, 0.5, 2, 1.5, 10
    rows["count"], rows["flags"], rows["ts_event"] = 4, [0, FROM_QUOTES], 1_704_067_200_000_000_000
    known = directory()
    frame = BinaryEncoding(known, True).ticks(rows.view(TICK), np.array([7, 9], np.uint64)).frame()
    table = InstrumentTable()
    for symbol in known.symbols():
        table.id_of(symbol, "x")
    one, two = Chunk(read_frame(frame), table).messages()
    time = "2024-01-01T00:00:00.000000000Z"
    assert one == Bar("A", 1, 3, 0.5, 2, 10, 4, 1.5, time, 7, 60, "trades", "x")
    assert two == UpdatedBar("B", 1, 3, 0.5, 2, 10, 4, 1.5, time, 9, 5, "quotes", "x")
