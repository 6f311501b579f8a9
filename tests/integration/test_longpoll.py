"""HTTP long polling beyond what all transports have in common."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from marketfeed.stream.codes import CloseCode
from tests.conformance.transports import Http
from tests.integration.inside import Inside
from tests.integration.processes import BOUND

COMMAND = {"action": "subscribe", "quotes": ["*"]}


class Poll:
    """One client with a connection for each of its requests that may be under way."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.connections: list[Http] = []

    async def ask(self, method: str, path: str, body: Any = None) -> Http:
        http = Http(self.address)
        self.connections.append(http)
        await http.request(method, path, {}, b"" if body is None else json.dumps(body).encode())
        return http

    async def answer(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return await (await self.ask(method, path, body)).answer()

    async def open(self, *commands: Any, **more: Any) -> str:
        status, opened = await self.answer("POST", "/poll", {"commands": commands or [COMMAND], **more})
        assert (status, opened["cursor"]) == (200, 0)
        assert len(opened["session"]) >= 24
        return f"/poll/{opened['session']}"

    async def begun(self) -> str:
        """A session whose first answer was taken: the next is asked for with cursor 1."""
        path = await self.open()
        status, first = await self.answer("GET", f"{path}?cursor=0")
        assert (status, first["cursor"]) == (200, 1)
        return path


def run(conversation, **options) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND), Inside(**options) as inside:
            poll = Poll(inside.address)
            try:
                await conversation(inside, poll)
            finally:
                for http in poll.connections:
                    await http.gone()

    asyncio.run(bounded())


def seqs(answer: dict[str, Any]) -> list[int]:
    return [message["seq"] for message in answer["messages"] if message["T"] == "q"]


async def waits(inside: Inside) -> None:
    """Until a request waits for its answer."""
    (link,) = inside.gate._sessions
    while link._asking is None:
        await asyncio.sleep(0.001)


def test_each_answer_goes_on_where_the_one_before_ended():
    async def conversation(inside, poll):
        path = await poll.open()
        status, first = await poll.answer("GET", f"{path}?cursor=0")
        assert (status, first["cursor"]) == (200, 1)
        assert [message["T"] for message in first["messages"]] == ["success", "subscription"]
        assert first["position"] == {"epoch": inside.store.epoch, "seq": 0}
        waiting = await poll.ask("GET", f"{path}?cursor=1")
        await waits(inside)
        inside.publish("A", "B")
        _, second = await waiting.answer()
        assert (second["cursor"], seqs(second)) == (2, [1, 2])
        assert second["position"] == {"epoch": inside.store.epoch, "seq": 2}
        inside.publish("A", "B")  # while nobody asks
        _, third = await poll.answer("GET", f"{path}?cursor=2")
        assert (third["cursor"], seqs(third)) == (3, [3, 4])

    run(conversation)


def test_a_lost_answer_can_be_asked_for_again_and_again():
    async def conversation(inside, poll):
        path = await poll.begun()
        inside.publish("A")
        again = [await poll.answer("GET", f"{path}?cursor=1") for _ in range(3)]
        assert [seqs(answer) for _, answer in again] == [[1]] * 3
        inside.publish("A")
        assert (await poll.answer("GET", f"{path}?cursor=1"))[1] == again[0][1]
        assert seqs((await poll.answer("GET", f"{path}?cursor=2"))[1]) == [2]
        # What it has said that it has is not kept.
        for wrong in ("1", "0", "9", "x", "", "-1", "1" * 30):
            status, error = await poll.answer("GET", f"{path}?cursor={wrong}")
            assert (status, "cursor" in error["msg"]) == (400, True)

    run(conversation)


def test_who_asks_when_nothing_comes_is_answered_in_time_and_moves_on_nothing():
    async def conversation(inside, poll):
        path = await poll.begun()
        for _ in range(2):
            status, answer = await poll.answer("GET", f"{path}?cursor=1&wait=0")
            assert (status, answer["cursor"], answer["messages"]) == (200, 1, [])
        inside.publish("A")
        assert seqs((await poll.answer("GET", f"{path}?cursor=1"))[1]) == [1]

    run(conversation)


def test_of_two_who_ask_at_once_the_later_is_answered():
    async def conversation(inside, poll):
        path = await poll.begun()
        first = await poll.ask("GET", f"{path}?cursor=1")
        await waits(inside)
        second = await poll.ask("GET", f"{path}?cursor=1")
        status, error = await first.answer()
        assert (status, error["T"]) == (409, "error")
        inside.publish("A")
        status, answer = await second.answer()
        assert (status, seqs(answer)) == (200, [1])

    run(conversation)


def test_whoever_goes_away_while_waiting_loses_nothing():
    async def conversation(inside, poll):
        path = await poll.begun()
        gone = await poll.ask("GET", f"{path}?cursor=1")
        await waits(inside)
        await gone.gone()
        (link,) = inside.gate._sessions
        while link._asking is not None:
            await asyncio.sleep(0.001)
        inside.publish("A")
        assert seqs((await poll.answer("GET", f"{path}?cursor=1"))[1]) == [1]

    run(conversation)


