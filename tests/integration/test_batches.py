"""Records and batches over real connections: nothing lost, nothing twice, whatever happens to the connection."""

import contextlib
import json
import random
import time

import numpy as np
import pytest
from websockets.asyncio.client import connect as raw_connect

import marketfeed
from marketfeed.client import Batch, CommandError, ConnectionRefused, Gap, Position, Quote, Trade
from marketfeed.model import QUOTE, TRADE
from marketfeed.stream.encoding.binary import read_frame
from tests.integration.clients import HELLO, free_port, quickly, run, seqs, until
from tests.integration.processes import BOUND, TICKS_ONLY, Proxy, fake, server, stream_of
from tests.realdata import DATA, needs_data


def numbers(batches: list[Batch]) -> list[int]:
    return [seq for batch in batches for seq in batch.ticks["seq"].tolist()]


@pytest.mark.parametrize("how", ["query", "subprotocol"])
def test_on_the_wire_messages_are_text_and_ticks_are_records_behind_their_instruments(how) -> None:
    async def main(url: str) -> None:
        asked = {"subprotocols": ["marketfeed.binary"]} if how == "subprotocol" else {}
        async with raw_connect(url + ("?encoding=binary" if how == "query" else ""), **asked) as socket:
            await socket.send(json.dumps({"action": "subscribe", "quotes": ["SIM-000*"], "since": {"seq": 0}}))
            told: dict[int, str] = {}
            kinds = []
            while len(kinds) < 6:
                frame = await socket.recv()
                if isinstance(frame, str):
                    (message,) = json.loads(frame)
                    kinds.append(message["T"])
                    told |= {each["id"]: (each["S"], each["f"]) for each in message.get("instruments", ())}
                else:
                    ticks = read_frame(frame)
                    kinds.append("ticks")
                    assert set(ticks["instrument"].tolist()) <= told.keys()
                    assert (ticks["kind"] == QUOTE).all()
                    assert (ticks["ts_recv"] >= ticks["ts_event"]).all()
            assert kinds[:4] == ["success", "subscription", "instruments", "ticks"]
            assert sorted(told.values()) == [(f"SIM-000{n}", "sim") for n in range(10)]

    with server(*TICKS_ONLY, "--feed", "sim?symbols=50&rate=2000") as address:
        run(lambda: main(stream_of(address)))


def test_batches_go_from_the_past_into_the_present_without_a_seam() -> None:
    async def main(url: str) -> None:
        async with marketfeed.connect(url, encoding="binary") as feed:
            told = await feed.subscribe(quotes=["*"], trades=["*"], since=Position(0))
            assert told.recovered is True
            batches = [batch async for batch in feed.batches(max_rows=20_000, batch_rows=700)]
            assert numbers(batches) == list(range(1, 20_001))
            assert max(map(len, batches)) <= 700
            assert not any(batch.gaps for batch in batches)
            assert len({id(batch.instruments) for batch in batches}) == 1
            assert batches[0].instruments.epoch == told.epoch
            assert {name.split("-")[0] for name in batches[0].symbols} == {"SIM"}
            # What was not taken in batches comes as messages, and the other way round.
            assert (await until(feed, 20_100))[0].seq == 20_001
            behind = [batch async for batch in feed.batches(max_rows=100)]
            assert numbers(behind) == list(range(20_101, 20_201))

    with server(*TICKS_ONLY, "--feed", "sim?symbols=20&rate=20000&seed=3") as address:
        run(lambda: main(stream_of(address)))


@pytest.mark.parametrize("url", ["/stream", "/v2/sim"])
def test_the_same_ticks_come_as_records_and_as_json(url) -> None:
    async def main(address: str) -> None:
        url_of = stream_of(address).removesuffix("/stream") + url
        got = []
        for encoding in ("json", "binary"):
            async with marketfeed.connect(url_of, encoding=encoding) as feed:
                await feed.subscribe(quotes=["*"], trades=["*"], since=Position(0))
                got.append(await until(feed, 3000))
                await feed.subscribe(quotes=["*"], trades=["*"], since=Position(0))
                tables = [batch.to_pandas() async for batch in feed.batches(max_rows=3000, batch_rows=3000)]
                got.append(len(tables))
        assert [repr(m) for m in got[0][:3000]] == [repr(m) for m in got[2][:3000]]
        assert {type(m) for m in got[2]} == {Quote, Trade}

    with server(*TICKS_ONLY, "--feed", "sim?symbols=20&rate=5000&seed=3") as address:
        run(lambda: main(address))


