"""Batches as messages and as tables: nothing is lost on the way, and what is missing stays missing."""

import subprocess
import sys
from math import isnan, nan

import numpy as np
import polars
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.client.batch import Batch, Chunk
from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.messages import Instrument, Quote, Trade, decode_frame
from marketfeed.model import QUOTE, TRADE, InstrumentDirectory, empty_ticks
from marketfeed.stream.encoding import BinaryEncoding, JsonEncoding
from marketfeed.stream.encoding.binary import read_frame

NAMES = [("x", "A"), ("y", "A"), ("x", "B-C"), ("x", "日経")]
NUMBERS = st.one_of(st.floats(allow_infinity=False), st.sampled_from([nan, 0.0, -0.0, 1.0]))
TIMES = st.integers(0, 2**62)
TICKS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([QUOTE, TRADE]), TIMES, *[NUMBERS] * 4), max_size=12)


def written(made) -> tuple[str, Batch]:
    """The same ticks as a JSON frame and as a batch."""
    directory = InstrumentDirectory.on_heap(4)
    # One that comes in no tick is before them.
    directory.add(directory.add_feed("x"), "unused")
    for feed, symbol in NAMES[:3]:
        directory.add(directory.add_feed(feed), symbol)
    rows = empty_ticks(len(made))
    for row, (instrument, kind, time, a, b, c, d) in zip(rows, made, strict=True):
        row["instrument"], row["kind"], row["ts_event"] = instrument + 1, kind, time
        if kind == QUOTE:
            row["bid"], row["bid_size"], row["ask"], row["ask_size"] = a, b, c, d
        else:
            row["price"], row["size"] = a, b
    rows["ts_recv"] = np.arange(len(made))
    seqs = np.arange(1, len(made) + 1, dtype=np.uint64)
    table = InstrumentTable(5)
    table.tell(Instrument(i, symbol, feed) for i, (feed, symbol) in enumerate(NAMES[:3], 1))
    records = read_frame(BinaryEncoding(directory, True).ticks(rows, seqs).frame())
    return JsonEncoding(directory, True).ticks(rows, seqs).frame().decode(), Batch(records, table)


@given(TICKS)
def test_decoded_records_are_the_messages_that_json_brings(made) -> None:
    text, batch = written(made)
    messages = Chunk(batch.ticks, batch.instruments).messages()
    assert [repr(m) for m in messages] == [repr(m) for m in decode_frame(text)]


@given(TICKS)
def test_messages_become_the_records_again_except_for_what_they_do_not_say(made) -> None:
    _, batch = written(made)
    messages = Chunk(batch.ticks, batch.instruments).messages()
    again = Chunk.of(messages, InstrumentTable())
    assert again.messages() == messages or any(isnan(number) for tick in made for number in tick[3:])
    for column in ("seq", "ts_event", "kind"):
        assert again.ticks[column].tolist() == batch.ticks[column].tolist()
    for number in ("bid", "ask", "price"):
        known = ~np.isnan(again.ticks[number]) & ~np.isnan(batch.ticks[number])
        assert again.ticks[number][known].tolist() == batch.ticks[number][known].tolist()


COLUMNS = [
    *("seq", "ts_event", "ts_recv", "symbol", "feed", "kind"),
    *("bid", "bid_size", "ask", "ask_size", "price", "size", "venue_seq"),
]
MADE = [
    (0, QUOTE, 1_700_000_000_123_456_789, 1.5, nan, nan, 2.0),
    (1, TRADE, 1_700_000_000_000_000_000, 7.0, 3.0, nan, nan),
    (2, QUOTE, 0, 1.0, 2.0, 3.0, 4.0),
]


def told(value):
    """NaN, NaT and null are one."""
    return None if value is None or value != value else value


@pytest.mark.parametrize("made", [MADE, []], ids=["three ticks", "none"])
def test_all_tables_say_the_same(made) -> None:
    _, batch = written(made)
    pandas, arrow = batch.to_pandas(), batch.to_arrow()
    tables = [
        {name: [told(value) for value in pandas[name].tolist()] for name in pandas.columns},
        {name: batch.to_polars()[name].to_list() for name in batch.to_polars().columns},
        arrow.to_pydict(),
    ]
    for table in tables:
        assert list(table) == COLUMNS
        assert table["seq"] == list(range(1, len(made) + 1))
        assert table["symbol"] == batch.symbols.tolist() == ["A", "A", "B-C"][: len(made)]
        assert table["feed"] == batch.feeds.tolist() == ["x", "y", "x"][: len(made)]
        assert table["kind"] == ["quote", "trade", "quote"][: len(made)]
        for column in ("bid", "bid_size", "ask", "ask_size", "price", "size"):
            assert table[column] == [told(value) for value in batch.ticks[column].tolist()]
    if made:
        assert pandas["ts_event"].tolist()[0].value == made[0][2]
        assert str(pandas["ts_event"].dtype) == "datetime64[ns, UTC]"
        assert pandas["ts_event"].isna().tolist() == [False, False, True]
        assert arrow["ts_event"].cast(pyarrow.int64()).to_pylist() == [made[0][2], made[1][2], None]
        assert batch.to_polars()["ts_event"].dt.timestamp("ns").to_list() == [made[0][2], made[1][2], None]
        assert pandas["symbol"].cat.categories.tolist() == ["A", "B-C"]
    assert batch.to_polars().schema["symbol"] == polars.Categorical
    assert pyarrow.types.is_dictionary(arrow.schema.field("symbol").type)


def test_a_table_is_the_caller_s_own() -> None:
    _, batch = written(MADE)
    frame = batch.to_pandas()
    frame.loc[0, "bid"] = 99.0
    assert batch.ticks["bid"][0] == 1.5
    with pytest.raises(ValueError, match="read-only"):
        batch.ticks["bid"] = 1.0


def test_quotes_and_trades_are_told_apart() -> None:
    _, batch = written(MADE)
    assert batch.quotes["seq"].tolist() == [1, 3]
    assert batch.trades["seq"].tolist() == [2]


def test_a_kind_without_a_name_is_its_number() -> None:
    _, batch = written(MADE)
    ticks = batch.ticks.copy()
    ticks["kind"][1] = 200
    assert Batch(ticks, batch.instruments).to_pandas()["kind"].tolist() == ["quote", "200", "quote"]


@pytest.mark.parametrize("module", ["pandas", "polars", "pyarrow"])
def test_without_the_library_the_error_names_the_extra(module) -> None:
    """In an interpreter that cannot import it."""
    script = f"""
import sys
sys.modules[{module!r}] = None
from marketfeed.client import Batch
from marketfeed.client.instruments import InstrumentTable
from marketfeed.model.tick import RECORD
import numpy as np
batch = Batch(np.zeros(0, RECORD), InstrumentTable())
batch.{"to_arrow" if module == "pyarrow" else f"to_{module}"}()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"needs {module}; with the extra `frames`: pip install 'marketfeed[frames]'" in done.stderr


def test_messages_know_what_is_missing() -> None:
    _, batch = written(MADE)
    quote, trade, _ = Chunk(batch.ticks, batch.instruments).messages()
    assert isinstance(quote, Quote)
    assert isinstance(trade, Trade)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (1.5, 0.0, 0.0, 2.0)
