"""Every transport gives the same: the same ticks in the same order, the same gaps, the same refusals.

A real server, a real client of each transport. To join, see :mod:`tests.conformance.transports`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conformance.driven import Driven, Tick, driven
from tests.conformance.transports import TRANSPORTS, Client, Ended, Message, Refused, seqs_of, ticks
from tests.integration.processes import BOUND

every_transport = pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda cls: cls.NAME)
with_commands = pytest.mark.parametrize(
    "transport", [cls for cls in TRANSPORTS if cls.COMMANDS], ids=lambda cls: cls.NAME
)

Conversation = Callable[["Market"], Awaitable[None]]


class Market(Driven):
    """A server with its clients, whose connections do not outlive the test."""

    clients: list[Client]

    async def open(self, transport: type[Client], *commands: Message, **more: Any) -> Client:
        client = transport(self.address, list(commands), more.get("feed"), more.get("credentials"))
        self.clients.append(client)
        await client.start(client.commands)
        return client


def run(transport: type[Client], conversation: Conversation, **settings: Any) -> None:
    async def bounded(server: Market) -> None:
        server.clients = []
        try:
            await asyncio.wait_for(conversation(server), 2 * BOUND)
        finally:
            for client in server.clients:
                client.cut()
                await client.gone()

    with driven(transports=transport.NEEDS, **settings) as server:
        asyncio.run(bounded(Market(server.address, server.running)))


def some(n: int, first: int = 0) -> list[Tick]:
    """Ticks whose price is their number."""
    return [("ABC"[k % 3], "qt"[k % 2], float(k + 1)) for k in range(first, first + n)]


def as_ticks(messages: list[Message]) -> list[Tick]:
    return [(m["S"], m["T"], m["bp"] if m["T"] == "q" else m["p"]) for m in ticks(messages)]


ALL = {"quotes": ["*"], "trades": ["*"]}


@every_transport
def test_every_tick_comes_once_in_order_from_the_past_into_the_present(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        server.publish(*some(3000))
        first = await server.open(transport, {**ALL, "since": {"seq": 0}})
        await first.until(3000)
        for n in range(50):
            server.publish(*some(20, 3000 + 20 * n))
        await first.until(4000)
        assert seqs_of(first.messages) == list(range(1, 4001))
        assert as_ticks(first.messages) == server.ticks
        assert {message["f"] for message in ticks(first.messages)} == {"driven"}
        kinds = [message["T"] for message in first.messages if message["T"] not in "qt"]
        assert kinds == ["success", "subscription"]

    run(transport, conversation)


@every_transport
def test_of_one_feed_ticks_have_plain_symbols_and_no_f(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        client = await server.open(transport, ALL, feed="driven")
        server.publish(("A", "q", 1.0))
        await client.until(1)
        assert set(ticks(client.messages)[0]) == {"T", "S", "bp", "bs", "ap", "as", "t", "seq"}

    run(transport, conversation)


@every_transport
def test_a_snapshot_comes_first_and_what_follows_goes_on_from_it(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        server.publish(("A", "q", 1.0), ("B", "q", 2.0), ("A", "q", 3.0), ("C", "t", 4.0))
        ahead = await server.open(transport, {"trades": ["C"], "since": {"seq": 0}})
        await ahead.until(4)
        client = await server.open(transport, {"quotes": ["A", "B"], "snapshot": True})
        await client.until(3)
        server.publish(("A", "q", 5.0), ("C", "q", 6.0), ("B", "q", 7.0))
        await client.until(7)
        assert [seq for seq in seqs_of(client.messages) if seq <= 4] == [2, 3]
        assert [seq for seq in seqs_of(client.messages) if seq > 4] == [5, 7]

    run(transport, conversation)


@every_transport
def test_a_snapshot_of_more_than_a_frame_comes_whole(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        server.publish(*[(f"S{n}", "q", 1.0) for n in range(5000)])
        ahead = await server.open(transport, {"quotes": ["S4999"], "since": {"seq": 0}})
        await ahead.until(5000)
        client = await server.open(transport, {"quotes": ["*"], "snapshot": True})
        places: list[int | None] = []
        while len(ticks(client.messages)) < 5000 or len(places) < 2:
            await client.receive()
            places = [message["seq"] for message in client.messages if message["T"] == "position"]
        assert sorted(seqs_of(client.messages)) == list(range(1, 5001))
        # Cut in the midst of it, a client must not go on behind what it has.
        assert places == [None, 5000]

    run(transport, conversation)


@every_transport
def test_throttled_symbols_end_on_their_true_last_value(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        client = await server.open(transport, {"quotes": ["*"], "max_hz": 20})
        for n in range(200):
            server.publish(("A", "q", n), ("B", "q", 1000 + n))
        server.publish(("A", "q", 5000.0))
        await client.until(401)
        last: dict[str, float] = {}
        for message in ticks(client.messages):
            assert message["bp"] > last.get(message["S"], -1)
            last[message["S"]] = message["bp"]
        while "B" not in last or last["B"] < 1199:
            for message in ticks(await client.receive()):
                last[message["S"]] = message["bp"]
        assert last == {"A": 5000.0, "B": 1199.0}
        assert len(ticks(client.messages)) < 200

    run(transport, conversation)


@every_transport
def test_where_and_fields_hold(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        client = await server.open(transport, {"trades": ["*"], "where": "price > 3", "fields": ["p"]})
        server.publish(*[("A", "t", price) for price in (1.0, 4.0, 3.0, 9.0)])
        await client.until(4)
        assert ticks(client.messages) == [
            {"T": "t", "S": "A", "p": 4.0, "seq": 2, "f": "driven"},
            {"T": "t", "S": "A", "p": 9.0, "seq": 4, "f": "driven"},
        ]

    run(transport, conversation)


@every_transport
def test_two_subscriptions_go_side_by_side(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        client = await server.open(
            transport, {"quotes": ["A"], "since": {"seq": 0}}, {"trades": ["*"], "max_hz": 50, "fields": ["p"]}
        )
        server.publish(("A", "q", 1.0), ("A", "t", 2.0), ("B", "q", 3.0), ("A", "q", 4.0), ("B", "t", 5.0))
        while not {2, 4, 5} <= set(seqs_of(client.messages)):
            await client.receive()
        assert [seq for seq in seqs_of(client.messages) if seq in (1, 4)] == [1, 4]
        assert sorted(seqs_of(client.messages)) == [1, 2, 4, 5]

    run(transport, conversation)


@every_transport
def test_a_heartbeat_tells_how_far_a_quiet_client_is(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        client = await server.open(transport, {"quotes": ["none"], "heartbeat": 0.1})
        server.publish(*some(10))
        while client.position.get("seq") != 10:
            await client.receive()
        assert client.messages[-1]["T"] == "heartbeat"

    run(transport, conversation)


@every_transport
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"quotes": ["A"], "max_hz": -1}, 400),
        ({"quotes": ["A"], "where": "foo > 1"}, 400),
        ({"quotes": ["A"], "bars": ["A"], "colour": "red"}, 400),
        ({"quotes": ["A"], "since": "2024-01-01T00:00:00Z", "snapshot": True}, 400),
        ({"quotes": ["A", "B", "C", "D"]}, 405),
    ],
    ids=["number", "condition", "unknown", "exclusive", "symbol limit"],
)
def test_what_cannot_be_done_is_refused_by_its_code(transport: type[Client], command: Message, code: int) -> None:
    async def conversation(server: Driven) -> None:
        with pytest.raises(Refused) as refused:
            await server.open(transport, command)
        assert refused.value.code == code

    run(transport, conversation, max_symbols=3)


@every_transport
def test_where_there_are_keys_only_they_open(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        for credentials, code in ((None, 401), (("one", "three"), 402)):
            with pytest.raises(Refused) as refused:
                await server.open(transport, ALL, credentials=credentials)
            assert refused.value.code == code
        client = await server.open(transport, ALL, credentials=("one", "two"))
        server.publish(("A", "q", 1.0))
        await client.until(1)

    run(transport, conversation, key=["one:two"])


@every_transport
def test_one_client_too_many_is_refused_and_those_who_leave_make_room(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        clients = [await server.open(transport, ALL) for _ in range(2)]
        with pytest.raises(Refused) as refused:
            await server.open(transport, ALL)
        assert refused.value.code == 406
        reading = asyncio.create_task(clients[1].until(1))
        clients[0].cut()
        async with asyncio.timeout(BOUND):
            while True:
                try:
                    clients[0] = await server.open(transport, ALL)
                    break
                except Refused:
                    await asyncio.sleep(0.05)
        server.publish(("A", "q", 1.0))
        await clients[0].until(1)
        await reading

    # A long poll is gone when nobody asks any more; the others when their connection is.
    run(transport, conversation, max_connections=2, poll_timeout=5.0)


@every_transport
def test_a_cut_loses_nothing_and_repeats_nothing(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        client = await server.open(transport, ALL)
        for n in range(60):
            server.publish(*some(50, 50 * n))
            if n % 6 == 5:
                await client.until(50 * n - 100)
                client.cut()
                server.publish(*some(5, 50 * n))  # while it is away
                await client.resume()
        server.publish(("A", "q", 0.0))
        await client.until(3051)
        assert seqs_of(client.messages) == list(range(1, 3052))
        assert not [message for message in client.messages if message["T"] == "gap"]

    run(transport, conversation)


@every_transport
def test_a_throttled_client_that_was_cut_ends_on_the_last_value(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        client = await server.open(transport, {"quotes": ["*"], "max_hz": 50})
        server.publish(("A", "q", 1.0), ("B", "q", 2.0))
        await client.until(2)
        client.cut()
        server.publish(("A", "q", 3.0), ("A", "q", 4.0))
        await client.resume()
        await client.until(4)
        assert as_ticks(client.messages)[-1] == ("A", "q", 4.0)
        assert [seq for seq in seqs_of(client.messages) if seq <= 2] == [1, 2]

    run(transport, conversation)


@every_transport
def test_a_client_that_comes_to_the_servers_next_life_is_told_what_it_cannot_have(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        client = await server.open(transport, ALL)
        server.publish(*some(10))
        await client.until(10)
        epoch = client.position["epoch"]
        server.terminate()
        with pytest.raises(Ended):
            await client.forever()
        await asyncio.to_thread(server.running.wait, BOUND)
        with driven(server.address.rpartition(":")[2], transport.NEEDS) as other:
            other.publish(("A", "q", 1.0), ("B", "q", 2.0))
            await client.resume()
            begin = len(client.messages)
            await client.until(2)
            new = client.messages[begin:]
            assert [m for m in new if m["T"] == "gap"] == [
                {"T": "gap", "from": 11, "to": None, "reason": "epoch", "epoch": epoch}
            ]
            assert seqs_of(new) == [1, 2]

    run(transport, conversation)


@every_transport
def test_a_slow_client_is_told_what_it_lost(transport: type[Client]) -> None:
    ring, batch, batches = 16_384, 2000, 120

    async def conversation(server: Driven) -> None:
        client = await server.open(transport, ALL)
        ahead = await server.open(transport, {"trades": ["LAST"]})
        client.pause()
        for n in range(batches):
            server.publish(*some(batch, batch * n))
        server.publish(("LAST", "t", 1.0))
        last = len(server.ticks)
        await ahead.until(last)
        client.unpause()
        await client.until(last)
        expected, gaps = 1, 0
        for message in client.messages:
            if message["T"] == "gap":
                assert (message["from"], message["reason"]) == (expected, "lapped")
                expected, gaps = message["to"] + 1, gaps + 1
            elif message["T"] in "qt":
                assert message["seq"] == expected, "a tick is missing, and no gap tells of it"
                expected += 1
        assert gaps
        assert expected == last + 1

    run(transport, conversation, ring_ticks=ring)


@every_transport
def test_a_server_that_goes_down_says_so(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        client = await server.open(transport, ALL)
        server.publish(("A", "q", 1.0))
        await client.until(1)
        reading = asyncio.create_task(client.forever())
        server.publish(("A", "q", 2.0))
        while not any(message.get("seq") == 2 for message in client.messages):
            await asyncio.sleep(0.01)
        server.terminate()
        with pytest.raises(Ended) as ended:
            await reading
        assert ended.value.code == 3000
        assert await asyncio.to_thread(server.running.wait, BOUND) == 0

    run(transport, conversation)


@with_commands
def test_commands_that_follow_are_carried_out_and_answered_in_order(transport: type[Client]) -> None:
    async def conversation(server: Driven) -> None:
        client = await server.open(transport, {"quotes": ["A"]})
        await client.command(action="subscribe", quotes=["B"], max_hz=50)
        await client.command(action="unsubscribe", quotes=["A"])
        await client.command(action="dance")
        told: list[Message] = []
        while len(told) < 5:
            told += [message for message in await client.receive() if message["T"] not in "qt"]
        assert [(message["T"], message.get("quotes")) for message in told[1:4]] == [
            ("subscription", ["A"]),
            ("subscription", ["A", "B"]),
            ("subscription", ["B"]),
        ]
        assert told[4]["code"] == 400
        server.publish(("A", "q", 1.0), ("B", "q", 2.0))
        await client.until(2)
        assert seqs_of(client.messages) == [2]

    run(transport, conversation)
