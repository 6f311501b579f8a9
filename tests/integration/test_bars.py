"""Bars out of a real server, over real sockets: of real trades, through cuts, for alpaca-py."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from alpaca.data.live import StockDataStream
from alpaca.data.models import Bar as AlpacaBar
from websockets.asyncio.client import connect

import marketfeed
from marketfeed.client import Bar, Position
from tests.integration.clients import alpaca_running, quickly, run
from tests.integration.processes import BOUND, Proxy, server, status, stream_of
from tests.realdata import DATA, needs_data
from tests.unit.feeds.replay_helper import play
from tests.unit.model.test_bars import by_pandas

TRADES = "lean/equity/usa/tick/{}/20131007_trade.zip"


def wanted_of(symbol: str, seconds: int = 60) -> pd.DataFrame:
    ticks, _ = play(DATA / TRADES.format(symbol))
    return by_pandas(ticks["ts_event"], ticks["price"], ticks["size"], seconds)


def assert_equal(bars: list[Bar], wanted: pd.DataFrame) -> None:
    assert [bar.t for bar in bars] == wanted.index.as_unit("ns").asi8.tolist()
    for column in ("open", "high", "low", "close", "volume", "count"):
        assert [getattr(bar, column) for bar in bars] == wanted[column].tolist(), column
    assert [bar.vwap for bar in bars] == pytest.approx(wanted["vwap"].tolist(), rel=1e-12)


@needs_data
def test_the_bars_of_two_real_days_are_those_of_pandas_whatever_the_speed() -> None:
    """Two feeds at once, each of its own pace; the last bars come when the recordings end."""
    wanted = {symbol: wanted_of(symbol) for symbol in ("ibm", "spy")}

    async def main(url: str) -> list[Bar]:
        bars: list[Bar] = []
        async with marketfeed.connect(url) as feed:
            await feed.subscribe(bars=["*"], updated_bars=["*"], since=Position(0))
            while len(bars) < sum(map(len, wanted.values())):
                bars += [message for message in await feed.take() if isinstance(message, Bar)]
        return bars

    feeds = [f"{s}=replay:{DATA / TRADES.format(s)}?speed={v}" for s, v in (("ibm", "20000"), ("spy", "max"))]
    with server("--feed", feeds[0], "--feed", feeds[1]) as address:
        bars = run(lambda: main(stream_of(address)))
        told = status(address)["bars"]
    for symbol, table in wanted.items():
        assert_equal([bar for bar in bars if bar.feed == symbol], table)
    assert {type(bar) for bar in bars} == {Bar}
    assert {bar.source for bar in bars} == {"trades"}
    assert (told["bars"], told["late"], told["lost"]) == (len(bars), 0, 0)


def test_over_the_binary_encoding_bars_come_as_records() -> None:
    async def main(url: str) -> None:
        async with marketfeed.connect(url, encoding="binary") as feed:
            await feed.subscribe(bars=["SIM-0000"], bar_seconds=1)
            async for batch in feed.batches(max_rows=3, timeout=20):
                assert batch.symbols.tolist() == ["SIM-0000"] * len(batch)
                for row in batch.bars:
                    assert row["low"] <= row["open"] <= row["high"]
                    assert (row["seconds"], row["ts_event"] % 1_000_000_000) == (1, 0)
            bar = await anext(feed)
            assert isinstance(bar, Bar)
            assert (bar.symbol, bar.seconds, bar.source) == ("SIM-0000", 1, "trades")

    with server("--feed", "sim?symbols=3&rate=2000") as address:
        run(lambda: main(stream_of(address)))


@needs_data
def test_through_cuts_every_bar_comes_once() -> None:
    wanted = wanted_of("ibm")

    async def main(address: str) -> list[Bar]:
        bars: list[Bar] = []
        async with Proxy(int(address.split(":")[2])) as proxy, quickly(proxy.url) as feed:
            await feed.subscribe(bars=["IBM"], trades=["IBM"], since=Position(0))
            cut_at = 40
            while len(bars) < len(wanted):
                bars += [message for message in await feed.take() if isinstance(message, Bar)]
                if len(bars) >= cut_at:
                    proxy.cut()
                    cut_at = len(bars) + 40
            assert feed.reconnects >= 2
        return bars

    with server("--feed", f"replay:{DATA / TRADES.format('ibm')}?speed=15000") as address:
        assert_equal(run(lambda: main(address)), wanted)


LATE = """time,symbol,price,size
2024-05-01T12:00:10Z,A,10,1
2024-05-01T12:00:50Z,A,11,2
2024-05-01T12:01:10Z,A,12,1
2024-05-01T12:02:10Z,A,13,1
2024-05-01T12:00:30Z,A,20,4
2024-05-01T12:03:10Z,A,14,1
"""


@pytest.fixture
def late(tmp_path: Path) -> str:
    """A recording of whose trades one comes two minutes late; again and again."""
    path = tmp_path / "late.csv"
    path.write_text(LATE)
    return f"iex=replay:{path}?speed=60&loop=true"


def test_a_late_trade_amends_its_bar_and_a_recording_that_plays_again_makes_its_bars_again(late: str) -> None:
    async def main(url: str) -> list[dict[str, Any]]:
        bars: list[dict[str, Any]] = []
        async with connect(url) as ws, asyncio.timeout(BOUND):
            command = {"bars": ["*"], "updatedBars": ["*"], "since": {"seq": 0}}
            await ws.send(json.dumps({"action": "subscribe", **command}))
            while len(bars) < 10:
                bars += [message for message in json.loads(await ws.recv()) if message["T"] in "bu"]
        return bars[:10]

    with server("--feed", late) as address:
        bars = asyncio.run(main(address.replace("http", "ws", 1) + "/v2/iex"))
    seqs = [bar.pop("seq") for bar in bars]
    assert seqs == sorted(set(seqs))
    assert bars[5:] == bars[:5]
    told, (again,) = [bar for bar in bars[:5] if bar["T"] == "b"], [bar for bar in bars[:5] if bar["T"] == "u"]
    assert [bar["t"][11:19] for bar in told] == ["12:00:00", "12:01:00", "12:02:00", "12:03:00"]
    first = told[0]
    assert bars.index(again) > bars.index(first)
    assert first == {
        "T": "b", "S": "A", "t": "2024-05-01T12:00:00.000000000Z",
        "o": 10.0, "h": 11.0, "l": 10.0, "c": 11.0, "v": 3.0, "n": 2, "vw": 32 / 3,
    }  # fmt: skip
    assert again == {**first, "T": "u", "h": 20.0, "v": 7.0, "n": 3, "vw": 112 / 7}


def test_other_lengths_come_while_they_are_wanted_and_quotes_make_bars_where_there_are_no_trades() -> None:
    async def main(url: str) -> tuple[list[Bar], list[Bar]]:
        async with marketfeed.connect(url) as feed:
            told = await feed.subscribe(bars=["*"], bar_seconds=1)
            assert (told.bars, told.rules[0].bar_seconds) == (["*"], 1)
            bars: dict[str, list[Bar]] = {"sim": [], "fx": []}
            while min(map(len, bars.values())) < 6:
                for message in await feed.take():
                    if isinstance(message, Bar):
                        bars[message.feed].append(message)
            return bars["sim"], bars["fx"]

    quotes = DATA / "lean/forex/oanda/tick/eurusd/20140508_quote.zip"
    with server("--feed", "sim?symbols=3&rate=2000", "--feed", f"fx=replay:{quotes}?speed=200") as address:
        live, quoted = run(lambda: main(stream_of(address)))
    assert {bar.seconds for bar in live + quoted} == {1}
    assert {bar.source for bar in live} == {"trades"}
    assert {bar.source for bar in quoted} == {"quotes"}
    assert {bar.volume for bar in quoted} == {0}
    assert all(bar.low <= bar.open <= bar.high and bar.low <= bar.close <= bar.high for bar in live + quoted)
    for symbol in {bar.symbol for bar in live}:
        times = [bar.t for bar in live if bar.symbol == symbol]
        assert all(time % 1_000_000_000 == 0 for time in times)
        assert times == sorted(set(times))


def test_alpaca_py_unmodified_gets_typed_bars_and_updated_bars(late: str) -> None:
    async def gather(url: str) -> tuple[list[AlpacaBar], list[AlpacaBar]]:
        stream = StockDataStream("any key", "any secret", url_override=url)
        got: tuple[list[AlpacaBar], list[AlpacaBar]] = ([], [])
        enough = asyncio.Event()

        async def on_bar(bar: AlpacaBar) -> None:
            got[0].append(bar)
            if len(got[0]) > 8 and len(got[1]) > 1:
                enough.set()

        async def on_updated_bar(bar: AlpacaBar) -> None:
            got[1].append(bar)

        stream.subscribe_bars(on_bar, "A")
        stream.subscribe_updated_bars(on_updated_bar, "A")
        async with alpaca_running(stream):
            await enough.wait()
        return got

    with server("--feed", late) as address:
        bars, updated = asyncio.run(gather(address.replace("http", "ws", 1) + "/v2/iex"))
    assert all(type(bar) is AlpacaBar and bar.symbol == "A" for bar in bars + updated)
    noon = [bar for bar in bars if bar.timestamp == pd.Timestamp("2024-05-01T12:00Z")]
    # Where the late trade is read together with what ends the minute, there is only the bar with it.
    told = {(b.open, b.high, b.low, b.close, b.volume, b.trade_count) for b in noon}
    assert {(10, 11, 10, 11, 3, 2)} <= told <= {(10, 11, 10, 11, 3, 2), (10, 20, 10, 11, 7, 3)}
    assert {(b.timestamp, b.high, b.volume, b.trade_count, b.vwap) for b in updated} == {
        (pd.Timestamp("2024-05-01T12:00Z").to_pydatetime(), 20, 7, 3, 16)
    }