def test_a_notebook_cell_ends_after_so_many_rows_or_so_many_seconds() -> None:
    with server(*TICKS_ONLY, "--feed", "sim?symbols=5&rate=20000") as address:
        with marketfeed.connect_sync(stream_of(address), encoding="binary") as feed:
            feed.subscribe(quotes=["*"], trades=["*"], since=Position(0))
            first = next(feed)
            assert first.seq == 1
            batches = list(feed.batches(max_rows=10_000, timeout=BOUND))
            assert numbers(batches) == list(range(2, 10_002))
            begun = time.monotonic()
            for batch in feed.batches(timeout=0.3):
                assert len(batch)
            assert 0.3 <= time.monotonic() - begun < BOUND
            feed.unsubscribe(quotes=["*"], trades=["*"])
            list(feed.batches(timeout=0.1))  # what was on its way
            assert list(feed.batches(timeout=0.1)) == []
            assert list(feed.batches(max_rows=0)) == []
            with pytest.raises(ValueError, match="max_rows"):
                feed.batches(max_rows=-1)
        assert list(feed.batches()) == []


def test_batches_of_a_json_connection_hold_the_same_numbers() -> None:
    with server(*TICKS_ONLY, "--feed", "sim?symbols=5&rate=5000") as address:
        tables = []
        for encoding in ("json", "binary"):
            with marketfeed.connect_sync(stream_of(address), encoding=encoding) as feed:
                feed.subscribe(quotes=["*"], trades=["*"], since=Position(0))
                batches = list(feed.batches(max_rows=2000))
                assert numbers(batches) == list(range(1, 2001))
                ticks = np.concatenate([batch.ticks for batch in batches])
                symbols = np.concatenate([batch.symbols for batch in batches])
                tables.append((ticks, symbols.tolist()))
        (a, a_symbols), (b, b_symbols) = tables
        assert a_symbols == b_symbols
        for column in ("ts_event", "kind", "bid", "bid_size", "ask", "ask_size", "price", "size"):
            np.testing.assert_array_equal(a[column], b[column])


