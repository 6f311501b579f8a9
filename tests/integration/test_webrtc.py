"""The server's data channels as Chromium and aiortc find them, over a network that loses packets."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import urllib.error
import urllib.request

import pytest

from tests.conformance.driven import driven
from tests.integration.browser import needs_chromium, page_of
from tests.integration.inside import Inside
from tests.integration.processes import BOUND, ROOT, TICKS_ONLY, python, server, status
from tests.integration.rtc import Peer, offered

SIM = "sim?symbols=50&rate=2000&seed=3"
UNRELIABLE = {"ordered": False, "maxRetransmits": 0}

#: What a page does to get a channel; `labels` are opened with their options, and their messages are collected.
CONNECT = """
async (labels) => {
  window.pc = new RTCPeerConnection();
  window.channels = labels.map(([label, options]) => pc.createDataChannel(label, options));
  window.got = channels.map((channel) => {
    const texts = [];
    channel.onmessage = ({ data }) => texts.push(data);
    return texts;
  });
  await pc.setLocalDescription();
  const answer = await fetch('/webrtc/offer', { method: 'POST', body: JSON.stringify(pc.localDescription) });
  if (!answer.ok) return answer.status;
  await pc.setRemoteDescription(await answer.json());
  const opened = (channel) => channel.readyState === 'open' || new Promise((done) => (channel.onopen = done));
  await Promise.all(channels.map(opened));
  return 200;
}
"""
MISSING = b"not installed on this server: pip install 'marketfeed[webrtc]'\n"
SAY = "(command) => channels[0].send(JSON.stringify(command))"


def run(conversation, *arguments: str) -> None:
    with server(*TICKS_ONLY, "--feed", SIM, *arguments, transports=["webrtc"]) as address:
        asyncio.run(asyncio.wait_for(conversation(address), 3 * BOUND))


async def none_left(address: str) -> None:
    async with asyncio.timeout(BOUND):
        while (await asyncio.to_thread(status, address))["connections"]:
            await asyncio.sleep(0.05)


async def collected(page, channel: int, count: int) -> list[str]:
    """The messages of a page's channel, when there are so many."""
    await page.wait_for_function(f"() => got[{channel}].length >= {count}", timeout=1000 * BOUND)
    return await page.evaluate(f"() => got[{channel}]")


@needs_chromium
def test_chromium_gets_every_tick_once_and_in_order_over_a_reliable_channel():
    async def conversation(address):
        async with page_of(address + "/api/status") as page:
            assert await page.evaluate(CONNECT, [["/v2/sim", {}]]) == 200
            await page.evaluate(SAY, {"action": "subscribe", "quotes": ["*"], "trades": ["*"], "since": {"seq": 0}})
            texts = await collected(page, 0, 200)
            assert all(len(text) <= 16_000 for text in texts)
            messages = [message for text in texts for message in json.loads(text)]
            assert [message["T"] for message in messages[:2]] == ["success", "subscription"]
            seqs = [message["seq"] for message in messages[2:]]
            assert seqs == list(range(1, len(seqs) + 1))
            assert "f" not in messages[2]
            # A page that is left says so.
            await page.goto("about:blank")
            await none_left(address)

    run(conversation)


@needs_chromium
def test_chromium_gets_throttled_ticks_over_an_unreliable_channel():
    async def conversation(address):
        async with page_of(address + "/api/status") as page:
            assert await page.evaluate(CONNECT, [["/stream", {}], ["/stream", UNRELIABLE]]) == 200
            await page.evaluate(SAY, {"action": "subscribe", "quotes": ["*"], "max_hz": 20, "snapshot": True})
            texts = await collected(page, 1, 100)
            # Each fits into one packet and stands on its own.
            assert all(len(text) <= 1_100 for text in texts)
            assert all(message["T"] == "q" for text in texts for message in json.loads(text))
            control = [message for text in await collected(page, 0, 2) for message in json.loads(text)]
            assert [message["T"] for message in control[:2]] == ["success", "subscription"]

    run(conversation)


