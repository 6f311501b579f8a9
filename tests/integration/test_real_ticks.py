"""Real recordings, replayed over a real socket, held row by row against what the files say."""

from __future__ import annotations

import asyncio
import csv
import datetime
import gzip
import io
import json
import zipfile
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pytest
from websockets.asyncio.client import connect

from tests.integration.processes import TICKS_ONLY, server, stream_of
from tests.realdata import DATA, needs_data

pytestmark = needs_data

_BOUND = 100.0


def midnight(day: str, zone: str) -> int:
    """ns since the Unix epoch."""
    return int(datetime.datetime.strptime(day, "%Y%m%d").replace(tzinfo=ZoneInfo(zone)).timestamp()) * 10**9


def rows_of(path):
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as member:
        yield from csv.reader(io.TextIOWrapper(member))


def bac():
    """Equity quotes: one-sided rows, prices times 10,000, New York time; the other side is the last one known."""
    start = midnight("20131007", "America/New_York")
    bid = bid_size = ask = ask_size = 0.0
    for ms, b, bs, a, as_, *_ in rows_of(DATA / "lean/equity/usa/tick/bac/20131007_quote.zip"):
        if int(b):
            bid, bid_size = int(b) / 10_000, float(bs)
        if int(a):
            ask, ask_size = int(a) / 10_000, float(as_)
        yield "BAC", bid, bid_size, ask, ask_size, start + int(ms) * 10**6


def eurusd():
    """Foreign exchange: no sizes, UTC."""
    start = midnight("20140508", "UTC")
    for ms, bid, ask in rows_of(DATA / "lean/forex/oanda/tick/eurusd/20140508_quote.zip"):
        yield "EURUSD", float(bid), 0.0, float(ask), 0.0, start + int(ms) * 10**6


def btcusdt():
    """Binance futures bookTicker frames; T is when it happened, in ms."""
    with gzip.open(DATA / "binance_raw/usdm/btcusdt_20240808.gz", "rt") as lines:
        for line in lines:
            frame = json.loads(line.split(" ", 1)[1])
            if frame.get("stream", "").endswith("@bookTicker"):
                d = frame["data"]
                yield d["s"], float(d["b"]), float(d["B"]), float(d["a"]), float(d["A"]), d["T"] * 10**6


def told(times: list[int]) -> list[str]:
    """Times in ns since the Unix epoch as the wire has them."""
    return [f"{text}Z" for text in np.datetime_as_string(np.array(times, "M8[ns]")).tolist()]


@pytest.mark.parametrize(
    ("path", "speed", "expected", "count"),
    [
        ("lean/equity/usa/tick/bac/20131007_quote.zip", "3000", bac, 476_855),
        ("lean/forex/oanda/tick/eurusd/20140508_quote.zip", "10000", eurusd, 87_833),
        ("binance_raw/usdm/btcusdt_20240808.gz", "30", btcusdt, 66_089),
    ],
    ids=["BAC quotes", "EURUSD quotes", "BTCUSDT bookTicker"],
)
def test_what_arrives_and_what_is_told_as_a_gap_is_the_whole_file(path, speed, expected, count):
    async def take_all(url):
        """Every quote by sequence number, and every gap, until the last row has come."""
        quotes, gaps, trades = {}, [], {}
        async with connect(url, max_size=None) as ws, asyncio.timeout(_BOUND):
            await ws.send(json.dumps({"action": "subscribe", "quotes": ["*"], "trades": ["*"], "since": {"seq": 0}}))
            while len(quotes) + sum(b - a + 1 for a, b in gaps) < count:
                for message in orjson.loads(await ws.recv()):
                    if message["T"] == "q":
                        assert message["seq"] not in quotes
                        quotes[message["seq"]] = (
                            message["S"], message["bp"], message["bs"], message["ap"], message["as"], message["t"],
                        )  # fmt: skip
                    elif message["T"] == "t":
                        trades[message["seq"]] = message
                    elif message["T"] == "gap":
                        gaps.append((message["from"], message["to"]))
        return quotes, gaps, trades

    with server(*TICKS_ONLY, "--feed", f"replay:{DATA / path}?speed={speed}") as address:
        quotes, gaps, trades = asyncio.run(take_all(stream_of(address)))

    *columns, times = zip(*expected(), strict=True)
    rows = list(zip(*columns, told(times), strict=True))
    assert len(rows) == count
    if gaps:
        # Without trades in the file a quote's sequence number is its row.
        assert not trades
        arrived = {seq: rows[seq - 1] for seq in quotes}
        missing = set(range(1, count + 1)) - set(quotes)
        assert missing == {seq for a, b in gaps for seq in range(a, b + 1)}
        assert quotes == arrived
    else:
        assert [quotes[seq] for seq in sorted(quotes)] == rows