def test_twenty_cuts_lose_and_repeat_nothing_in_batches() -> None:
    """Two subscriptions of a client that is cut off again and again, against the ring's own numbers."""
    rng = random.Random(7)

    async def main(address: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(Proxy(int(address.split(":")[2])))
            feed = await stack.enter_async_context(quickly(proxy.url, encoding="binary"))
            await feed.subscribe(quotes=["SIM-*"], since=Position(0))
            await feed.subscribe(trades=["*"], since=Position(0))
            got: dict[int, list[int]] = {QUOTE: [], TRADE: []}
            cuts, after = 0, 0
            async for batch in feed.batches():
                assert batch.gaps == ()
                assert all(batch.instruments[i][1] == "sim" for i in np.unique(batch.ticks["instrument"]))
                got[QUOTE] += batch.quotes["seq"].tolist()
                got[TRADE] += batch.trades["seq"].tolist()
                after -= len(batch)
                if cuts == feed.reconnects and after <= 0:
                    if cuts == 20:
                        break
                    proxy.cut()
                    cuts += 1
                    after = rng.randrange(2000)
            end = min(got[QUOTE][-1], got[TRADE][-1])
            assert sorted(seq for kind in got.values() for seq in kind if seq <= end) == list(range(1, end + 1))
            assert all(mine == sorted(mine) for mine in got.values())

    with server(*TICKS_ONLY, "--feed", "sim?symbols=50&rate=20000&seed=5") as address:
        run(lambda: main(address))


def test_throttled_batches_end_on_the_last_value_of_each_symbol_after_cuts() -> None:
    async def main(address: str) -> None:
        async with Proxy(int(address.split(":")[2])) as proxy, quickly(proxy.url, encoding="binary") as feed:
            await feed.subscribe(quotes=["*"], max_hz=50, snapshot=True)
            last: dict[int, int] = {}
            rows = 0
            async for batch in feed.batches(max_rows=2000):
                for i, seq in zip(batch.ticks["instrument"].tolist(), batch.ticks["seq"].tolist(), strict=True):
                    assert seq > last.get(i, 0)
                    last[i] = seq
                rows += len(batch)
                if rows // 400 > feed.reconnects:
                    proxy.cut()
            assert len(last) == 10

    with server(*TICKS_ONLY, "--feed", "sim?symbols=10&rate=3000&seed=2") as address:
        run(lambda: main(address))


def test_what_a_slow_consumer_lost_is_told_with_the_batch_behind_it() -> None:
    async def main(url: str) -> None:
        async with (
            marketfeed.connect(url, encoding="binary", buffer=100) as stalled,
            marketfeed.connect(url, encoding="binary") as healthy,
        ):
            told = await stalled.subscribe(quotes=["*"], trades=["*"])
            await healthy.subscribe(quotes=["*"], trades=["*"])
            assert told.seq is not None
            # Far more than the sockets and the ring hold.
            async for _ in healthy.batches(max_rows=600_000):
                pass
            head, gaps = told.seq, 0
            async for batch in stalled.batches():
                for gap in batch.gaps:
                    assert (gap.first, gap.reason) == (head + 1, "lapped")
                    assert gap.last is not None
                    gaps, head = gaps + 1, gap.last
                assert batch.ticks["seq"].tolist() == list(range(head + 1, head + len(batch) + 1))
                head += len(batch)
                if gaps and head > told.seq + 650_000:
                    break

    with server(*TICKS_ONLY, "--feed", "sim?symbols=50&rate=200000", "--ring-ticks", "16384") as address:
        run(lambda: main(stream_of(address)))


def test_a_new_life_of_the_server_is_a_gap_and_other_instruments() -> None:
    async def main() -> None:
        port = str(free_port())
        async with contextlib.AsyncExitStack() as stack:
            with server(*TICKS_ONLY, "--feed", "sim?symbols=5&rate=1000", at=port) as address:
                feed = await stack.enter_async_context(quickly(stream_of(address), encoding="binary"))
                told = await feed.subscribe(quotes=["*"], trades=["*"])
                batches = feed.batches()
                before = await anext(batches)
            with server(*TICKS_ONLY, "--feed", "other=sim?symbols=7&rate=1000", at=port):
                while not (batch := await anext(batches)).gaps:
                    assert batch.instruments is before.instruments
                (gap,) = batch.gaps
                assert (gap.reason, gap.epoch, gap.last) == ("epoch", told.epoch, None)
                batch = batch if len(batch) else await anext(batches)
                assert batch.ticks["seq"][0] == 1
                assert batch.instruments is not before.instruments
                assert set(batch.feeds) == {"other"}
                assert set(before.feeds) == {"sim"}

    run(main)


def test_records_are_always_whole() -> None:
    async def main(url: str) -> None:
        async with marketfeed.connect(url, encoding="binary") as feed:
            with pytest.raises(CommandError, match="whole records"):
                await feed.subscribe(quotes=["*"], fields=["bp"])
            await feed.subscribe(quotes=["*"])
            assert isinstance((await feed.take())[0], Quote)

    with server(*TICKS_ONLY, "--feed", "sim?symbols=5&rate=1000") as address:
        run(lambda: main(stream_of(address)))


def test_a_server_without_records_is_told_from_one_that_is_not_there() -> None:
    with fake([HELLO]) as other, pytest.raises(ConnectionRefused, match=r"does not serve marketfeed\.binary"):
        marketfeed.connect_sync(other.url, encoding="binary")
    with pytest.raises(ValueError, match="json, binary"):
        marketfeed.connect("ws://127.0.0.1/stream", encoding="msgpack")


def test_iterating_gives_messages_also_of_records() -> None:
    with (
        server(*TICKS_ONLY, "--feed", "sim?symbols=5&rate=5000") as address,
        marketfeed.connect_sync(stream_of(address), encoding="binary") as feed,
    ):
        feed.subscribe(quotes=["*"], trades=["*"], since=Position(0), heartbeat=0.1)
        got = []
        for message in feed:
            got.append(message)
            if getattr(message, "seq", 0) >= 3000:
                break
    assert not any(isinstance(message, Gap) for message in got)
    assert seqs(got)[:3000] == list(range(1, 3001))
    assert all(m.t > 0 and m.feed == "sim" for m in got if isinstance(m, Quote | Trade))


@needs_data
def test_a_day_of_real_quotes_comes_through_batches_as_it_was_recorded() -> None:
    rows = 476_855
    path = DATA / "lean/equity/usa/tick/bac/20131007_quote.zip"
    with (
        server(*TICKS_ONLY, "--feed", f"sim=replay:{path}?speed=max") as address,
        marketfeed.connect_sync(stream_of(address), encoding="binary") as feed,
    ):
        feed.subscribe(quotes=["*"], since=Position(0))
        batches = list(feed.batches(max_rows=rows, timeout=BOUND))
    assert numbers(batches) == list(range(1, rows + 1))
    assert {symbol for batch in batches for symbol in batch.symbols[:1]} == {"BAC"}
    times = np.concatenate([batch.ticks["ts_event"] for batch in batches])
    assert (np.diff(times) >= 0).all()
