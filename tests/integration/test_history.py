"""Snapshot and history, asked of a real server."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import json
import socket
import time
from contextlib import contextmanager

import pandas as pd
import pyarrow as pa
import pytest
from alpaca.data.historical import StockHistoricalDataClient
from alpaca.data.requests import (
    StockBarsRequest,
    StockLatestBarRequest,
    StockLatestQuoteRequest,
    StockLatestTradeRequest,
    StockQuotesRequest,
    StockSnapshotRequest,
    StockTradesRequest,
)
from alpaca.data.timeframe import TimeFrame, TimeFrameUnit
from websockets.asyncio.client import connect

from marketfeed.stream.encoding.rfc3339 import time_from_text
from tests.integration.http import ARROW, get, pages, wait_for_ticks, wait_until_played
from tests.integration.processes import BOUND, python, server, status, stream_of
from tests.integration.test_real_ticks import midnight, rows_of
from tests.realdata import DATA, needs_data

IBM = DATA / "lean/equity/usa/tick/ibm"
DAY = "20131007"


@pytest.fixture(scope="module")
def ibm():
    """All quotes and trades of a day, under the name that alpaca-py asks for."""
    with server("--feed", f"stocks=replay:{IBM}?speed=max") as address:
        wait_until_played(address, "stocks")
        yield address


@pytest.fixture(scope="module")
def trades():
    """The rows of the file: time in ns, price, size."""
    start = midnight(DAY, "America/New_York")
    rows = [
        (start + int(float(ms) * 10**6), int(price) / 10_000, float(size))
        for ms, price, size, *_ in rows_of(IBM / f"{DAY}_trade.zip")
    ]
    return pd.DataFrame(rows, columns=["t", "p", "s"])


def alpaca(address):
    return StockHistoricalDataClient("any key", "any secret", url_override=address)


@needs_data
def test_alpaca_py_gets_every_trade_of_the_file_over_pages(ibm, trades):
    got = alpaca(ibm).get_stock_trades(StockTradesRequest(symbol_or_symbols=["IBM", "NONE"]))
    assert list(got.data) == ["IBM"]
    assert [(trade.price, trade.size) for trade in got["IBM"]] == list(zip(trades.p, trades.s, strict=True))
    assert [round(trade.timestamp.timestamp() * 1000) for trade in got["IBM"]] == (trades.t // 10**6).tolist()


@needs_data
def test_alpaca_py_gets_quotes_between_two_times_from_either_end(ibm):
    client = alpaca(ibm)
    noon = datetime.datetime(2013, 10, 7, 16, tzinfo=datetime.UTC)
    until = noon + datetime.timedelta(minutes=30)
    up = client.get_stock_quotes(StockQuotesRequest(symbol_or_symbols="IBM", start=noon, end=until))["IBM"]
    asked = StockQuotesRequest(symbol_or_symbols="IBM", start=noon, end=until, sort="desc", limit=100)
    down = client.get_stock_quotes(asked)["IBM"]
    assert len(up) > 1000
    assert all(noon <= quote.timestamp <= until for quote in up)
    assert down == up[: -len(down) - 1 : -1]
    assert len(down) == 100


@needs_data
@pytest.mark.parametrize(
    ("timeframe", "rule"),
    [
        (TimeFrame(1, TimeFrameUnit.Minute), "1min"),
        (TimeFrame(1, TimeFrameUnit.Hour), "1h"),
        (TimeFrame(1, TimeFrameUnit.Day), "1D"),
    ],
    ids=lambda value: str(value),
)
def test_alpaca_py_gets_the_bars_that_pandas_makes_of_the_file(ibm, trades, timeframe, rule):
    bars = alpaca(ibm).get_stock_bars(StockBarsRequest(symbol_or_symbols="IBM", timeframe=timeframe))["IBM"]
    got = pd.DataFrame([dict(bar) for bar in bars])
    frame = trades.assign(turnover=trades.p * trades.s).set_index(pd.to_datetime(trades.t, utc=True))
    # Of trades of one time the order of the file counts, which a stable sort keeps.
    groups = frame.sort_index(kind="stable").resample(rule)
    expected = groups["p"].ohlc().dropna()
    assert got["timestamp"].tolist() == expected.index.tolist()
    assert got[["open", "high", "low", "close"]].to_numpy().tolist() == expected.to_numpy().tolist()
    counts = groups["p"].count()
    assert got["trade_count"].tolist() == counts[counts > 0].tolist()
    assert got["volume"].to_numpy() == pytest.approx(groups["s"].sum()[counts > 0].to_numpy())
    vwap = (groups["turnover"].sum() / groups["s"].sum())[counts > 0]
    assert got["vwap"].to_numpy() == pytest.approx(vwap.to_numpy())


@needs_data
def test_alpaca_py_gets_the_latest_and_a_snapshot(ibm, trades):
    client = alpaca(ibm)
    quote = client.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols="IBM"))["IBM"]
    trade = client.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols="IBM"))["IBM"]
    bar = client.get_stock_latest_bar(StockLatestBarRequest(symbol_or_symbols="IBM"))["IBM"]
    snapshot = client.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=["IBM", "NONE"]))
    assert trade.price == trades.p.iloc[-1]
    assert (bar.close, bar.timestamp) == (trade.price, trade.timestamp.replace(second=0, microsecond=0))
    assert list(snapshot) == ["IBM"]
    told = snapshot["IBM"]
    assert (told.latest_quote, told.latest_trade, told.minute_bar) == (quote, trade, bar)
    assert (told.daily_bar.high, told.daily_bar.low) == (trades.p.max(), trades.p.min())
    assert (told.daily_bar.trade_count, told.previous_daily_bar) == (len(trades), None)


@needs_data
@pytest.mark.parametrize(
    ("path", "key", "parameters"),
    [
        ("/v2/stocks/quotes", "quotes", {"symbols": "IBM", "limit": 10_000}),
        ("/v2/stocks/trades", "trades", {"symbols": "*", "limit": 777, "sort": "desc"}),
        ("/v2/stocks/bars", "bars", {"symbols": "IBM", "timeframe": "30Sec", "start": "2013-10-07T14:00:00Z"}),
        ("/v2/stocks/bars", "bars", {"symbols": "NONE", "timeframe": "1Min"}),
        ("/v2/stocks/quotes/latest", "quotes", {"symbols": "IBM"}),
        ("/v2/stocks/bars/latest", "bars", {"symbols": "IBM"}),
    ],
)
def test_arrow_says_what_json_says(ibm, path, key, parameters):
    told = get(ibm, path, **parameters).json
    reply = get(ibm, path, {"Accept": ARROW}, **parameters)
    assert reply.headers["Content-Type"] == ARROW
    table = pa.ipc.open_stream(reply.body).read_all()
    rest = {name.decode(): json.loads(value) for name, value in table.schema.metadata.items()}
    assert rest == {name: value for name, value in told.items() if name != key}
    items = [
        {"S": symbol, **item}
        for symbol, of in told[key].items()
        for item in (of if isinstance(of, list) else [of])
    ]  # fmt: skip
    assert table.num_rows == len(items)
    # What only Alpaca knows is not in the table; `c` is the close of a bar and the conditions of all else.
    unknown = {"x", "z", "ax", "bx"} | (set() if key == "bars" else {"c"})
    for row, item in zip(table.to_pylist(), items, strict=True):
        assert row.pop("t").value == time_from_text(item.pop("t"))
        assert row.pop("from", None) is None
        # What JSON writes as 0 may be missing.
        numbers = {name: 0 if value is None else value for name, value in row.items()}
        assert numbers == {name: value for name, value in item.items() if name not in unknown}


@needs_data
def test_a_snapshot_as_arrow_has_a_struct_for_each_part(ibm):
    told = get(ibm, "/v2/stocks/snapshots", symbols="IBM")
    reply = get(ibm, "/v2/stocks/snapshots", {"Accept": ARROW}, symbols="IBM")
    (row,) = pa.ipc.open_stream(reply.body).read_all().to_pylist()
    assert row.pop("S") == "IBM"
    parts = told.json["IBM"]
    assert row.keys() == parts.keys()
    assert row["prevDailyBar"] is None
    assert parts["prevDailyBar"] is None
    for name, numbers in (("latestTrade", "ps"), ("dailyBar", "ohlcvn"), ("minuteBar", "ohlcvn")):
        assert [row[name][number] for number in numbers] == [parts[name][number] for number in numbers]
    assert (reply.headers["Marketfeed-Seq"], reply.headers["Marketfeed-Epoch"]) == (
        told.headers["Marketfeed-Seq"], told.headers["Marketfeed-Epoch"],
    )  # fmt: skip


@needs_data
def test_one_symbol_may_stand_in_the_path(ibm):
    listed, one = get(ibm, "/v2/stocks/trades", symbols="IBM").json, get(ibm, "/v2/stocks/IBM/trades").json
    assert one["trades"] == listed["trades"]["IBM"]
    assert (one["symbol"], get(ibm, "/v2/stocks/IBM/trades", symbols="IBM").status) == ("IBM", 400)
    latest = get(ibm, "/v2/stocks/IBM/trades/latest").json
    assert latest["trade"] == get(ibm, "/v2/stocks/trades/latest", symbols="IBM").json["trades"]["IBM"]
    snapshot = get(ibm, "/v2/stocks/IBM/snapshot").json
    assert (snapshot["symbol"], snapshot["latestTrade"]) == ("IBM", latest["trade"])
    assert get(ibm, "/v2/stocks/I*/trades").status == 400
    assert get(ibm, "/v2/stocks/NONE/quotes/latest").json["quote"] is None
    assert get(ibm, "/v2/stocks/NONE/snapshot").json["latestTrade"] is None


SMALL = ("--ring-ticks", "4096", "--feed", "sim?symbols=50&rate=20000&seed=1")


def test_pages_of_a_market_that_goes_on_hold_each_tick_once_or_tell_its_loss():
    with server(*SMALL) as address:
        wait_for_ticks(address, 6000)
        for sort in ("asc", "desc"):
            told = pages(address, "/v2/sim/quotes", symbols="*", limit=500, sort=sort)
            seqs = [item["seq"] for page in told for of in page["quotes"].values() for item in of]
            assert len(seqs) == len(set(seqs))
            assert len({page["seq"] for page in told}) == 1
            gaps = [page["gap"] for page in told if not page["complete"]]
            assert gaps
            lost = {seq for gap in gaps for seq in range(gap["from"], gap["to"] + 1)}
            assert not lost & set(seqs)
            # The beginning is gone; what came in between the gaps are the ticks of the other kind.
            assert gaps[0 if sort == "asc" else -1]["from"] == 1
            assert all("gap" not in page for page in told if page["complete"])


def test_a_subscription_goes_on_where_history_ends():
    with server("--feed", "sim?symbols=5&rate=2000&seed=1") as address:
        wait_for_ticks(address, 1000)
        told = pages(address, "/v2/sim/trades", symbols="*", limit=10_000)
        quotes = pages(address, "/v2/sim/quotes", symbols="*", limit=10_000)
        known = {
            item["seq"]: item
            for page in (*told, *quotes)
            for of in {**page.get("trades", {}), **page.get("quotes", {})}.values()
            for item in of
        }
        position = {"epoch": told[-1]["epoch"], "seq": told[-1]["seq"]}
        assert set(range(1, position["seq"] + 1)) <= known.keys()

        async def following():
            async with connect(stream_of(address)) as ws, asyncio.timeout(BOUND):
                command = {"action": "subscribe", "quotes": ["*"], "trades": ["*"], "since": position}
                await ws.send(json.dumps(command))
                while True:
                    for message in json.loads(await ws.recv()):
                        if message["T"] in "qt":
                            return message["seq"]

        assert asyncio.run(following()) == position["seq"] + 1


def test_a_token_is_good_for_its_request_in_the_servers_life_only():
    with server("--feed", "sim?symbols=5") as address:
        wait_for_ticks(address, 100)
        token = get(address, "/v2/sim/quotes", symbols="*", limit=1).json["next_page_token"]
        assert get(address, "/v2/sim/quotes", symbols="*", limit=9, page_token=token).status == 200
        other = get(address, "/v2/sim/trades", symbols="*", limit=1, page_token=token)
        assert (other.status, other.json["message"]) == (
            400, "page_token is of another request: only limit may differ from the page before",
        )  # fmt: skip
        assert get(address, "/v2/sim/quotes", symbols="*", page_token="x").status == 400
    with server("--feed", "sim?symbols=5") as address:
        wait_for_ticks(address, 100)
        expired = get(address, "/v2/sim/quotes", symbols="*", limit=1, page_token=token)
        assert (expired.status, "another life of the server" in expired.json["message"]) == (410, True)


def test_instruments_are_listed_by_glob_page_by_page():
    with server("--feed", "sim?symbols=30", "--feed", "other=sim?symbols=3") as address:
        told = pages(address, "/api/symbols", match="SIM-000?", limit=4, feed="sim")
        assert [row["symbol"] for page in told for row in page["symbols"]] == [f"SIM-000{n}" for n in range(10)]
        assert [len(page["symbols"]) for page in told] == [4, 4, 2]
        assert {row["feed"] for row in get(address, "/api/symbols", match="SIM-0001").json["symbols"]} == {
            "sim",
            "other",
        }
        table = pa.ipc.open_stream(get(address, "/api/symbols", {"Accept": ARROW}, match="other:*").body).read_all()
        assert table.column("symbol").to_pylist() == ["SIM-0000", "SIM-0001", "SIM-0002"]
        assert get(address, "/api/symbols", feed="none").status == 404


def test_where_there_are_keys_only_they_open():
    with server("--feed", "sim", "--key", "one:two", "--key", "lone-token") as address:
        paths = ["/v2/sim/snapshots?symbols=A", "/v2/sim/quotes?symbols=A", "/api/symbols"]
        for path, headers in itertools.product(
            paths,
            (
                {"APCA-API-KEY-ID": "one", "APCA-API-SECRET-KEY": "two"},
                {"Authorization": "Bearer lone-token"},
                {"Authorization": "Basic b25lOnR3bw=="},
            ),
        ):
            assert get(address, path, headers).status == 200
        for path in paths:
            missing = get(address, path)
            assert (missing.status, missing.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert "authentication is needed" in missing.json["message"]
            wrong = get(address, path, {"APCA-API-KEY-ID": "one", "APCA-API-SECRET-KEY": "three"})
            assert (wrong.status, "forbidden" in wrong.json["message"]) == (403, True)


def test_what_cannot_be_answered_is_told_in_alpacas_form():
    with server("--feed", "sim") as address:
        unknown = get(address, "/v2/none/quotes", symbols="A")
        assert (unknown.status, unknown.json) == (404, {"message": "there is no feed 'none'"})
        bad = get(address, "/v2/sim/bars", symbols="A", timeframe="1Week")
        assert (bad.status, bad.headers["Content-Type"]) == (400, "application/json")
        assert bad.json["message"].startswith("timeframe is ")
        assert get(address, "/v2/sim/quotes").json == {"message": "missing parameter `symbols`"}
        assert get(address, "/v2/sim/quotes?symbols=%ff").json == {"message": "parameters are UTF-8"}


def test_arrow_may_be_one_of_several_that_are_accepted():
    with server("--feed", "sim") as address:
        for accept, wanted in (
            (f"{ARROW}, application/json;q=0.5", ARROW),
            (f"{ARROW};q=0.5, application/json", "application/json"),
            ("*/*", "application/json"),
        ):
            reply = get(address, "/v2/sim/quotes", {"Accept": accept}, symbols="*")
            assert reply.headers["Content-Type"] == wanted


WITHOUT_ARROW = "import sys; sys.modules['pyarrow'] = None; from marketfeed.cli import main; main()"


@contextmanager
def server_without_pyarrow():
    arguments = ("serve", "--port", "0", "--log-level", "warning", "--feed", "sim")
    with python("-c", WITHOUT_ARROW, *arguments) as running:
        yield running.stdout.readline().split()[-1]
        running.terminate()


def test_without_pyarrow_arrow_is_not_acceptable_and_json_is():
    with server_without_pyarrow() as address:
        refused = get(address, "/v2/sim/quotes", {"Accept": ARROW}, symbols="*")
        assert (refused.status, "needs pyarrow" in refused.json["message"]) == (406, True)
        assert get(address, "/v2/sim/quotes", symbols="*").status == 200


def test_a_client_that_does_not_take_its_answers_is_cut_and_has_its_place_until_then():
    options = ("--max-requests", "1", "--write-timeout", "2", "--ring-ticks", "32768")
    with server(*options, "--feed", "sim?rate=100000") as address, socket.socket() as stalled:
        wait_for_ticks(address, 32_768)
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = address.removeprefix("http://").split(":")
        stalled.connect((host, int(port)))
        question = f"GET /v2/sim/quotes?symbols=*&limit=10000 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        # More than all buffers on the way hold.
        stalled.sendall(question * 20)
        replies = []
        end = time.monotonic() + BOUND
        while status(address)["history"]["cut"] == 0:
            assert time.monotonic() < end
            replies.append(get(address, "/v2/sim/quotes/latest", symbols="SIM-0000"))
        refused = [reply for reply in replies if reply.status == 429]
        assert refused
        assert refused[0].json == {"message": "too many requests at a time"}
        assert refused[0].headers["Retry-After"] == "1"
        while get(address, "/v2/sim/quotes/latest", symbols="SIM-0000").status != 200:
            assert time.monotonic() < end


def test_bars_for_which_there_is_no_time_are_refused_and_pages_end_early():
    options = ("--request-timeout", "0.1", "--ring-ticks", "4194304", "--feed", "sim?rate=1000000&symbols=200")
    with server(*options) as address:
        wait_for_ticks(address, 3_000_000)
        given_up = get(address, "/v2/sim/bars", symbols="*", timeframe="1Min")
        assert (given_up.status, given_up.json["message"]) == (503, "takes longer than 0.1 s: ask for less")
        short = get(address, "/v2/sim/quotes", symbols="NONE,SIM-000?", end="2000-01-01").json
        assert (short["quotes"], short["complete"]) == ({}, True)
        assert short["next_page_token"] is not None


def test_of_a_recording_that_plays_in_a_loop_only_what_is_known_to_be_whole_is_called_complete(tmp_path):
    rows = [f"{1_700_006_400_000 + n * 1000},AAA,{100 + n % 7},5" for n in range(3000)]
    (tmp_path / "trades.csv").write_text("\n".join(["timestamp,symbol,price,size", *rows, ""]))
    late = "2023-11-15T00:49:00Z"  # the last minute of the recording has it, in each pass
    with server(
        "--feed", f"toy=replay:{tmp_path / 'trades.csv'}?speed=2000&loop=true", "--ring-ticks", "1024"
    ) as address:
        wait_for_ticks(address, 1500)
        first = get(address, "/v2/toy/trades", symbols="AAA", start=late).json
        assert first["complete"] or first["seq"] > 2900
        wait_for_ticks(address, 4500)
        again = get(address, "/v2/toy/trades", symbols="AAA", start=late).json
        assert not again["complete"]
        assert again["gap"]["from"] == 1
        assert again["gap"]["to"] > 3000 - 60
        bars = get(address, "/v2/toy/bars", symbols="AAA", timeframe="1Min").json
        assert (bars["bars"], bars["complete"]) == ({}, False)
