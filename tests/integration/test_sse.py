"""Server-Sent Events beyond what all transports have in common."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from urllib.parse import urlencode

import pytest

from tests.conformance.transports import Http, SseClient, seqs_of
from tests.integration.inside import Inside, event
from tests.integration.processes import BOUND, TICKS_ONLY, certificate, server


def run(conversation, *arguments, **options) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND), Inside(*arguments, **options) as inside:
            http = Http(inside.address)
            try:
                await conversation(inside, http)
            finally:
                await http.gone()

    asyncio.run(bounded())


async def events(http: Http, n: int) -> list[dict[str, str]]:
    return [dict(event(await http.reader.readuntil(b"\n\n"))) for _ in range(n)]


async def begin(http: Http, query: str, **headers: str) -> dict[str, str]:
    """Ask, and give the headers of the answer."""
    await http.request("GET", f"/sse?{query}", {name.replace("_", "-"): value for name, value in headers.items()})
    status, answered = await http.head()
    assert status == 200
    return answered


async def refusal(http: Http, query: str, **headers: str) -> tuple[int, str]:
    await http.request("GET", f"/sse?{query}", {name.replace("_", "-"): value for name, value in headers.items()})
    status, body = await http.answer()
    assert body["T"] == "error"
    return status, body["msg"]


def test_the_answer_is_a_stream_that_nothing_on_its_way_may_keep():
    async def conversation(inside, http):
        headers = await begin(http, "quotes=A")
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"
        assert headers["connection"] == "close"
        assert "transfer-encoding" not in headers
        assert "content-length" not in headers
        retry, welcome, state, mark = await events(http, 4)
        assert 500 <= int(retry["retry"]) <= 1500
        assert json.loads(welcome["data"])[0]["msg"] == "connected"
        assert json.loads(state["data"])[0]["quotes"] == ["A"]
        assert mark == {"id": f"{inside.store.epoch}:0"}
        inside.publish("A", "B", "A")
        (ticks,) = await events(http, 1)
        assert ticks["id"] == f"{inside.store.epoch}:3"
        assert [tick["seq"] for tick in json.loads(ticks["data"])] == [1, 3]

    run(conversation)


def test_a_quiet_stream_shows_that_it_lives_and_how_far_it_is():
    async def conversation(inside, http):
        await begin(http, "quotes=A")
        await events(http, 4)
        inside.later(14)
        inside.publish("B", "B")
        while inside.hub.due() < float("inf"):
            await asyncio.sleep(0.001)
        inside.later(2)
        assert await http.reader.readuntil(b"\n\n") == b":\n\n"
        assert await events(http, 1) == [{"id": f"{inside.store.epoch}:2"}]
        inside.later(16)
        # Where it is has been told already.
        assert await http.reader.readuntil(b"\n\n") == b":\n\n"
        inside.publish("A")
        assert (await events(http, 1))[0]["id"] == f"{inside.store.epoch}:3"

    run(conversation)


def test_several_subscriptions_tell_the_place_of_the_one_that_is_furthest_behind():
    async def conversation(inside, http):
        subscriptions = [("subscribe", json.dumps({"quotes": [name]})) for name in ("A", "B")]
        await begin(http, urlencode(subscriptions))
        assert [("id" in each, "data" in each) for each in await events(http, 5)] == [
            (False, False), (False, True), (False, True), (False, True), (True, False),
        ]  # fmt: skip
        inside.publish("A", "C", "B")
        got = []
        while len(got) < 2:
            (ticks,) = await events(http, 1)
            assert "id" not in ticks
            got += json.loads(ticks["data"])
        inside.later(1.1)
        assert await events(http, 1) == [{"id": f"{inside.store.epoch}:3"}]
        await http.gone()
        inside.publish("A", "B")
        await begin(http, urlencode(subscriptions), Last_Event_ID=f"{inside.store.epoch}:3")
        again = []
        while len(again) < 2:
            (each,) = await events(http, 1)
            again += [message["seq"] for message in json.loads(each.get("data", "[]")) if message["T"] == "q"]
        assert sorted(again) == [4, 5]

    run(conversation)


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_last_event_id_goes_before_what_the_url_says_of_the_begin(how):
    async def conversation(inside, http):
        inside.publish("A", "A", "A")
        place = f"{inside.store.epoch}:1"
        more, headers = ("", {"Last_Event_ID": place}) if how == "header" else (f"&last_event_id={place}", {})
        await begin(http, "quotes=A&snapshot=true" + more, **headers)
        *_, ticks = await events(http, 5)
        assert [tick["seq"] for tick in json.loads(ticks["data"])] == [2, 3]

    run(conversation)


def test_what_stands_in_the_url_means_what_the_command_means():
    async def conversation(inside, http):
        inside.publish("A", "B")
        query = {"feed": "sim", "quotes": "A,B", "max_hz": "5", "where": "bid > 1", "fields": "bp", "snapshot": "1"}
        await begin(http, urlencode(query) + "&quotes=C&trades=&heartbeat=30&since=")
        state = json.loads((await events(http, 3))[2]["data"])[0]
        assert state["quotes"] == ["A", "B", "C"]
        assert state["trades"] == []
        assert state["heartbeat"] == 30
        assert state["rules"] == [
            {"quotes": ["A", "B", "C"], "trades": [], "max_hz": 5.0, "where": "1 < bid", "fields": ["bp"]}
        ]
        (ticks,) = await events(http, 1)
        assert json.loads(ticks["data"]) == [{"T": "q", "S": "B", "bp": 2.0, "seq": 2}]

    run(conversation)


@pytest.mark.parametrize(
    ("query", "status", "hint"),
    [
        ("", 400, "names no symbols"),
        ("feed=nope&quotes=A", 404, "no feed 'nope'; there are: sim"),
        ("quotes=A&colour=red", 400, "unknown parameter 'colour'"),
        ("quotes=A&max_hz=fast", 400, "max_hz"),
        ("quotes=A&snapshot=maybe", 400, "snapshot"),
        ("quotes=A&since=yesterday", 400, "RFC 3339"),
        ("quotes=A&since=5", 400, "epoch"),
        ("quotes=A&last_event_id=5", 400, "Last-Event-ID"),
        ("quotes=A%20B", 400, "blanks"),
        ("quotes=A&where=bid%20%3E", 400, "where"),
        ("subscribe=%7B", 400, "subscribe"),
        ("quotes=A&subscribe=%7B%22colour%22:1%7D", 400, "colour"),
        ("&".join(["subscribe=%7B%22quotes%22:%5B%22A%22%5D%7D"] * 65), 400, "fewer than 64"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_stream_begins(query, status, hint):
    async def conversation(inside, http):
        answered, text = await refusal(http, query)
        assert (answered, hint in text) == (status, True), text
        assert len(inside.gate) == 0

    run(conversation)


def test_pages_of_other_origins_are_let_in_only_where_they_are_named():
    async def conversation(inside, http):
        assert (await refusal(http, "quotes=A", Origin="https://elsewhere.example"))[0] == 403
        assert "access-control-allow-origin" not in await begin(http, "quotes=A", Origin=inside.address)
        await http.gone()
        headers = await begin(http, "quotes=A", Origin="https://desk.example")
        assert headers["access-control-allow-origin"] == "https://desk.example"
        await http.gone()
        # So that such a page can read why it was refused.
        await http.request("GET", "/sse", {"Origin": "https://desk.example"})
        status, headers = await http.head()
        assert (status, headers["access-control-allow-origin"]) == (400, "https://desk.example")
        await http.gone()
        await http.request("OPTIONS", "/sse", {"Origin": "https://desk.example"})
        status, headers = await http.head()
        assert status == 204
        assert "authorization" in headers["access-control-allow-headers"]

    run(conversation, origins=("https://desk.example",))


def test_credentials_may_stand_in_the_url_for_browsers_cannot_set_headers():
    async def conversation(inside, http):
        assert (await refusal(http, "quotes=A"))[0] == 401
        for wrong in ("key=one&secret=three", "token=one"):
            assert (await refusal(http, f"quotes=A&{wrong}"))[0] == 403
        for right in ("key=one&secret=two", "token=lone"):
            await begin(http, f"quotes=A&{right}")
            await http.gone()

    run(conversation, keys=("one:two", "lone"))


def test_a_client_that_takes_nothing_is_cut_in_time_and_holds_no_more_than_a_frame():
    async def conversation(inside, http):
        await begin(http, "quotes=*")
        http.writer.transport.pause_reading()
        (link,) = inside.gate._sessions
        link._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        while not link._unfinished:
            inside.publish(*(["A"] * 500))
            await asyncio.sleep(0.005)
        for _ in range(20):
            inside.publish(*(["A"] * 500))
            await asyncio.sleep(0.005)
        assert link._unfinished == 1
        inside.later(59)
        assert len(inside.gate) == 1
        inside.later(62)
        while len(inside.gate):
            await asyncio.sleep(0.01)

    run(conversation)


def test_a_client_that_talks_on_and_on_is_cut():
    async def conversation(inside, http):
        await begin(http, "quotes=*")
        http.writer.write(b"x" * (1 << 17))
        while len(inside.gate):
            await asyncio.sleep(0.01)

    run(conversation)


def test_over_tls_every_tick_arrives(tmp_path):
    made, key = certificate(tmp_path)
    tls = ("--certfile", str(made), "--keyfile", str(key))
    with server(*TICKS_ONLY, "--feed", "sim?symbols=20&rate=2000", *tls) as address:

        async def conversation():
            client = SseClient(address, [{"quotes": ["*"], "trades": ["*"], "since": {"seq": 0}}], None, None)
            client.http = Http(address, ssl.create_default_context(cafile=made))
            await client.start(client.commands)
            await client.until(2000)
            seen = seqs_of(client.messages)
            await client.gone()
            assert seen == list(range(1, len(seen) + 1))

        asyncio.run(asyncio.wait_for(conversation(), BOUND))
