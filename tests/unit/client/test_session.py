"""The client's half of the protocol, with no loop and no socket."""

import datetime
import json
from typing import Any

import pytest

from marketfeed.client.errors import BadMessage, CommandError, ConnectionRefused
from marketfeed.client.messages import Position, Subscription
from marketfeed.client.session import Credentials, Session, closed_for_good
from tests.unit.client.support import User, quote, reply

# ---- commands and answers


def test_nothing_is_sent_before_the_greeting_and_all_of_it_after() -> None:
    user = User()
    user.session.connected()
    assert user.subscribe(quotes=["A"]) == []
    user.hear({"T": "success", "msg": "connected", "epoch": 5})
    assert user.sent() == [{"action": "subscribe", "quotes": ["A"]}]
    assert user.sent() == []


def test_a_command_is_sent_with_its_options_and_answered_with_the_state() -> None:
    user = User()
    user.connect()
    assert user.subscribe(quotes=["A", "B*", "A"], trades=["*"], max_hz=4, snapshot=True) == [
        {"action": "subscribe", "quotes": ["A", "B*"], "trades": ["*"], "max_hz": 4, "snapshot": True}
    ]
    user.hear(reply(7, rules=[{"quotes": ["A"], "max_hz": 4.0}]))
    (answer,) = user.answers
    assert isinstance(answer, Subscription)
    assert (answer.seq, answer.epoch, answer.recovered, answer.rules[0].max_hz) == (7, 5, None, 4.0)


def test_a_condition_fields_and_a_heartbeat_are_sent_as_they_are_given() -> None:
    user = User()
    user.connect()
    assert user.subscribe(quotes=["A"], where="1<bid", fields=["bs", "bp", "bs"], heartbeat=2) == [
        {"action": "subscribe", "quotes": ["A"], "where": "1<bid", "fields": ["bp", "bs"], "heartbeat": 2}
    ]
    assert user.subscribe(quotes=["A"], fields=[], heartbeat=0) == [
        {"action": "subscribe", "quotes": ["A"], "fields": [], "heartbeat": 0}
    ]


@pytest.mark.parametrize(
    ("since", "wire"),
    [
        (Position(3, 5), {"seq": 3, "epoch": 5}),
        ({"seq": 0}, {"seq": 0}),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        (datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), "2024-01-01T00:00:00+00:00"),
    ],
)
def test_since_may_be_a_position_or_a_time(since: Any, wire: Any) -> None:
    user = User()
    user.connect()
    assert user.subscribe(quotes=["A"], since=since)[0]["since"] == wire


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ({}, ValueError),
        ({"quotes": "AAPL"}, TypeError),
        ({"quotes": [1]}, TypeError),
        ({"quotes": ["A"], "max_hz": 0}, ValueError),
        ({"quotes": ["A"], "max_hz": float("nan")}, ValueError),
        ({"quotes": ["A"], "max_hz": float("inf")}, ValueError),
        ({"quotes": ["A"], "where": 5}, TypeError),
        ({"quotes": ["A"], "where": "bid" * 10_000}, ValueError),
        ({"quotes": ["A"], "where": "\ud800"}, ValueError),
        ({"quotes": ["A"], "fields": "bp"}, TypeError),
        ({"quotes": ["A"], "fields": ["bp", 1]}, TypeError),
        ({"quotes": ["A"], "heartbeat": -1}, ValueError),
        ({"quotes": ["A"], "heartbeat": float("nan")}, ValueError),
        ({"quotes": ["A"], "heartbeat": float("inf")}, ValueError),
        ({"quotes": ["A"], "snapshot": True, "since": {"seq": 0}}, ValueError),
        ({"quotes": ["A"], "since": {"epoch": 5}}, ValueError),
        ({"quotes": ["A"], "since": datetime.datetime(2024, 1, 1)}, ValueError),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_before_it_is_sent(what: dict[str, Any], error: type) -> None:
    user = User()
    user.connect()
    with pytest.raises(error):
        user.subscribe(**what)
    assert user.sent() == []
    assert not user.session.waiting


def test_answers_come_in_the_order_of_the_commands_errors_among_them() -> None:
    user = User()
    user.connect()
    for symbol in "ABC":
        user.subscribe(quotes=[symbol])
    user.hear(reply(1))
    user.hear({"T": "error", "code": 405, "msg": "symbol limit exceeded"}, reply(3))
    a, b, c = user.answers
    assert isinstance(a, Subscription)
    assert isinstance(b, CommandError)
    assert (b.code, b.msg) == (405, "symbol limit exceeded")
    assert isinstance(c, Subscription)
    assert (a.seq, c.seq) == (1, 3)
    assert not user.session.waiting


