"""Parquet with named columns."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marketfeed.feed import FeedError
from marketfeed.model.tick import QUOTE, TRADE
from tests.unit.feeds.replay_helper import NOW, Context, play, replay, same

T0 = 1_700_000_000_000_000_000


def write(tmp_path: Path, row_group_size: int | None = None, **columns: object) -> Path:
    path = tmp_path / "ticks.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def test_null_and_nan_mean_absent(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        timestamp=pa.array([T0, T0 + 1, T0 + 2, T0 + 3], pa.timestamp("ns", "UTC")),
        symbol=["A", "B", "A", "A"],
        bid=[1.0, None, float("nan"), None],
        ask=[2.0, None, 3.0, None],
        price=[None, 5.0, None, float("nan")],
        size=pa.array([None, 7, None, 8], pa.int32()),
    )
    ticks, context = play(path)
    nan = float("nan")
    assert ticks["kind"].tolist() == [QUOTE, TRADE, QUOTE]
    assert same(ticks["bid"], [1, nan, nan])
    assert same(ticks["ask"], [2, nan, 3])
    assert same(ticks["price"], [nan, 5, nan])
    assert same(ticks["size"], [nan, 7, nan])
    assert [context.symbols[number] for number in ticks["instrument"]] == ["A", "B", "A"]
    assert context.refused == {"no price": 1}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([T0, T0 + 10**9], pa.timestamp("ns")),
        pa.array([T0 // 10**3, T0 // 10**3 + 10**6], pa.timestamp("us", "America/New_York")),
        pa.array([T0 // 10**6, T0 // 10**6 + 10**3], pa.timestamp("ms")),
        pa.array([T0 // 10**9, T0 // 10**9 + 1], pa.timestamp("s")),
        pa.array([T0, T0 + 10**9], pa.int64()),
        pa.array([T0 // 10**3, T0 // 10**3 + 10**6], pa.uint64()),
        pa.array([T0 // 10**9, T0 // 10**9 + 1], pa.float64()),
        pa.array(["2023-11-14T22:13:20Z", "2023-11-14T22:13:21Z"]),
        pa.array(["2023-11-14T22:13:20Z", "2023-11-14T22:13:21Z"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_times_of_every_type(tmp_path: Path, column: pa.Array) -> None:
    ticks, context = play(write(tmp_path, time=column, symbol=["A", "A"], price=[1, 2]))
    assert ticks["ts_event"].tolist() == [T0, T0 + 10**9]
    assert not context.refused


def test_rows_without_time_or_symbol_are_refused_and_their_neighbours_play(tmp_path: Path) -> None:
    path = write(tmp_path, time=[T0, None, T0, T0], symbol=["A", "B", None, "C"], price=[1.0, 2.0, 3.0, 4.0])
    ticks, context = play(path)
    assert same(ticks["price"], [1, 4])
    assert context.refused == {"unparsable time": 1, "no symbol": 1}
    assert context.symbols == ["A", "C"]


def test_symbols_as_a_dictionary_and_decimal_prices(tmp_path: Path) -> None:
    symbols = pa.array(["A", "B", "A"]).dictionary_encode()
    prices = pa.array([1, 2, 3]).cast(pa.decimal128(30, 4))
    ticks, context = play(write(tmp_path, time=[T0] * 3, symbol=symbols, price=prices, seq=[1, 2, None]))
    assert same(ticks["price"], [1, 2, 3])
    assert ticks["venue_seq"].tolist() == [1, 2, 0]
    assert [context.symbols[number] for number in ticks["instrument"]] == ["A", "B", "A"]


def test_a_column_of_a_type_that_is_no_number_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="'price' is of type string"):
        replay(write(tmp_path, time=[T0], price=["1"]))


def test_columns_of_something_else_are_no_recording(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="no recording"):
        replay(write(tmp_path, name=["x"], age=[1]))


def test_a_file_cut_short_stops_the_start(tmp_path: Path) -> None:
    path = write(tmp_path, time=[T0] * 1000, price=[1.0] * 1000)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FeedError, match="cannot read"):
        replay(path)


def test_one_large_row_group_is_never_whole_in_memory(tmp_path: Path) -> None:
    n = 1_000_000
    rng = np.random.default_rng(1)
    path = write(tmp_path, n, time=T0 + np.arange(n), symbol=["A"] * n, bid=rng.random(n), ask=rng.random(n))
    feed = replay(path)
    before = pa.total_allocated_bytes()
    feed.open(Context(), NOW)
    rows, most, due = 0, 0, 0
    while due is not None:
        batch, due = feed.poll(NOW)
        rows += len(batch)
        most = max(most, pa.total_allocated_bytes() - before)
    assert rows == n
    # The three columns alone are 24 MB.
    assert most < 8_000_000
