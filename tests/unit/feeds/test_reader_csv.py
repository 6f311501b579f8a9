"""CSV with named columns."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from marketfeed.feed import FeedError
from marketfeed.model.tick import QUOTE, TRADE
from tests.unit.feeds.replay_helper import play, same

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(*lines: str, name: str = "ticks.csv", end: str = "\n") -> Path:
        path = tmp_path / name
        path.write_text("".join(line + end for line in lines), newline="")
        return path

    return to_file


def test_quotes_and_trades_are_told_by_what_a_row_has(write: Write) -> None:
    ticks, context = play(
        write(
            "timestamp,symbol,bid,bid_size,ask,ask_size,price,size,seq",
            "1700000000000,AAA,1.25,10,1.5,20,,,7",
            "1700000000001,BBB,,,,,3.75,30,8",
            "1700000000002,AAA,1.25,,,,,,9",
            "1700000000003,AAA,1.25,10,1.5,20,1.5,5,10",
        )
    )
    assert ticks["kind"].tolist() == [QUOTE, TRADE, QUOTE, QUOTE, TRADE]
    assert [context.symbols[number] for number in ticks["instrument"]] == ["AAA", "BBB", "AAA", "AAA", "AAA"]
    assert (ticks["ts_event"] - 1_700_000_000_000_000_000).tolist() == [0, 10**6, 2 * 10**6, 3 * 10**6, 3 * 10**6]
    nan = float("nan")
    assert same(ticks["bid"], [1.25, nan, 1.25, 1.25, nan])
    assert same(ticks["bid_size"], [10, nan, nan, 10, nan])
    assert same(ticks["ask"], [1.5, nan, nan, 1.5, nan])
    assert same(ticks["ask_size"], [20, nan, nan, 20, nan])
    assert same(ticks["price"], [nan, 3.75, nan, nan, 1.5])
    assert same(ticks["size"], [nan, 30, nan, nan, 5])
    assert ticks["venue_seq"].tolist() == [7, 8, 9, 10, 10]
    assert not context.refused


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("yesterday,AAA,1,2,,1", "unparsable time"),
        (",AAA,1,2,,1", "unparsable time"),
        ("1e999999999999999999,AAA,1,2,,1", "unparsable time"),
        ("1700000000,AAA,nan,2,,1", "unparsable bid"),
        ("1700000000,AAA,1,-inf,,1", "unparsable ask"),
        ("1700000000,AAA,,,Infinity,1", "unparsable price"),
        ("1700000000,AAA,1,x,,1", "unparsable ask"),
        ("1700000000,AAA,,,1_000,1", "unparsable price"),
        ("1700000000,AAA,,,1,many", "unparsable size"),
        ("1700000000,AAA,,,,1", "no price"),
        ("1700000000,AAA,1,2", "wrong number of columns"),
        ("1700000000,AAA,1,2,,1,", "wrong number of columns"),
        ("timestamp,symbol,bid,ask,price,size", "unparsable time"),
        ("-1,AAA,1,2,,1", "time before 1970"),
        ("99999999999,AAA,1,2,,1", "time beyond tomorrow"),
        ("1e300,AAA,1,2,,1", "time beyond tomorrow"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_bad_row_is_refused_and_its_neighbours_play(write: Write, bad: str, reason: str, end: str) -> None:
    before = [f"170000000{i},AAA,1.{i},2,," for i in range(5)]
    after = [f"170000001{i},AAA,1.{i},2,," for i in range(5)]
    ticks, context = play(write("timestamp,symbol,bid,ask,price,size", *before, bad, *after, end=end))
    assert context.refused == {reason: 1}
    assert context.examples[reason]
    assert same(ticks["bid"], [1.0, 1.1, 1.2, 1.3, 1.4] * 2)


def test_a_symbol_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ticks.csv"
    path.write_bytes(b"time,symbol,price\n1700000000,A\xff,1\n1700000001,A,2\n")
    ticks, context = play(path)
    assert context.refused == {"bad symbol": 1}
    assert same(ticks["price"], [2])


def test_a_bad_row_puts_no_symbol_into_the_directory(write: Write) -> None:
    _, context = play(write("time,symbol,price", "1700000000,GOOD,1", "1700000000,BAD,x"))
    assert context.symbols == ["GOOD"]


def test_a_size_that_is_nan_is_absent(write: Write) -> None:
    ticks, context = play(write("time,symbol,price,size", "1700000000,A,1,nan", "1700000001,A,2,NaN"))
    assert np.isnan(ticks["size"]).all()
    assert len(ticks) == 2
    assert not context.refused


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("1588291201", 1588291201_000000000),
        ("1588291201.5", 1588291201_500000000),
        ("1588291201.123456789", 1588291201_123456789),
        ("1588291201099", 1588291201_099000000),
        ("1588291201099.25", 1588291201_099250000),
        ("1588291201099123", 1588291201_099123000),
        ("1588291201099123456", 1588291201_099123456),
        ("1.5882912015e9", 1588291201_500000000),
        ("2020-05-01T00:00:01.000000001Z", 1588291201_000000001),
        ("2020-05-01 02:00:01+02:00", 1588291201_000000000),
    ],
)
def test_times_are_read_to_the_nanosecond_in_any_unit(write: Write, written: str, wanted: int) -> None:
    ticks, context = play(write("time,symbol,price", f"{written},A,1", f"{written},A,2"))
    assert ticks["ts_event"].tolist() == [wanted] * 2
    assert not context.refused


def test_a_stated_unit_overrides_the_magnitude(write: Write) -> None:
    path = write("time,symbol,price", "5000,A,1", "6000,A,2")
    assert play(path)[0]["ts_event"].tolist() == [5000 * 10**9, 6000 * 10**9]
    assert play(path, time_unit="ms")[0]["ts_event"].tolist() == [5 * 10**9, 6 * 10**9]


def test_a_stated_zone_holds_for_times_that_name_none(write: Write) -> None:
    ticks, _ = play(write("time,symbol,price", "2013-10-07T09:30:00,A,1"), tz="America/New_York")
    assert ticks["ts_event"].tolist() == [1_381_152_600 * 10**9]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_names_of_columns_have_many_ways_to_be_written(write: Write, delimiter: str) -> None:
    header = delimiter.join(["note", "Ask Price", "BID-PRICE", "Ticker", " DateTime ", "bid_qty"])
    row = delimiter.join(["x", "2", "1", "AAA", "1700000000", "5"])
    ticks, context = play(write(header, row))
    assert (ticks["bid"][0], ticks["ask"][0], ticks["bid_size"][0], context.symbols) == (1, 2, 5, ["AAA"])


def test_a_byte_order_mark_quotes_and_blanks_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "ticks.csv"
    path.write_bytes(b'\xef\xbb\xbf"Time","Symbol","Price"\r\n"1700000000"," AAA ","1.5"\r\n1700000001 , AAA, 2.5')
    ticks, context = play(path)
    assert same(ticks["price"], [1.5, 2.5])
    assert context.symbols == ["AAA"]


def test_without_a_symbol_column_the_name_of_the_file_is_the_symbol_or_what_is_stated(write: Write) -> None:
    path = write("time,price", "1700000000,1", name="EURUSD.2020.csv")
    assert play(path)[1].symbols == ["EURUSD"]
    assert play(path, **{"as": "EUR/USD"})[1].symbols == ["EUR/USD"]


def test_a_file_name_that_is_no_symbol_stops_the_start(write: Write) -> None:
    with pytest.raises(FeedError, match="as=SYMBOL"):
        play(write("time,price", "1700000000,1", name="a name with blanks.csv"))


def test_a_compressed_file_plays_as_the_plain_one(write: Write, tmp_path: Path) -> None:
    import pyarrow as pa

    plain = write("time,symbol,price", *(f"{1700000000 + i},A,{i}.5" for i in range(10_000)))
    wanted, _ = play(plain)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    with pa.output_stream(str(tmp_path / "a.csv.zst"), compression="zstd") as stream:
        stream.write(plain.read_bytes())
    assert len(wanted) == 10_000
    for name in ("a.csv.gz", "a.csv.zst"):
        assert play(tmp_path / name)[0].tobytes() == wanted.tobytes()


def test_the_format_is_told_by_content_whatever_the_name(write: Write) -> None:
    assert len(play(write("time,symbol,price", "1700000000,A,1", name="ticks.zip"))[0]) == 1


def test_a_header_alone_is_a_recording_without_ticks(write: Write) -> None:
    ticks, context = play(write("time,symbol,price"))
    assert len(ticks) == 0
    assert not context.refused


def test_any_number_of_rows_and_blocks_gives_every_row_in_order(write: Write) -> None:
    lines = [f"{1_700_000_000 + i // 3},S{i % 7},{i}" for i in range(50_000)]
    ticks, context = play(write("time,symbol,price", *lines))
    assert ticks["price"].tolist() == list(range(50_000))
    assert [context.symbols[number] for number in ticks["instrument"]] == [f"S{i % 7}" for i in range(50_000)]