def test_an_answer_is_bounded_and_the_rest_comes_with_the_next():
    async def conversation(inside, poll):
        path = await poll.open({**COMMAND, "snapshot": True}, {**COMMAND, "since": {"seq": 0}})
        inside.publish(*(["A", "B"] * 500))
        cursor, got, sizes = 0, [], []
        while not got or got[-1] < 1000:
            _, answer = await poll.answer("GET", f"{path}?cursor={cursor}")
            cursor, got = answer["cursor"], got + seqs(answer)
            sizes.append(len(json.dumps(answer)))
        assert got == list(range(1, 1001))
        assert max(sizes) < 1 << 20

    run(conversation)


def test_commands_that_follow_are_answered_in_the_stream():
    async def conversation(inside, poll):
        path = await poll.begun()
        more = [{"action": "unsubscribe", "quotes": ["*"]}, {"action": "subscribe", "quotes": ["B"]}, {"action": "x"}]
        assert (await poll.answer("POST", path, more))[0] == 204
        told, cursor = [], 1
        while len(told) < 3:
            _, answer = await poll.answer("GET", f"{path}?cursor={cursor}")
            cursor, told = answer["cursor"], told + answer["messages"]
        assert [(message["T"], message.get("quotes")) for message in told] == [
            ("subscription", []), ("subscription", ["B"]), ("error", None),
        ]  # fmt: skip
        status, error = await poll.answer("POST", path, [COMMAND] * 65)
        assert (status, "at most 64" in error["msg"]) == (400, True)

    run(conversation)


@pytest.mark.parametrize("how", ["deleted", "expired", "never there"])
def test_who_asks_for_a_session_that_is_not_there_is_told_to_open_another(how):
    async def conversation(inside, poll):
        path = await poll.begun()
        if how == "deleted":
            waiting = await poll.ask("GET", f"{path}?cursor=1")
            await waits(inside)
            assert (await poll.answer("DELETE", path))[0] == 204
            assert (await waiting.answer())[0] == 404
        elif how == "expired":
            inside.later(59)
            assert len(inside.gate) == 1
            inside.later(2)
        else:
            path = "/poll/" + "x" * 24
        assert len(inside.gate) == (how == "never there")
        for method in ("GET", "POST", "DELETE"):
            status, error = await poll.answer(method, f"{path}?cursor=1", COMMAND)
            assert (status, error["T"], "Open another" in error["msg"]) == (404, "error", True)
        again = await poll.open({**COMMAND, "since": {"epoch": inside.store.epoch, "seq": 0}})
        inside.publish("A")
        answer = {"cursor": 0, "messages": []}
        while not seqs(answer):
            _, answer = await poll.answer("GET", f"{again}?cursor={answer['cursor']}")
        assert seqs(answer) == [1]

    run(conversation)


def test_who_waits_does_not_expire():
    async def conversation(inside, poll):
        path = await poll.begun()
        waiting = await poll.ask("GET", f"{path}?cursor=1")
        await waits(inside)
        inside.later(100)
        inside.publish("A")
        assert seqs((await waiting.answer())[1]) == [1]

    run(conversation)


@pytest.mark.parametrize(
    ("body", "status", "hint"),
    [
        ({"feed": "nope"}, 404, "no feed 'nope'"),
        ({"colour": "red"}, 400, "colour"),
        ({"commands": 1}, 400, "commands"),
        ([], 400, "object"),
        ({"commands": [{"action": "dance"}]}, 400, "dance"),
        ({"commands": [COMMAND] * 65}, 400, "at most 64"),
        ({"commands": [COMMAND, {"action": "subscribe"}]}, 400, "names no symbols"),
    ],
)
def test_what_cannot_be_opened_is_refused_and_leaves_nothing_behind(body, status, hint):
    async def conversation(inside, poll):
        answered, error = await poll.answer("POST", "/poll", body)
        assert (answered, error["T"], hint in error["msg"]) == (status, "error", True), error
        assert len(inside.gate) == 0

    run(conversation)


def test_a_client_that_commands_on_and_on_without_asking_is_ended():
    async def conversation(inside, poll):
        path = await poll.open()
        for _ in range(2):
            await poll.answer("POST", path, [COMMAND] * 60)
        cursor, told = 0, {}
        while "close" not in told:
            status, told = await poll.answer("GET", f"{path}?cursor={cursor}")
            assert status == 200
            cursor = told["cursor"]
        assert told["close"] == {"code": 3001, "reason": "slow client"}
        assert len(inside.gate) == 0
        assert (await poll.answer("GET", f"{path}?cursor={cursor}"))[0] == 404

    run(conversation)


def test_an_end_tells_no_place_behind_what_was_given():
    async def conversation(inside: Inside, poll: Poll) -> None:
        path = await poll.open(COMMAND)
        _, first = await poll.answer("GET", f"{path}?cursor=0")
        inside.publish("A", "B")
        (link,) = inside.gate._sessions
        inside.gate.end(link, CloseCode.INTERNAL)
        _, last = await poll.answer("GET", f"{path}?cursor={first['cursor']}")
        assert last["close"] == {"code": 3004, "reason": "internal"}
        assert seqs(last) == []
        assert "position" not in last

    run(conversation)


def test_a_server_that_goes_down_waits_for_who_is_between_two_requests():
    async def conversation(inside, poll):
        path = await poll.open()
        inside.gate.close()
        emptied = asyncio.create_task(inside.gate.emptied())
        _, answer = await poll.answer("GET", f"{path}?cursor=0")
        assert answer["close"] == {"code": 3000, "reason": "shutdown"}
        await emptied

    run(conversation)