@needs_chromium
def test_the_example_of_the_docs_logs_quotes():
    document = (ROOT / "docs" / "transports.md").read_text()
    script = re.search(r"```javascript\n(.*?)```", document, re.DOTALL)[1]

    async def conversation(address):
        async with page_of(address + "/api/status") as page:
            said = asyncio.Queue()
            # Its errors besides are the browser's, of a favicon that is not there.
            page.on("console", lambda message: message.type == "log" and said.put_nowait(message.text))
            await page.evaluate(f"async () => {{ {script} }}")
            for _ in range(50):
                async with asyncio.timeout(BOUND):
                    assert re.fullmatch(r"SIM-000\d [\d.]+ [\d.]+", await said.get())

    run(conversation)


async def relayed(address, **command):
    """A session whose ticks go over an unreliable channel, subscribed."""
    peer = Peer()
    control, ticks = peer.channel(), peer.channel(**UNRELIABLE)
    assert (await peer.connect(address))[0] == 200
    async with asyncio.timeout(BOUND):
        await control.opened.wait()
        await ticks.opened.wait()
    control.tell(action="subscribe", **command)
    await control.next("subscription")
    return peer, control, ticks


def test_a_lost_packet_does_not_delay_the_next_quote():
    async def conversation(market):
        peer, _, ticks = await relayed(market.address, quotes=["*"], max_hz=50)
        async with peer:
            market.publish(("A", "q", 1.0))
            assert (await ticks.next("q"))["seq"] == 1
            peer.relay.losing = True
            market.publish(*[("A", "q", 2.0), ("B", "q", 3.0)])
            async with asyncio.timeout(BOUND):
                while not peer.relay.lost:
                    await asyncio.sleep(0.01)
            peer.relay.losing = False
            market.publish(("A", "q", 4.0))
            # Over an ordered channel it would come after what was lost, when that has been sent again.
            assert (await ticks.next("q"))["seq"] == 4

    with driven(transports=["webrtc"]) as market:
        asyncio.run(asyncio.wait_for(conversation(market), 2 * BOUND))


def test_a_last_value_that_was_lost_is_given_once_more():
    async def conversation(market):
        market.publish(("OLD", "q", 9.0))
        peer, control, ticks = await relayed(market.address, quotes=["*"], max_hz=50)
        async with peer:
            market.publish(("A", "q", 1.0))
            while (await ticks.next("q"))["S"] != "A":
                pass
            peer.relay.losing = True
            control.tell(action="subscribe", quotes=["OLD"], max_hz=50, snapshot=True)
            market.publish(("A", "q", 2.0))
            async with asyncio.timeout(BOUND):
                while not peer.relay.lost:
                    await asyncio.sleep(0.01)
            peer.relay.losing = False
            last = {}
            while last != {"A": 2.0, "OLD": 9.0}:
                message = await control.next("q")
                last[message["S"]] = message["bp"]

    with driven(transports=["webrtc"]) as market:
        asyncio.run(asyncio.wait_for(conversation(market), 2 * BOUND))


def test_what_an_unreliable_channel_cannot_do_is_refused():
    async def conversation(address):
        async with Peer() as peer:
            control, ticks = peer.channel(), peer.channel(**UNRELIABLE)
            whole = peer.channel("/stream#all")
            await peer.connect(address)
            async with asyncio.timeout(BOUND):
                for channel in (control, ticks, whole):
                    await channel.opened.wait()
            control.tell(action="subscribe", quotes=["*"])
            assert "max_hz" in (await control.next("error"))["msg"]
            ticks.tell(action="subscribe", quotes=["*"], max_hz=1)
            assert "reliable" in (await control.next("error"))["msg"]
            whole.tell(action="subscribe", quotes=["*"])
            await whole.next("subscription")
            late = peer.channel("/stream#all", **UNRELIABLE)
            assert "max_hz" in (await late.next("error"))["msg"]
            await late.closed()

    run(conversation)