def test_a_command_with_more_symbols_than_a_server_reads_at_once_goes_in_several_and_has_one_answer() -> None:
    symbols = [f"SYMBOL-{i:06d}" for i in range(10_000)]
    user = User()
    user.connect()
    sent = user.subscribe(quotes=symbols, since={"seq": 0})
    assert len(sent) > 1
    assert all(len(json.dumps(command)) < 64 * 1024 for command in sent)
    assert [symbol for command in sent for symbol in command["quotes"]] == symbols
    assert all(command["since"] == {"seq": 0} for command in sent)
    for i in range(len(sent)):
        assert user.answers == []
        user.hear(reply(100 + i, recovered=i != 1))
    (answer,) = user.answers
    assert isinstance(answer, Subscription)
    assert (answer.seq, answer.recovered) == (100, False)


def test_a_command_in_several_that_fails_in_part_has_one_answer_the_error() -> None:
    user = User()
    user.connect()
    sent = user.subscribe(quotes=[f"SYMBOL-{i:06d}" for i in range(10_000)])
    user.hear(reply(1))
    user.hear(*[{"T": "error", "code": 405, "msg": "limit"}] * (len(sent) - 1))
    (answer,) = user.answers
    assert isinstance(answer, CommandError)
    assert not user.session.waiting


def test_an_answer_that_nobody_asked_for_and_unknown_messages_change_nothing() -> None:
    user = User()
    user.connect()
    assert user.hear(reply(9), {"T": "success", "msg": "well"}, {"T": "weather", "rain": 1}, quote("A", 4)) != []
    assert user.answers == []
    assert user.session.failure is None


def test_what_is_not_the_protocol_is_an_error() -> None:
    user = User()
    user.connect()
    with pytest.raises(BadMessage):
        user.session.receive("<html>")


# ---- who is there


@pytest.mark.parametrize(
    ("credentials", "wire"),
    [
        (Credentials("k", "s"), {"action": "auth", "key": "k", "secret": "s"}),
        (Credentials(token="t"), {"action": "auth", "token": "t"}),
    ],
)
def test_credentials_are_sent_on_every_connection_and_commands_wait_for_the_answer(
    credentials: Credentials, wire: dict[str, str]
) -> None:
    user = User(Session(credentials))
    assert user.connect() == [wire]
    assert user.subscribe(quotes=["A"]) == []
    user.hear({"T": "success", "msg": "authenticated"})
    assert user.sent() == [{"action": "subscribe", "quotes": ["A"]}]
    user.hear(reply(4))
    assert user.cut() == [wire]
    assert not user.session.ready
    user.hear({"T": "success", "msg": "authenticated"})
    assert user.sent() == [{"action": "subscribe", "quotes": ["A"], "since": {"epoch": 5, "seq": 4}}]


@pytest.mark.parametrize("code", [402, 404, 400])
def test_credentials_that_are_not_accepted_are_the_end(code: int) -> None:
    user = User(Session(Credentials("k", "s")))
    user.connect()
    user.hear({"T": "error", "code": code, "msg": "no"})
    assert isinstance(user.session.failure, ConnectionRefused)
    assert user.session.failure.code == code


def test_being_authenticated_already_is_as_good() -> None:
    user = User(Session(Credentials("k", "s")))
    user.connect()
    user.hear({"T": "error", "code": 403, "msg": "already authenticated"})
    assert user.session.ready
    assert user.session.failure is None


@pytest.mark.parametrize("code", [406, 407, 500])
def test_an_error_before_the_session_begins_that_may_pass_is_kept_as_the_reason(code: int) -> None:
    user = User(Session(Credentials("k", "s")))
    user.connect()
    user.hear({"T": "error", "code": code, "msg": "later"})
    assert user.session.failure is None
    assert user.session.last_error is not None
    user.cut()
    assert user.session.last_error is None


@pytest.mark.parametrize("code", [406, 407])
def test_an_error_that_announces_the_end_answers_no_command(code: int) -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.hear({"T": "error", "code": code, "msg": "slow client"})
    assert user.answers == []
    assert user.session.last_error is not None


# ---- the end


@pytest.mark.parametrize(
    ("code", "for_good"),
    [
        (None, False),
        (1000, False),
        (1001, False),
        (1006, False),
        (1011, False),
        (3000, False),
        (3499, False),
        (3500, True),
        (3999, True),
        (4000, False),
        (1002, True),
        (1009, True),
    ],
)
def test_the_close_code_says_whether_to_connect_again(code: int | None, for_good: bool) -> None:
    assert closed_for_good(code) is for_good
