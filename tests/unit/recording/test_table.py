"""Ticks to columns and back."""

import numpy as np
import pyarrow as pa
import pytest

from marketfeed.model.tick import RAW
from marketfeed.recording.table import SCHEMA, Encoder, ticks_of
from tests.unit.recording.support import EPOCH, directory, numbers, some


def test_every_column_comes_back_as_it_was() -> None:
    ticks = some(1_000)
    batch = Encoder(directory(), EPOCH).batch(ticks, numbers(1_000, first=77))
    batch.validate(full=True)
    back = ticks_of(batch)
    back["instrument"], back["feed"] = ticks["instrument"], ticks["feed"]
    assert np.array_equal(back.view(RAW), ticks.view(RAW))
    assert batch.column("seq").to_pylist() == list(range(77, 1_077))


def test_symbols_and_feeds_are_the_names_of_the_directory() -> None:
    ticks = some(12)
    batch = Encoder(directory(), EPOCH).batch(ticks, numbers(12))
    assert batch.column("symbol").to_pylist() == [f"S{number // 2}" for number in ticks["instrument"].tolist()]
    assert batch.column("feed").to_pylist() == [f"f{number % 2}" for number in ticks["instrument"].tolist()]
    # A symbol of two feeds stands there once, or pandas makes no category of it.
    assert batch.column("symbol").dictionary.to_pylist() == ["S0", "S1", "S2"]


def test_what_is_missing_is_null() -> None:
    ticks = some(20)
    batch = Encoder(directory(), EPOCH).batch(ticks, numbers(20))
    for name in ("bid", "ask", "price", "size", "bid_size", "ask_size"):
        assert batch.column(name).null_count == np.isnan(ticks[name]).sum()
    assert batch.column("ask_size").null_count == 20


def test_instruments_that_come_later_are_appended() -> None:
    named = directory(feeds=1, symbols=1)
    encoder = Encoder(named, EPOCH)
    first = encoder.batch(some(1, feeds=1, symbols=1), numbers(1))
    other = named.add_feed("other")
    for symbol in ("NEW", "S0"):
        named.add(other, symbol)
    ticks = some(3, feeds=1, symbols=3)
    ticks["feed"] = [1, 1, 0]
    ticks["instrument"] = [1, 2, 0]
    second = encoder.batch(ticks, numbers(3))
    assert first.column("symbol").dictionary.to_pylist() == ["S0"]
    assert second.column("symbol").dictionary.to_pylist() == ["S0", "NEW"]
    assert second.column("symbol").to_pylist() == ["NEW", "S0", "S0"]
    assert second.column("feed").to_pylist() == ["other", "other", "f0"]


@pytest.mark.parametrize("name", SCHEMA.names)
def test_a_batch_has_the_columns_of_the_schema(name: str) -> None:
    batch = Encoder(directory(), EPOCH).batch(some(3), numbers(3))
    assert batch.schema.field(name).type == SCHEMA.field(name).type
    assert batch.schema.metadata == {b"marketfeed.format": b"1", b"marketfeed.epoch": str(EPOCH).encode()}


def test_no_ticks_are_a_batch_too() -> None:
    batch = Encoder(directory(), EPOCH).batch(some(0), numbers(0))
    assert (len(batch), len(ticks_of(batch))) == (0, 0)
    assert isinstance(batch, pa.RecordBatch)