def test_sessions_of_one_peer_do_not_mix_and_end_by_themselves():
    async def conversation(address):
        async with Peer() as peer:
            every, one = peer.channel("/stream"), peer.channel("/v2/sim")
            await peer.connect(address)
            for channel in (every, one):
                await channel.next("success")
                channel.tell(action="subscribe", quotes=["*"], trades=["*"], since={"seq": 0})
            assert "f" in await every.next("q")
            assert "f" not in await one.next("q")
            assert (await asyncio.to_thread(status, address))["connections"] == 2
            every.channel.close()
            await every.closed()
            async with asyncio.timeout(BOUND):
                while (await asyncio.to_thread(status, address))["connections"] != 1:
                    await asyncio.sleep(0.05)
            one.tell(action="subscribe", quotes=["SIM-0000"], max_hz=1)
            await one.next("subscription")
        await none_left(address)

    run(conversation)


@pytest.mark.parametrize(
    ("label", "options", "hint"),
    [
        ("/nonsense", {}, "label"),
        ("/v2/nothing", {}, "no feed"),
        ("/stream", {"protocol": "marketfeed.morse"}, "marketfeed.json"),
    ],
    ids=["label", "feed", "protocol"],
)
def test_a_channel_that_is_no_session_is_told_so_and_closed(label, options, hint):
    async def conversation(address):
        async with Peer() as peer:
            channel = peer.channel(label, **options)
            await peer.connect(address)
            assert hint in (await channel.next("error"))["msg"]
            await channel.closed()

    run(conversation)


def test_a_second_channel_of_a_label_is_refused_and_one_told_apart_by_a_fragment_is_not():
    async def conversation(address):
        async with Peer() as peer:
            first, again, other = (peer.channel(label) for label in ("/stream", "/stream", "/stream#2"))
            await peer.connect(address)
            await first.next("success")
            assert "label" in (await again.next("error"))["msg"]
            await other.next("success")

    run(conversation)


def test_a_message_that_is_too_long_ends_the_session():
    async def conversation(address):
        async with Peer() as peer:
            channel = peer.channel()
            await peer.connect(address)
            await channel.next("success")
            channel.channel.send("x" * 2_000)
            assert (await channel.closed())["code"] == 1009
            await none_left(address)

    run(conversation, "--max-message", "1900")


def test_where_there_are_keys_only_they_open():
    async def conversation(address):
        for headers, auth, code in (
            ({}, None, (401, 401)),
            ({}, {"token": "wrong"}, (403, 402)),
            ({"Authorization": "Bearer wrong"}, None, (403, 402)),
        ):
            async with Peer() as peer:
                peer.channel()
                told, answer = await peer.connect(address, headers, **({"auth": auth} if auth else {}))
                assert (told, answer["code"]) == code
        for headers, auth in (({}, {"key": "one", "secret": "two"}), ({"Authorization": "Bearer lone"}, None)):
            async with Peer() as peer:
                channel = peer.channel()
                await peer.connect(address, headers, **({"auth": auth} if auth else {}))
                assert (await channel.next("success"))["msg"] == "connected"
                assert (await channel.next("success"))["msg"] == "authenticated"
                channel.tell(action="subscribe", quotes=["*"])
                await channel.next("q")

    run(conversation, "--key", "one:two", "--key", "lone")


