"""Bars in the client: typed messages, commands, and where they are resumed."""

from __future__ import annotations

import json
import math

import pytest

from marketfeed.client.messages import Bar, UpdatedBar, decode_frame, encode_message
from tests.unit.client.support import User, bar, quote, reply, seqs


def test_a_bar_and_an_updated_one_are_typed() -> None:
    told, again = decode_frame(json.dumps([bar("A", 7), bar("A", 9, "u", sec=5, **{"from": "quotes"}, f="sim")]))
    assert told == Bar("A", 1.0, 3.0, 0.5, 2.0, 10.0, 4, 1.5, "2024-01-01T00:00:00Z", 7)
    assert (told.seconds, told.source, told.feed, told.t) == (60, "trades", "", 1_704_067_200_000_000_000)
    assert isinstance(again, UpdatedBar)
    assert isinstance(again, Bar)
    assert not isinstance(told, UpdatedBar)
    assert (again.seconds, again.source, again.feed) == (5, "quotes", "sim")


def test_without_volume_there_is_no_average() -> None:
    (one,) = decode_frame(json.dumps([bar("A", 7, v=0, vw=0)]))
    assert isinstance(one, Bar)
    assert math.isnan(one.vwap)


@pytest.mark.parametrize(
    "wire",
    [
        bar("A", 7),
        bar("A", 7, "u", sec=5),
        bar("A", 7, v=0, vw=0, **{"from": "quotes"}),
        bar("A", 7, "u", v=0, vw=0),
        {"T": "b", "S": "A", "c": 2.0, "seq": 7},
        {"T": "u", "S": "A", "c": 2.0, "v": 0.0, "seq": 7, "vw": 0.0},
    ],
)
def test_a_bar_is_written_as_it_came(wire: dict[str, object]) -> None:
    (message,) = decode_frame(json.dumps([wire]))
    assert isinstance(message, Bar)
    assert json.loads(encode_message(message)) == wire


def test_bars_are_asked_for_and_given_up() -> None:
    user = User()
    user.connect()
    assert user.subscribe(bars=["A"], updated_bars=["*"], bar_seconds=5) == [
        {"action": "subscribe", "bars": ["A"], "updatedBars": ["*"], "bar_seconds": 5}
    ]
    user.hear(reply(3, bars=["A"], updatedBars=["*"]))
    answer = user.answers[-1]
    assert (answer.bars, answer.updated_bars) == (["A"], ["*"])
    assert user.unsubscribe(bars=["A"]) == [{"action": "unsubscribe", "bars": ["A"]}]


def test_bars_are_resumed_from_the_last_that_came_with_their_length() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.hear(reply(3))
    user.subscribe(bars=["A"], updated_bars=["A"], bar_seconds=5)
    rule = {"quotes": [], "trades": [], "bars": ["A"], "updatedBars": ["A"], "bar_seconds": 5}
    user.hear(reply(4, rules=[{"quotes": ["A"], "trades": []}, rule]))
    assert seqs(user.hear(quote("A", 10), bar("A", 12, sec=5), bar("A", 13, "u", sec=5), quote("A", 15))) == [
        10, 12, 13, 15,
    ]  # fmt: skip
    assert user.cut() == [
        {"action": "subscribe", "quotes": ["A"], "since": {"seq": 15, "epoch": 5}},
        {
            "action": "subscribe",
            "bars": ["A"],
            "updatedBars": ["A"],
            "bar_seconds": 5,
            "since": {"seq": 13, "epoch": 5},
        },
    ]


def test_a_length_is_not_asked_for_where_no_bars_are_left() -> None:
    """The server would say that it makes no sense, and nothing would be resumed."""
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], bars=["A"], bar_seconds=5)
    user.hear(reply(3))
    user.unsubscribe(bars=["A"])
    user.hear(reply(3))
    assert user.cut() == [{"action": "subscribe", "quotes": ["A"], "since": {"seq": 3, "epoch": 5}}]


def test_of_a_command_that_is_cut_in_several_only_those_with_bars_name_the_length() -> None:
    user = User()
    user.connect()
    commands = user.subscribe(quotes=[f"{n:030d}" for n in range(2000)], bars=["A"], bar_seconds=5)
    assert len(commands) > 1
    assert [("bars" in command) == ("bar_seconds" in command) for command in commands] == [True] * len(commands)


def test_what_makes_no_sense_is_refused_before_it_is_sent() -> None:
    user = User()
    user.connect()
    with pytest.raises(ValueError, match="bar_seconds is the length of bars"):
        user.subscribe(quotes=["A"], bar_seconds=5)
    with pytest.raises(TypeError, match="bar_seconds is a whole number"):
        user.subscribe(bars=["A"], bar_seconds=1.5)
    with pytest.raises(TypeError, match="bars is a list of symbols"):
        user.subscribe(bars="A")
    with pytest.raises(ValueError, match="give quotes, trades or bars"):
        user.subscribe()
    assert user.sent() == []
