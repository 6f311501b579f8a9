"""QuantConnect Lean tick zips."""

import zipfile
from pathlib import Path

import pytest

from marketfeed.feed import FeedError
from marketfeed.model.tick import QUOTE, TRADE
from tests.unit.feeds.replay_helper import play, replay, same

NAN = float("nan")
#: 2013-10-07T00:00:00 in New York, which is four hours behind then
NEW_YORK = 1_381_118_400 * 10**9
UTC = NEW_YORK - 4 * 3600 * 10**9


def write(path: Path, **members: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, lines in members.items():
            archive.writestr(f"{name}.csv", lines)
    return path


def test_the_missing_side_of_an_equity_quote_is_that_of_the_last_row_that_had_it(tmp_path: Path) -> None:
    path = write(
        tmp_path / "aig_quote.zip",
        **{
            "20131007_aig_Quote_Tick": "100,0,0,494100,300,Q,1,0\n"
            "101,0,0,494000,200,Q,1,0\n"
            "101,490000,500,0,0,P,1,0\n"
            "102,0,0,493900,100,P,1,1\n"
            "103,494500,700,494100,900,P,1,0\n"
            "104,490100,10,0,0,P,1,0\n"
        },
    )
    ticks, context = play(path)
    assert context.symbols == ["AIG"]
    assert (ticks["kind"] == QUOTE).all()
    assert ((ticks["ts_event"] - NEW_YORK) // 10**6).tolist() == [100, 101, 101, 102, 103, 104]
    assert same(ticks["bid"], [NAN, NAN, 49.0, 49.0, 49.45, 49.01])
    assert same(ticks["bid_size"], [NAN, NAN, 500, 500, 700, 10])
    assert same(ticks["ask"], [49.41, 49.4, 49.4, 49.39, 49.41, 49.41])
    assert same(ticks["ask_size"], [300, 200, 200, 100, 900, 900])


def test_the_fill_goes_on_from_block_to_block(tmp_path: Path) -> None:
    lines = "".join(f"{i},{490000 + i},{i + 1},0,0,P,1,0\n" for i in range(20_000))
    path = write(tmp_path / "q.zip", **{"20131007_aig_Quote_Tick": "0,0,0,494100,300,Q,1,0\n" + lines})
    ticks, _ = play(path)
    assert same(ticks["ask"], [49.41] * 20_001)
    assert same(ticks["bid"], [NAN] + [(490000 + i) / 10_000 for i in range(20_000)])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("x,490000,500,0,0,P,1,0", "unparsable time"),
        ("-5,490000,500,0,0,P,1,0", "unparsable time"),
        ("100000000,490000,500,0,0,P,1,0", "time of another day"),
        ("5,nan,500,0,0,P,1,0", "unparsable bid"),
        ("5,490000,,0,0,P,1,0", "unparsable bid_size"),
        ("5,490000,500", "wrong number of columns"),
        ("5,0,0,0,0,P,1,0", "no price"),
    ],
)
def test_a_bad_row_is_refused_and_leaves_no_trace_in_those_that_follow(tmp_path: Path, bad: str, reason: str) -> None:
    lines = ["1,490100,100,0,0,P,1,0", bad, "2,0,0,490200,200,P,1,0"]
    ticks, context = play(write(tmp_path / "q.zip", **{"20131007_aig_Quote_Tick": "\n".join(lines)}))
    assert context.refused == {reason: 1}
    assert same(ticks["bid"], [49.01, 49.01])
    assert same(ticks["bid_size"], [100, 100])
    assert same(ticks["ask"], [NAN, 49.02])


def test_a_bad_first_row_does_not_decide_for_the_others(tmp_path: Path) -> None:
    lines = "garbage\n" + "".join(f"{i},490100,100,0,0,P,1,0\n" for i in range(5))
    ticks, context = play(write(tmp_path / "q.zip", **{"20131007_aig_Quote_Tick": lines}))
    assert len(ticks) == 5
    assert context.refused == {"wrong number of columns": 1}


def test_equity_trades(tmp_path: Path) -> None:
    path = write(tmp_path / "t.zip", **{"20131007_spy_Trade_Tick": "14400464,1674100,100,P,2000,0\n"})
    ticks, context = play(path)
    assert (ticks["kind"][0], ticks["price"][0], ticks["size"][0]) == (TRADE, 167.41, 100)
    assert context.symbols == ["SPY"]
    assert ticks["ts_event"][0] == NEW_YORK + 14_400_464 * 10**6