def test_what_is_no_offer_of_a_data_channel_is_refused():
    async def conversation(address):
        async with Peer() as peer:
            peer.channel()
            sdp = await peer.offer()
        async with Peer() as peer:
            peer.connection.addTransceiver("audio")
            audio = await peer.offer()
        bad = [
            b"",
            b"{",
            b'{"type":"offer"}',
            {"type": "answer", "sdp": sdp},
            {"type": "offer", "sdp": sdp, "colour": 1},
            {"type": "offer", "sdp": ""},
            {"type": "offer", "sdp": "v=0\r\nm=application x"},
            {"type": "offer", "sdp": audio},
            {"type": "offer", "sdp": audio + sdp[sdp.index("m=") :]},
            {"type": "offer", "sdp": sdp.replace("a=fingerprint", "a=nothing")},
            {"type": "offer", "sdp": sdp.replace("a=ice-ufrag", "a=nothing")},
        ]
        for body in bad:
            code, answer = await asyncio.to_thread(offered, address, body)
            assert (code, answer["code"]) == (400, 400), (body, answer)
        code, answer = await asyncio.to_thread(
            offered, address, {"type": "offer", "sdp": sdp}, {"Origin": "https://elsewhere.example"}
        )
        assert code == 403

    run(conversation)


def test_an_offer_that_nobody_follows_up_makes_room_after_a_while():
    async def conversation():
        async with Inside(auth_seconds=1.0, peers=1) as inside:
            async with Peer() as peer:
                peer.channel()
                body = {"type": "offer", "sdp": await peer.offer()}
            assert (await asyncio.to_thread(offered, inside.address, body))[0] == 200
            async with asyncio.timeout(BOUND):
                while (answered := await asyncio.to_thread(offered, inside.address, body))[0] != 200:
                    assert (answered[0], answered[1]["code"]) == (503, 406)
                    await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(conversation(), 2 * BOUND))


def test_a_client_that_is_gone_without_a_word_is_noticed():
    async def conversation(address):
        async with Peer() as peer:
            channel = peer.channel()
            await peer.connect(address)
            await channel.next("success")
            peer.relay.dead = True
            await none_left(address)

    # It stops answering ICE's questions for consent (RFC 7675), which are six at intervals of five seconds.
    code = "import aioice.ice; aioice.ice.CONSENT_INTERVAL = 0.1; from marketfeed.cli import main; main()"
    with python("-c", code, "serve", "--port", "0", "--feed", SIM, "--log-level", "warning") as running:
        assert running.stdout is not None
        address = running.stdout.readline().split()[-1]
        asyncio.run(asyncio.wait_for(conversation(address), 2 * BOUND))


def test_a_server_that_goes_down_says_so_on_every_channel():
    async def conversation():
        with driven(transports=["webrtc"]) as market:
            peer = Peer()
            one, other = peer.channel("/stream"), peer.channel("/v2/driven")
            await peer.connect(market.address)
            for channel in (one, other):
                await channel.next("success")
            market.terminate()
            assert [(await channel.closed())["code"] for channel in (one, other)] == [3000, 3000]
            assert await asyncio.to_thread(market.running.wait, BOUND) == 0
            await peer.close()

    asyncio.run(asyncio.wait_for(conversation(), 2 * BOUND))


def test_a_server_that_is_told_to_do_without_does_not_load_the_package_and_has_no_such_path():
    code = (
        "import atexit, sys; from marketfeed.cli import main; "
        "atexit.register(lambda: print('aiortc' in sys.modules)); main()"
    )
    with python(
        "-c", code, "serve", "--port", "0", "--feed", SIM, "--without", "webrtc", "--log-level", "error"
    ) as running:
        address = running.stdout.readline().split()[-1]
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/webrtc/offer", b"{}", timeout=BOUND)
        refused.value.close()
        assert refused.value.code == 404
        running.terminate()
        assert running.stdout.readlines()[-1] == "False\n"


def test_without_the_package_the_server_runs_and_says_what_to_install():
    code = "import sys; sys.modules['aiortc'] = None; from marketfeed.cli import main; main()"
    with python("-c", code, "serve", "--port", "0", "--feed", SIM, stderr=subprocess.DEVNULL) as running:
        address = running.stdout.readline().split()[-1]
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/webrtc/offer", b"{}", timeout=BOUND)
        assert (refused.value.code, refused.value.read()) == (501, MISSING)
        assert status(address)["feeds"]["sim"]["state"] == "running"
