"""The client library against the server: nothing lost, nothing twice, whatever happens to the connection."""

import contextlib
import random

import pytest

import marketfeed
from marketfeed.client import CommandError, ConnectionRefused, Gap, Message, Position, Quote, Trade
from tests.integration.clients import free_port, quickly, run, seqs, until
from tests.integration.processes import TICKS_ONLY, Proxy, server, stream_of
from tests.realdata import DATA, needs_data


def test_keys_are_checked() -> None:
    async def main(url: str) -> None:
        async with marketfeed.connect(url, key="me", secret="mine") as feed:
            await feed.subscribe(quotes=["*"])
            await feed.take()
        with pytest.raises(ConnectionRefused, match="402"):
            await marketfeed.connect(url, key="me", secret="guess").open()
        async with marketfeed.connect(url) as feed:
            with pytest.raises(CommandError, match="401"):
                await feed.subscribe(quotes=["*"])

    with server("--feed", "sim?symbols=5&rate=100", "--key", "me:mine") as address:
        run(lambda: main(stream_of(address)))


def test_ticks_before_since_then_live_have_no_seam() -> None:
    async def main(url: str) -> None:
        async with marketfeed.connect(url) as feed:
            told = await feed.subscribe(quotes=["*"], trades=["*"], since=Position(0))
            assert told.recovered is True
            assert seqs(await until(feed, 5000)) == list(range(1, 5001))

    with server(*TICKS_ONLY, "--feed", "sim?symbols=20&rate=5000&seed=3") as address:
        run(lambda: main(stream_of(address)))


def test_twenty_cuts_lose_and_repeat_nothing() -> None:
    """Every tick of one client that is cut off again and again, against one that never is."""
    rng = random.Random(11)

    async def main(address: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(Proxy(int(address.split(":")[2])))
            steady = await stack.enter_async_context(marketfeed.connect(stream_of(address)))
            feed = await stack.enter_async_context(quickly(proxy.url))
            for each in (steady, feed):
                await each.subscribe(quotes=["SIM-*"], since=Position(0))
                await each.subscribe(trades=["*"], since=Position(0))
            got: dict[type, list[int]] = {Quote: [], Trade: [], Gap: []}
            cuts, after = 0, 0
            while feed.reconnects < 20 or after > 0:
                messages = await feed.take()
                for message in messages:
                    got[type(message)].append(0 if isinstance(message, Gap) else message.seq)
                after -= len(messages)
                if cuts == feed.reconnects and after <= 0 and cuts < 20:
                    proxy.cut()
                    cuts += 1
                    after = rng.randrange(2000)
            # Of both kinds everything up to here has come, wherever the other stands.
            end = min(got[Quote][-1], got[Trade][-1])
            messages = await until(steady, end + 5000)
            assert got[Gap] == []
            for kind in (Quote, Trade):
                expected = [m.seq for m in messages if isinstance(m, kind) and m.seq <= end]
                assert [seq for seq in got[kind] if seq <= end] == expected
                assert len(expected) > 100

    with server("--feed", "sim?symbols=50&rate=20000&seed=5") as address:
        run(lambda: main(address))


def test_throttled_and_every_tick_are_both_resumed() -> None:
    async def main(address: str) -> None:
        async with Proxy(int(address.split(":")[2])) as proxy, quickly(proxy.url) as feed:
            await feed.subscribe(quotes=["SIM-0000"], since=Position(0))
            await feed.subscribe(quotes=["*"], max_hz=20, snapshot=True)
            numbers: dict[str, list[int]] = {}
            for cut in range(1, 7):
                async for message in feed:
                    assert isinstance(message, Quote)
                    numbers.setdefault(message.symbol, []).append(message.seq)
                    if len(numbers["SIM-0000"]) >= 200 * cut:
                        break
                proxy.cut()
            every = numbers.pop("SIM-0000")
            async with marketfeed.connect(stream_of(address)) as steady:
                await steady.subscribe(quotes=["SIM-0000"], since=Position(0))
                assert seqs(await until(steady, every[-1])) == every
            assert len(numbers) == 9
            assert all(mine == sorted(set(mine)) for mine in numbers.values())

    with server("--feed", "sim?symbols=10&rate=3000&seed=2") as address:
        run(lambda: main(address))


def test_a_new_life_of_the_server_is_told_and_followed() -> None:
    async def main() -> None:
        port = str(free_port())
        async with contextlib.AsyncExitStack() as stack:
            with server("--feed", "sim?symbols=5&rate=1000", at=port) as address:
                feed = await stack.enter_async_context(quickly(stream_of(address)))
                told = await feed.subscribe(quotes=["*"], trades=["*"])
                await feed.take()
            with server(*TICKS_ONLY, "--feed", "sim?symbols=5&rate=1000", at=port):
                messages: list[Message] = []
                while not any(isinstance(message, Gap) for message in messages):
                    messages = await feed.take()
                (gap,) = [message for message in messages if isinstance(message, Gap)]
                assert (gap.reason, gap.epoch, gap.last) == ("epoch", told.epoch, None)
                behind = seqs(messages[messages.index(gap) + 1 :]) + seqs(await feed.take())
                assert behind == list(range(1, len(behind) + 1))

    run(main)


def test_a_stalled_consumer_is_told_exactly_what_it_lost() -> None:
    async def main(url: str) -> None:
        async with marketfeed.connect(url, buffer=100) as stalled, marketfeed.connect(url) as healthy:
            told = await stalled.subscribe(quotes=["*"], trades=["*"])
            await healthy.subscribe(quotes=["*"], trades=["*"])
            assert told.seq is not None
            # Far more than the sockets and the ring hold.
            await until(healthy, told.seq + 400_000)
            head = told.seq
            gaps = 0
            while not gaps or head < told.seq + 450_000:
                for message in await stalled.take():
                    if isinstance(message, Gap):
                        assert message.first == head + 1
                        assert message.last is not None
                        gaps, head = gaps + 1, message.last
                    else:
                        assert message.seq == head + 1
                        head = message.seq

    with server(*TICKS_ONLY, "--feed", "sim?symbols=50&rate=100000", "--ring-ticks", "16384") as address:
        run(lambda: main(stream_of(address)))


@needs_data
def test_twenty_cuts_during_a_replay_of_real_ticks_lose_and_repeat_nothing() -> None:
    """A day of BAC quotes from its first tick on, read from the ring while it is cut off again and again."""
    rows = 476_855
    rng = random.Random(23)

    async def main(address: str) -> None:
        async with Proxy(int(address.split(":")[2])) as proxy, quickly(proxy.url, buffer=2000) as feed:
            await feed.subscribe(quotes=["*"], since=Position(0))
            got: list[int] = []
            cuts = 0
            at = 0
            while not got or got[-1] < rows:
                got += [0 if isinstance(message, Gap) else message.seq for message in await feed.take()]
                if cuts == feed.reconnects < 20 and got[-1] >= at:
                    proxy.cut()
                    cuts += 1
                    at = got[-1] + rng.randrange(20_000)
            assert feed.reconnects == 20
            assert got == list(range(1, rows + 1))

    path = DATA / "lean/equity/usa/tick/bac/20131007_quote.zip"
    with server(*TICKS_ONLY, "--feed", f"replay:{path}?speed=max") as address:
        run(lambda: main(address))