def test_the_member_of_an_unnamed_layout_tells_forex_from_equity(tmp_path: Path) -> None:
    lines = "43.142,1291.677,1292.033\r\n45.8521,1292.7,1292.1\r\n"
    ticks, context = play(write(tmp_path / "gold.zip", **{"20131007_xauusd_tick_quote": lines}))
    assert context.symbols == ["XAUUSD"]
    assert (ticks["ts_event"] - UTC).tolist() == [43_142_000, 45_852_100]
    assert same(ticks["bid"], [1291.677, 1292.7])
    assert same(ticks["ask"], [1292.033, 1292.1])
    assert same(ticks["bid_size"], [NAN, NAN])


@pytest.mark.parametrize(
    ("folders", "hours"),
    [("forex/fxcm", 5), ("forex/oanda", 0), ("cfd/oanda", 0), ("equity/usa", 4), ("future/comex", 0)],
)
def test_the_folders_of_lean_tell_the_zone(tmp_path: Path, folders: str, hours: int) -> None:
    path = write(tmp_path / folders / "tick" / "abc" / "20131007_quote.zip", **{"20131007_abc_tick_quote": "0,1,2\n"})
    ticks, _ = play(path)
    assert (ticks["ts_event"][0] - UTC) / 3_600e9 == hours
    assert ticks["bid"][0] == (0.0001 if "equity" in folders else 1)


def test_a_stated_zone_wins(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip", **{"20131007_eurusd_tick_quote": "0,1,2\n"})
    assert play(path, tz="Etc/GMT+5")[0]["ts_event"][0] == UTC + 5 * 3600 * 10**9


def test_each_expiry_is_an_instrument_and_they_merge_by_time(tmp_path: Path) -> None:
    path = write(
        tmp_path / "gc.zip",
        **{
            "20131007_gc_tick_trade_201310": "1,1313.8,1,usa,,0\n5,1313.9,2,usa,,0\n",
            "20131007_gc_tick_trade_20131227": "2,1315.8,3,usa,,0\n",
        },
    )
    ticks, context = play(path)
    assert [context.symbols[number] for number in ticks["instrument"]] == ["GC201310", "GC20131227", "GC201310"]
    assert same(ticks["price"], [1313.8, 1315.8, 1313.9])


def test_the_date_may_stand_in_the_name_of_the_zip_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "20131007_quote.zip", aig_Quote_Tick="0,1,1,0,0,P,1,0\n")
    assert play(path)[0]["ts_event"][0] == NEW_YORK


def test_a_zip_whose_date_cannot_be_told_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="date"):
        replay(write(tmp_path / "quote.zip", aig_Quote_Tick="0,1,1,0,0,P,1,0\n"))
    with pytest.raises(FeedError, match="20131399"):
        replay(write(tmp_path / "q.zip", **{"20131399_aig_Quote_Tick": "0,1,1,0,0,P,1,0\n"}))


def test_a_zip_of_something_else_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match="no recording"):
        replay(write(tmp_path / "q.zip", readme="hello"))


def test_a_zip_cut_short_stops_the_start(tmp_path: Path) -> None:
    path = write(tmp_path / "q.zip", **{"20131007_aig_Quote_Tick": "0,1,1,0,0,P,1,0\n" * 1000})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FeedError, match="cannot read"):
        replay(path)


def test_a_member_that_is_damaged_half_way_plays_up_to_there_and_the_others_go_on(tmp_path: Path) -> None:
    members = {
        f"20131007_{name}_Trade_Tick": "".join(f"{i},{10_000 + i * i % 977},{i},P,2000,0\n" for i in range(50_000))
        for name in ("aaa", "bbb")
    }
    path = write(tmp_path / "q.zip", **members)
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    # The middle of the first member.
    middle = info.header_offset + 200 + info.compress_size * 3 // 4
    raw[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(raw)
    ticks, context = play(path)
    assert context.refused["damaged file"] == 1
    by_symbol = {symbol: int((ticks["instrument"] == number).sum()) for number, symbol in enumerate(context.symbols)}
    assert by_symbol["BBB"] == 50_000
    assert 0 < by_symbol["AAA"] < 50_000
