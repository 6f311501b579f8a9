"""The JavaScript client against a real server, in Node and in Chromium, over every transport."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integration.browser import needs_chromium, page_of
from tests.integration.javascript import JS, needs_node
from tests.integration.jsclient import JsClient, in_node, in_page
from tests.integration.processes import BOUND, ROOT, TICKS_ONLY, Proxy, Wall, server, status

ClientIn = Callable[..., AbstractAsyncContextManager[JsClient]]
RUNTIMES = [
    pytest.param(in_node, id="node", marks=needs_node),
    pytest.param(in_page, id="chromium", marks=needs_chromium),
]
TRANSPORTS = ["websocket", "sse", "longpoll"]
#: so that tests need not wait long for the next attempt, and a busy machine is no reason for one
QUICK = {"stale_seconds": 5, "open_seconds": 20, "backoff_base": 0.1, "backoff_most": 0.5}
SIM = "sim?symbols=20&rate=1000&seed=3"


def http(proxy: Proxy) -> str:
    return f"http://{urlsplit(proxy.url).netloc}/"


def through(work: Callable[[Wall], Awaitable[None]], *arguments: str, **passes: bool) -> None:
    """Do this with a proxy before a server."""

    async def main(address: str) -> None:
        async with asyncio.timeout(3 * BOUND), Wall(urlsplit(address).port or 0, **passes) as proxy:
            await work(proxy)

    with server("--feed", SIM, *TICKS_ONLY, *arguments) as address:
        asyncio.run(main(address))


def talk(work: Callable[[JsClient, Wall], Awaitable[None]], client_in: ClientIn, **options: Any) -> None:
    """Do this with a client that has these options, and the proxy between it and a server."""

    async def main(proxy: Wall) -> None:
        async with client_in(http(proxy), **QUICK | options) as client:
            await work(client, proxy)

    through(main)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("client_in", "encoding"),
    [
        pytest.param(in_node, "json", id="node-json", marks=needs_node),
        pytest.param(in_node, "binary", id="node-binary", marks=needs_node),
        pytest.param(in_page, "json", id="chromium-json", marks=needs_chromium),
    ],
)
def test_every_tick_comes_once_whenever_the_connection_is_cut(client_in, transport, encoding):
    async def work(proxy: Wall) -> None:
        rng = random.Random(f"{transport} {encoding}")
        async with client_in(http(proxy), transports=[transport], encoding=encoding, **QUICK) as client:
            await client.do("subscribe", id="quotes", request={"quotes": ["*"]})
            await client.do("subscribe", id="trades", request={"trades": ["*"]})
            for _ in range(10):
                await client.has(len(client.seqs()) + rng.randrange(20, 300))
                await proxy.cut_and_back()
            await client.has(len(client.seqs()) + 300)
            for kind, sub in (("q", "quotes"), ("t", "trades")):
                seqs = client.seqs(sub)
                assert seqs == sorted(set(seqs))
                assert {tick["T"] for tick in client.ticks(sub)} == {kind}
            # Both from where the later began: together they are all there are.
            both = sorted(client.seqs())
            begin = max(client.seqs("quotes")[0], client.seqs("trades")[0])
            end = min(client.seqs("quotes")[-1], client.seqs("trades")[-1])
            assert [seq for seq in both if begin <= seq <= end] == list(range(begin, end + 1))
            assert [event for event in client.events if event["event"] in ("gap", "error")] == []
            assert client.errors == []

    through(work)


@pytest.mark.parametrize("client_in", RUNTIMES)
@pytest.mark.parametrize(
    ("passes", "transport"),
    [
        ({}, "websocket"),
        ({"upgrades": False}, "sse"),
        ({"upgrades": False, "streams": False}, "longpoll"),
    ],
    ids=["all passes", "no upgrades", "no streams"],
)
def test_the_best_transport_that_gets_through_is_taken(client_in, passes, transport):
    async def work(proxy: Wall) -> None:
        # Only what is held back fails by time.
        limit = {} if passes.get("streams", True) else {"open_seconds": 3}
        async with client_in(http(proxy), **{**QUICK, **limit}) as client:
            await client.do("subscribe", id="a", request={"quotes": ["SIM-0000"], "max_hz": 50, "snapshot": True})
            assert (await client.event("state", state="live"))["transport"] == transport
            await client.has(20)
            # What worked is taken again. It has to have lived, that is to say a heartbeat.
            await client.until(lambda _: len(client.ticks()) > 40)
            begin = len(client.events)
            proxy.cut()
            if transport != "longpoll":  # which asks again, and is not interrupted
                assert (await client.event("state", begin, state="live"))["transport"] == transport
            await client.has(len(client.ticks()) + 20)
            seqs = client.seqs()
            assert seqs == sorted(set(seqs))

    through(work, **passes)


@needs_node
def test_a_better_transport_is_taken_again_when_it_gets_through():
    async def work(proxy: Wall) -> None:
        async with in_node(http(proxy), better_seconds=0.5, **QUICK) as client:
            await client.do("subscribe", id="a", request={"quotes": ["*"], "trades": ["*"]})
            await client.event("state", state="live", transport="sse")
            await client.has(500)
            proxy.upgrades = True
            await client.event("state", state="live", transport="websocket")
            await client.has(len(client.seqs()) + 300)
            seqs = client.seqs()
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))

    through(work, upgrades=False)


@pytest.mark.parametrize("transport", TRANSPORTS)
@needs_node
def test_a_connection_that_says_nothing_is_told_as_stale_and_made_anew(transport):
    async def work(proxy: Wall) -> None:
        limits = {"stale_seconds": 1.5, "open_seconds": 3}
        async with in_node(http(proxy), transports=[transport], **{**QUICK, **limits}) as client:
            await client.do("subscribe", id="a", request={"quotes": ["*"], "trades": ["*"]})
            await client.has(1000)
            begin = len(client.events)
            proxy.flowing.clear()
            stale = await client.event("stale", begin)
            assert stale["seconds"] == 1.5
            assert stale["transport"] == transport
            await client.event("state", begin, state="waiting")
            begin = len(client.events)
            proxy.flowing.set()
            await client.event("state", begin, state="live")
            await client.has(len(client.seqs()) + 300)
            seqs = client.seqs()
            assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))

    through(work)


@needs_node
def test_a_quiet_connection_is_not_stale():
    async def work(client: JsClient, proxy: Wall) -> None:
        await client.do("subscribe", id="quiet", request={"quotes": ["NOBODY"]})
        await client.event("ready", sub="quiet")
        # The other one's connection is as old, and is told nothing else for longer than what makes one stale.
        await client.do("subscribe", id="clock", request={"quotes": ["SIM-0000"], "max_hz": 4, "where": "not bid < 0"})
        await client.has(int(1.5 * 3 * 4), "clock")
        assert not any(event["event"] == "stale" for event in client.events)

    talk(work, in_node, stale_seconds=3)


@pytest.mark.parametrize("transport", TRANSPORTS)
@needs_node
def test_each_subscription_is_given_its_own_ticks(transport):
    async def work(client: JsClient, proxy: Wall) -> None:
        wanted = {
            "exact": {"quotes": ["SIM-0000", "SIM-0001"]},
            "glob": {"quotes": ["SIM-001*"]},
            "named": {"trades": ["sim:SIM-0002", "sim:SIM-000[3]"]},
            "slow": {"quotes": ["*"], "max_hz": 5, "snapshot": True},
            "same": {"quotes": ["SIM-0000"]},
            "some": {"quotes": ["SIM-0000"], "fields": ["bp"]},
            "where": {"quotes": ["SIM-0000"], "where": "bid < 0"},
        }
        for sub, request in wanted.items():
            await client.do("subscribe", id=sub, request=request)
        for sub in wanted:
            await client.event("ready", sub=sub)
        await client.has(100, "exact")
        await client.has(20, "named")
        await client.has(60, "slow")
        symbols = {sub: {tick["S"] for tick in client.ticks(sub)} for sub in wanted}
        assert symbols["exact"] == {"SIM-0000", "SIM-0001"}
        assert symbols["glob"] == {f"SIM-001{n}" for n in range(10)}
        assert symbols["named"] == {"SIM-0002"}
        assert len(symbols["slow"]) == 20
        assert symbols["where"] == set()
        of_both = [tick["seq"] for tick in client.ticks("exact") if tick["S"] == "SIM-0000"]
        same = client.seqs("same")
        begin, end = max(of_both[0], same[0]), min(of_both[-1], same[-1])
        assert [seq for seq in of_both if begin <= seq <= end] == [seq for seq in same if begin <= seq <= end]
        assert all(set(tick) == {"T", "S", "bp", "seq", "f"} for tick in client.ticks("some"))
        # The slow one gets what it asked for although others are given every tick of its symbols.
        assert len(client.ticks("slow")) < len(client.ticks("exact")) + len(client.ticks("glob"))

        await client.do("latest", id="exact", symbol="SIM-0000")
        latest = (await client.event("latest"))["tick"]
        assert latest["seq"] >= of_both[-1]

    talk(work, in_node, transports=[transport])


@pytest.mark.parametrize("transport", TRANSPORTS)
@needs_node
def test_what_is_unsubscribed_is_given_no_more_and_the_others_go_on(transport):
    async def work(client: JsClient, proxy: Wall) -> None:
        await client.do("subscribe", id="a", request={"quotes": ["SIM-0000", "SIM-0001"]})
        await client.do("subscribe", id="b", request={"quotes": ["SIM-0001", "SIM-0002"]})
        await client.has(50, "a")
        await client.has(50, "b")
        await client.do("unsubscribe", id="a")
        await client.do("request", id="a")
        assert (await client.event("request"))["closed"] is True
        had = len(client.ticks("a"))
        await client.has(len(client.ticks("b")) + 100, "b")
        assert len(client.ticks("a")) == had
        assert {tick["S"] for tick in client.ticks("b")[-100:]} == {"SIM-0001", "SIM-0002"}
        await client.do("unsubscribe", id="b")
        await client.event("state", state="idle")
        begin = len(client.events)
        await client.do("subscribe", id="c", request={"quotes": ["SIM-0003"]})
        await client.event("state", begin, state="live")
        await client.has(20, "c")

    talk(work, in_node, transports=[transport])


@pytest.mark.parametrize("transport", TRANSPORTS)
@needs_node
def test_an_update_neither_loses_nor_repeats_what_stays(transport):
    async def work(client: JsClient, proxy: Wall) -> None:
        await client.do("subscribe", id="all", request={"quotes": ["*"], "trades": ["*"], "since": {"seq": 0}})
        await client.do("subscribe", id="a", request={"quotes": ["SIM-0000"]})
        await client.has(30, "a")
        for number, changes in enumerate(
            [
                {"quotes": ["SIM-0000", "SIM-0001"]},
                {"quotes": ["SIM-0000", "SIM-0002"]},
                {"where": "not bid < 0"},
                {"quotes": ["SIM-0000"], "trades": ["SIM-0000"]},
            ]
        ):
            await client.do("update", id="a", changes=changes)
            await client.until(lambda events, n=number: sum(_is_ready(e, "a") for e in events) == n + 2)
            await client.has(len(client.ticks("a")) + 30, "a")
        await client.until(lambda _: any(tick["T"] == "t" for tick in client.ticks("a")))
        stays = [tick["seq"] for tick in client.ticks("a") if tick["S"] == "SIM-0000" and tick["T"] == "q"]
        await client.until(lambda _: client.seqs("all")[-1] > stays[-1])
        every = [tick["seq"] for tick in client.ticks("all") if tick["S"] == "SIM-0000" and tick["T"] == "q"]
        assert stays == [seq for seq in every if stays[0] <= seq <= stays[-1]]
        assert [event for event in client.events if event["event"] == "gap"] == []

        await client.do("update", id="a", changes={"where": "nonsense >"})
        refused = await client.event("refused", sub="a")
        assert refused["code"] == 400
        assert "where" in refused["text"]
        await client.do("request", id="a")
        request = (await client.event("request"))["request"]
        assert request == {"quotes": ["SIM-0000"], "trades": ["SIM-0000"], "where": "not bid < 0"}
        await client.has(len(client.ticks("a")) + 30, "a")

    talk(work, in_node, transports=[transport])


def _is_ready(event: dict, sub: str) -> bool:
    return event["event"] == "ready" and event["sub"] == sub


@pytest.mark.parametrize("transport", TRANSPORTS)
@needs_node
def test_what_the_server_refuses_is_told_and_the_others_go_on(transport):
    async def work(client: JsClient, proxy: Wall) -> None:
        requests = {
            "good": {"quotes": ["SIM-0000"]},
            "bad": {"quotes": ["SIM-0001"], "where": "foo > 1"},
            "fine": {"quotes": ["SIM-0002"]},
        }
        for sub, request in requests.items():
            await client.do("subscribe", id=sub, request=request)
        refused = await client.event("refused")
        assert refused["sub"] == "bad"
        assert refused["code"] == 400
        assert "unknown column 'foo'" in refused["text"]
        assert (await client.event("error"))["text"] == refused["text"]
        await client.has(20, "good")
        await client.has(20, "fine")
        assert client.errors == []

    talk(work, in_node, transports=[transport])


@needs_node
def test_a_request_that_makes_no_sense_is_thrown_at_once():
    requests = [
        ({}, "TypeError"),
        ({"quotes": "AAPL"}, "TypeError"),
        ({"quotes": [1]}, "TypeError"),
        ({"quotes": ["A B"]}, "RangeError"),
        ({"quotes": [""]}, "RangeError"),
        ({"quotes": ["A"], "max_hz": 0}, "RangeError"),
        ({"quotes": ["A"], "max_hz": "1"}, "TypeError"),
        ({"quotes": ["A"], "snapshot": 1}, "TypeError"),
        ({"quotes": ["A"], "snapshot": True, "since": {"seq": 1}}, "TypeError"),
        ({"quotes": ["A"], "since": 5}, "TypeError"),
        ({"quotes": ["A"], "where": 5}, "TypeError"),
        ({"quotes": ["A"], "symbols": []}, "TypeError"),
    ]

    async def main() -> None:
        # Nobody listens there, and nobody has to.
        async with in_node("ws://127.0.0.1:1/stream") as client:
            for request, _ in requests:
                await client.do("subscribe", id="x", request=request)
            await client.until(lambda events: len(events) == len(requests))
            assert [event.get("name") for event in client.events] == [name for _, name in requests]

    asyncio.run(main())


@pytest.mark.parametrize("client_in", RUNTIMES)
def test_an_error_of_a_callback_is_reported_and_the_others_go_on(client_in):
    async def work(client: JsClient, proxy: Wall) -> None:
        await client.do("subscribe", id="bad", request={"quotes": ["SIM-0000"]}, fails=True)
        await client.do("subscribe", id="good", request={"quotes": ["SIM-0000"]})
        await client.has(20, "good")
        await client.until(lambda _: any("the callback's own" in error for error in client.errors))

    talk(work, client_in)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("client_in", RUNTIMES)
def test_credentials_are_given_and_wrong_ones_end_the_feed(client_in, transport):
    async def work(proxy: Wall) -> None:
        for given in ({"key": "me", "secret": "sécret"}, {"token": "a-token"}):
            async with client_in(http(proxy), transports=[transport], **given, **QUICK) as client:
                await client.do("subscribe", id="a", request={"quotes": ["*"]})
                await client.has(20)
        async with client_in(http(proxy), transports=[transport], token="wrong", **QUICK) as client:
            await client.do("subscribe", id="a", request={"quotes": ["*"]})
            assert (await client.event("error"))["code"] in (402, 3500)
            await client.event("state", state="closed")
            await client.event("refused", sub="a")

    through(work, "--key", "me:sécret", "--key", "a-token")


@pytest.mark.parametrize("transport", TRANSPORTS)
@needs_node
def test_batches_hold_what_json_tells(transport):
    async def work(proxy: Wall) -> None:
        request = {"quotes": ["SIM-00*"], "trades": ["*"], "since": {"seq": 0}}
        async with (
            in_node(http(proxy), transports=[transport], encoding="binary", **QUICK) as columns,
            in_node(http(proxy), transports=["websocket"], **QUICK) as messages,
        ):
            for client in (columns, messages):
                await client.do("subscribe", id="a", request=request)
                await client.has(2000)
            count = min(len(columns.ticks()), len(messages.ticks()))
            assert columns.ticks()[:count] == messages.ticks()[:count]
            batches = [event for event in columns.events if event["event"] == "batch"]
            assert batches[0]["types"] == {
                "seq": "Float64Array", "bid": "Float64Array", "price": "Float64Array", "kind": "Uint8Array",
                "instrument": "Uint32Array", "ts_event": "BigInt64Array",
            }  # fmt: skip
            for batch in batches:
                for row, tick in enumerate(batch["rows"]):
                    assert [batch["columns"][key][row] for key in ("seq", "S")] == [tick["seq"], tick["S"]]
                    quote = tick["T"] == "q"
                    assert batch["columns"]["kind"][row] == (1 if quote else 2)
                    # NaN, which JSON writes as null, is the price of the other kind.
                    assert batch["columns"]["bid"][row] == (tick["bp"] if quote else None)
                    assert batch["columns"]["price"][row] == (None if quote else tick["p"])

    through(work)


@needs_node
def test_ten_thousand_symbols_are_subscribed_to_over_whatever_takes_them():
    names = [f"SYMBOL-{n:05d}" for n in range(9_980)]

    async def work(proxy: Wall) -> None:
        for transports in (["websocket"], ["sse", "longpoll"]):
            async with in_node(http(proxy), transports=transports, **QUICK) as client:
                await client.do("subscribe", id="a", request={"quotes": [*names, "SIM-0000"]})
                await client.event("ready", sub="a")
                await client.event("state", state="live", transport=transports[-1])
                await client.has(50)
                begin = len(client.events)
                proxy.cut()
                await client.has(len(client.ticks()) + 50)
                seqs = client.seqs()
                assert seqs == sorted(set(seqs))
                assert not any(event["event"] == "error" for event in client.events[begin:])

    through(work)


@pytest.mark.parametrize("transport", TRANSPORTS)
@needs_node
def test_a_feed_that_is_closed_leaves_nothing_behind_in_its_process_and_on_the_server(transport):
    async def work(client: JsClient, proxy: Wall) -> None:
        # Two connections, for one cannot give both.
        await client.do("subscribe", id="a", request={"quotes": ["*"]})
        await client.do("subscribe", id="b", request={"quotes": ["*"], "max_hz": 10})
        await client.has(20, "a")
        await client.has(20, "b")
        assert (await asyncio.to_thread(status, http(proxy)[:-1]))["connections"] == 2
        await client.do("close")
        await client.event("state", state="closed")
        assert client.process is not None
        assert client.process.stdin is not None
        client.process.stdin.close()
        assert await asyncio.wait_for(client.process.wait(), BOUND) == 0
        async with asyncio.timeout(BOUND):
            while (await asyncio.to_thread(status, http(proxy)[:-1]))["connections"]:
                await asyncio.sleep(0.05)

    talk(work, in_node, transports=[transport])


@needs_node
def test_bars_come_as_messages_and_as_columns():
    async def work(proxy: Wall) -> None:
        request = {"bars": ["*"], "quotes": ["SIM-0000"], "bar_seconds": 1, "since": {"seq": 0}}
        ways = [("json", "websocket"), ("binary", "websocket"), ("binary", "sse")]
        told = []
        for encoding, transport in ways:
            async with in_node(http(proxy), transports=[transport], encoding=encoding, **QUICK) as client:
                await client.do("subscribe", id="a", request=request)
                await client.until(lambda _, c=client: sum(tick["T"] == "b" for tick in c.ticks()) > 40)
                told.append({tick["seq"]: tick for tick in client.ticks()})
        for seq in told[0].keys() & told[1].keys() & told[2].keys():
            assert told[0][seq] == told[1][seq] == told[2][seq]
        bars = [tick for tick in told[0].values() if tick["T"] == "b" and tick["seq"] in told[2]]
        assert len({bar["S"] for bar in bars}) == 20
        assert all(bar["sec"] == 1 and bar["l"] <= bar["o"] <= bar["h"] for bar in bars)

    through(work)


def asked(url: str, **headers: str) -> tuple[int, Message, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=BOUND) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_a_server_serves_the_client_of_its_own_version():
    script = (ROOT / "marketfeed" / "client" / "js" / "marketfeed.js").read_bytes()
    with server("--origin", "https://desk.example") as address:
        url = f"{address}/client/marketfeed.js"
        code, headers, body = asked(url)
        assert (code, body) == (200, script)
        assert headers["Content-Type"] == "text/javascript; charset=UTF-8"
        assert headers["Cache-Control"] == "no-cache"
        code, _, body = asked(url, **{"If-None-Match": headers["ETag"]})
        assert (code, body) == (304, b"")
        code, headers, _ = asked(url, Origin="https://desk.example")
        assert (code, headers["Access-Control-Allow-Origin"]) == (200, "https://desk.example")
        assert asked(url, Origin="https://elsewhere.example")[0] == 403


@needs_chromium
def test_a_page_of_another_origin_imports_it_where_that_is_allowed():
    async def conversation(address: str, other: str) -> None:
        async with asyncio.timeout(2 * BOUND), page_of(other) as page:
            for transport in TRANSPORTS:
                seq = await page.evaluate(
                    """async ([address, transport]) => {
                      const {connect} = await import(`${address}/client/marketfeed.js`);
                      const feed = connect(address, {transports: [transport], token: "mine"});
                      return new Promise((done) => feed.subscribe({quotes: ["*"]}, (q) => done(q.seq)));
                    }""",
                    [address, transport],
                )
                assert seq > 0

    with server() as other, server("--origin", other, "--key", "mine") as address:
        asyncio.run(conversation(address, other))


EXAMPLES = (ROOT / "docs" / "javascript.md").read_text()


@needs_node
@pytest.mark.parametrize("number", [0, 1], ids=["ticks", "batches"])
def test_an_example_for_node_says_what_comes(number, tmp_path):
    script = re.findall(r"```js\n(.*?)```", EXAMPLES, re.DOTALL)[number]
    (tmp_path / "node_modules").symlink_to(JS / "node_modules")
    with server() as address:
        (tmp_path / "marketfeed.mjs").write_bytes(asked(f"{address}/client/marketfeed.js")[2])
        (tmp_path / "example.mjs").write_text(script.replace("http://127.0.0.1:8000", address))
        process = subprocess.Popen(["node", "example.mjs"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(10)]
            if "close()" in script:
                process.stdout.read()
                assert process.wait(BOUND) == 0
        finally:
            process.kill()
            process.communicate()
    patterns = [r"SIM-\d+ [\d.]+ \d+\n", r"\d+ \d+ SIM-\d+ \d{19}n\n"]
    for line in lines:
        assert re.fullmatch(patterns[number], line)


@needs_chromium
def test_the_example_page_logs_quotes():
    (script,) = re.findall(r'```html\n<script type="module">(.*?)</script>', EXAMPLES, re.DOTALL)

    async def conversation(address: str) -> None:
        async with asyncio.timeout(2 * BOUND), page_of(address) as page:
            said: asyncio.Queue[str] = asyncio.Queue()
            page.on("console", lambda message: message.type == "log" and said.put_nowait(message.text))
            await page.add_script_tag(content=script, type="module")
            assert [await said.get() for _ in range(2)] == ["connecting websocket", "live websocket"]
            for _ in range(30):
                assert re.fullmatch(r"SIM-00(00|1\d) [\d.]+ [\d.]+", await said.get())

    with server() as address:
        asyncio.run(conversation(address))
