"""After a cut each tick still comes once, and what is lost is told: with no loop and no socket."""

from typing import Any

import pytest

from marketfeed.client.errors import CommandError, ConnectionFailed
from marketfeed.client.messages import Gap
from marketfeed.client.session import Session
from marketfeed.model import QUOTE
from tests.unit.client.support import User, heartbeat, instruments, quote, records, reply, seqs, trade

# ---- after a cut


def test_after_a_cut_it_asks_from_the_last_tick_that_came() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], trades=["B"])
    user.hear(reply(100))
    assert seqs(user.hear(quote("A", 101), trade("B", 104), quote("A", 109))) == [101, 104, 109]
    assert user.cut() == [{"action": "subscribe", "quotes": ["A"], "trades": ["B"], "since": {"epoch": 5, "seq": 109}}]
    assert not user.session.resumed
    user.hear(reply(109, recovered=True))
    assert user.session.resumed
    assert len(user.answers) == 1


def test_after_a_cut_before_any_tick_it_asks_from_where_the_answer_said() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.hear(reply(100))
    assert user.cut()[0]["since"] == {"epoch": 5, "seq": 100}


def test_a_snapshot_does_not_move_the_position_back() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["*"], snapshot=True)
    user.hear(reply(100))
    user.hear(quote("A", 3), quote("B", 57))
    assert user.cut() == [{"action": "subscribe", "quotes": ["*"], "since": {"epoch": 5, "seq": 100}}]


def position(seq: int | None) -> dict[str, Any]:
    return {"T": "position", "epoch": 5, "seq": seq}


SNAPSHOT = {"action": "subscribe", "quotes": ["*"], "snapshot": True, "since": {"epoch": 5, "seq": 100}}


@pytest.mark.parametrize("options", [{}, {"max_hz": 4}])
@pytest.mark.parametrize("come", [[], [position(None)], [position(None), quote("A", 90)], [heartbeat(0)]])
def test_a_snapshot_that_was_cut_is_asked_for_again(options: dict[str, Any], come: list[dict[str, Any]]) -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["*"], snapshot=True, **options)
    user.hear(reply(100))
    user.hear(*come)
    assert user.cut() == [SNAPSHOT | options]
    user.hear(reply(100, recovered=True))
    assert user.cut() == [SNAPSHOT | options]
    user.hear(reply(100, recovered=True), quote("A", 90))
    assert user.cut() == [{"action": "subscribe", "quotes": ["*"], **options, "since": {"epoch": 5, "seq": 100}}]


@pytest.mark.parametrize(
    ("come", "seq"),
    [
        ([quote("A", 90)], 100),
        ([position(None), quote("B", 95), quote("A", 90), position(100)], 100),
        ([position(None), quote("B", 95), position(100), quote("A", 110)], 110),
        ([heartbeat(100)], 100),
        ([heartbeat(105)], 105),
        ([quote("A", 101)], 101),
    ],
)
@pytest.mark.parametrize("options", [{}, {"max_hz": 4}])
def test_a_snapshot_that_came_whole_is_not_asked_for_again(
    options: dict[str, Any], come: list[dict[str, Any]], seq: int
) -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["*"], snapshot=True, **options)
    user.hear(reply(100))
    user.hear(*come)
    assert user.cut() == [{"action": "subscribe", "quotes": ["*"], **options, "since": {"epoch": 5, "seq": seq}}]


def test_what_comes_in_several_frames_moves_no_throttled_position_and_every_other() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["*"], max_hz=4)
    user.subscribe(trades=["*"])
    user.hear(reply(100), reply(100))
    user.hear(quote("A", 110), trade("A", 120), position(None), quote("B", 130), trade("A", 140))
    assert [command["since"]["seq"] for command in user.cut()] == [110, 140]
    user.hear(reply(110), reply(140))
    # Another connection has its own order.
    user.hear(quote("C", 150), position(None), quote("A", 180), trade("B", 170), position(160), quote("A", 190))
    assert [command["since"]["seq"] for command in user.cut()] == [190, 170]


def test_records_that_come_in_several_frames_move_no_throttled_position() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], max_hz=4)
    user.subscribe(quotes=["B"])
    user.hear(reply(10), reply(10), instruments(0, 2))
    user.hear(position(None))
    user.session.receive(records((0, QUOTE, 20), (2, QUOTE, 30)))
    assert [command["since"]["seq"] for command in user.cut()] == [10, 30]


def test_symbols_that_were_throttled_and_are_every_tick_now_may_still_be_owed_their_latest() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A", "B"], max_hz=4)
    user.subscribe(quotes=["A"])
    user.hear(reply(10), reply(20))
    since = {"epoch": 5, "seq": 20}
    assert user.cut()[1] == {"action": "subscribe", "quotes": ["A"], "snapshot": True, "since": since}
    user.hear(reply(10), reply(20), quote("A", 15))
    assert user.cut()[1] == {"action": "subscribe", "quotes": ["A"], "since": since}


def test_a_gap_of_a_tick_that_could_not_be_written_moves_nothing() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["*"])
    user.hear(reply(100))
    assert user.hear({"T": "gap", "from": 150, "to": 150, "reason": "internal"}) == [Gap(150, 150, "internal")]
    assert user.cut()[0]["since"]["seq"] == 100


def test_a_gap_moves_the_position_on_and_is_handed_to_the_user() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["*"])
    user.hear(reply(100))
    assert user.hear({"T": "gap", "from": 101, "to": 200, "reason": "lapped"}) == [Gap(101, 200, "lapped")]
    assert user.cut()[0]["since"]["seq"] == 200


def test_a_gap_between_two_lives_is_handed_to_the_user_and_the_new_life_is_followed() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["*"])
    user.hear(reply(100))
    assert user.cut(epoch=6)[0]["since"] == {"epoch": 5, "seq": 100}
    told = user.hear(
        reply(0, epoch=6, recovered=False), {"T": "gap", "epoch": 5, "from": 101, "to": None, "reason": "epoch"}
    )
    assert told == [Gap(101, None, "epoch", 5)]
    user.hear(quote("A", 2))
    assert user.session.epoch == 6
    assert user.cut(epoch=6)[0]["since"] == {"epoch": 6, "seq": 2}


def test_a_cut_during_the_resumption_asks_again_for_what_had_no_answer() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.subscribe(quotes=["B"], max_hz=2)
    user.hear(reply(10), reply(20))
    user.hear(quote("A", 30), quote("B", 31))
    first = user.cut()
    assert first == [
        {"action": "subscribe", "quotes": ["A"], "since": {"epoch": 5, "seq": 30}},
        {"action": "subscribe", "quotes": ["B"], "max_hz": 2, "since": {"epoch": 5, "seq": 31}},
    ]
    user.hear(reply(30, recovered=True))
    user.hear(quote("A", 40))
    second = user.cut()
    assert second == [
        {"action": "subscribe", "quotes": ["A"], "since": {"epoch": 5, "seq": 40}},
        {"action": "subscribe", "quotes": ["B"], "max_hz": 2, "since": {"epoch": 5, "seq": 31}},
    ]
    # Cut before even the greeting: the same once more.
    user.session.disconnected()
    user.session.connected()
    assert user.cut() == second


def test_a_command_without_an_answer_is_sent_again_behind_what_is_resumed() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.hear(reply(10))
    user.subscribe(trades=["C"], snapshot=True)
    user.unsubscribe(quotes=["A"])
    assert user.cut() == [
        {"action": "subscribe", "quotes": ["A"], "since": {"epoch": 5, "seq": 10}},
        {"action": "subscribe", "trades": ["C"], "snapshot": True},
        {"action": "unsubscribe", "quotes": ["A"]},
    ]
    user.hear(reply(10), reply(50), reply(51))
    assert len(user.answers) == 3
    assert user.cut() == [{"action": "subscribe", "trades": ["C"], "snapshot": True, "since": {"epoch": 5, "seq": 50}}]


def test_what_was_unsubscribed_is_not_asked_for_again() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A", "B"], trades=["A"])
    user.hear(reply(1))
    user.unsubscribe(quotes=["A"], trades=["A"])
    user.hear(reply(2))
    assert user.cut() == [{"action": "subscribe", "quotes": ["B"], "since": {"epoch": 5, "seq": 1}}]


def test_a_command_that_failed_is_not_asked_for_again() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.hear({"T": "error", "code": 409, "msg": "not entitled"})
    assert user.cut() == []
    assert user.session.resumed


def test_a_symbol_named_again_has_its_new_options_after_a_cut() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A", "B"])
    user.hear(reply(10))
    user.subscribe(quotes=["A"], max_hz=1)
    user.hear(reply(20))
    assert user.cut() == [
        {"action": "subscribe", "quotes": ["B"], "since": {"epoch": 5, "seq": 10}},
        {"action": "subscribe", "quotes": ["A"], "max_hz": 1, "since": {"epoch": 5, "seq": 20}},
    ]


def test_a_symbol_named_again_with_the_same_options_keeps_its_place() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.hear(reply(10))
    user.subscribe(quotes=["A", "B"])
    user.hear(reply(20))
    assert user.cut() == [
        {"action": "subscribe", "quotes": ["A"], "since": {"epoch": 5, "seq": 10}},
        {"action": "subscribe", "quotes": ["B"], "since": {"epoch": 5, "seq": 20}},
    ]


def test_history_asked_for_beside_a_live_stream_has_its_own_place() -> None:
    """B is given from long ago while A is at the head; a cut in between must lose nothing of B."""
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.hear(reply(1000))
    user.subscribe(quotes=["B"], since={"seq": 0})
    user.hear(reply(0, recovered=True))
    user.hear(quote("B", 1), quote("B", 2))
    user.hear(quote("A", 1001))
    user.hear(quote("B", 3))
    assert user.cut() == [
        {"action": "subscribe", "quotes": ["A"], "since": {"epoch": 5, "seq": 1001}},
        {"action": "subscribe", "quotes": ["B"], "since": {"epoch": 5, "seq": 3}},
    ]


def test_a_gap_of_one_part_leaves_the_others_where_they_are() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.subscribe(quotes=["B"], since={"seq": 0})
    user.hear(reply(1000), reply(0, recovered=False))
    user.hear({"T": "gap", "from": 1, "to": 400, "reason": "lapped"})
    assert [command["since"]["seq"] for command in user.cut()] == [1000, 400]


def test_parts_that_stand_at_one_place_are_asked_for_in_one_command() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.subscribe(quotes=["B"])
    user.subscribe(quotes=["C"], max_hz=1)
    user.hear(reply(10), reply(10), reply(10))
    assert user.cut() == [
        {"action": "subscribe", "quotes": ["A", "B"], "since": {"epoch": 5, "seq": 10}},
        {"action": "subscribe", "quotes": ["C"], "max_hz": 1, "since": {"epoch": 5, "seq": 10}},
    ]


def test_a_server_that_numbers_nothing_is_subscribed_again_and_the_hole_is_told() -> None:
    user = User()
    user.connect(epoch=None)
    user.subscribe(quotes=["A"])
    user.hear({"T": "subscription", "quotes": ["A"], "trades": [], "bars": []})
    user.hear({key: value for key, value in quote("A", 0).items() if key != "seq"})
    assert user.cut(epoch=None) == [{"action": "subscribe", "quotes": ["A"]}]
    assert user.hear({"T": "subscription", "quotes": ["A"], "trades": [], "bars": []}) == [Gap(0, None, "unnumbered")]


def test_a_server_that_will_not_resume_is_the_end() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.hear(reply(10))
    user.cut()
    assert seqs(user.hear(quote("A", 11), {"T": "error", "code": 409, "msg": "not entitled"})) == [11]
    assert isinstance(user.session.failure, CommandError)
    assert user.session.failure.code == 409


def test_a_server_that_cannot_resume_now_is_asked_again_on_the_next_connection() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.hear(reply(10))
    first = user.cut()
    user.hear({"T": "error", "code": 500, "msg": "internal error"})
    assert isinstance(user.session.failure, ConnectionFailed)
    assert user.cut() == first
    assert user.session.failure is None


# ---- which part a tick belongs to


@pytest.mark.parametrize(
    ("every", "throttled", "tick", "belongs_to"),
    [
        (["A"], ["*"], quote("A", 50), "every"),
        (["A"], ["*"], quote("B", 50), "throttled"),
        (["*"], ["A"], quote("A", 50), "throttled"),
        (["BTC-*"], ["*"], quote("BTC-USD", 50), "every"),
        (["BTC-*"], ["BTC-U*"], quote("BTC-USD", 50), "throttled"),
        (["?"], ["*"], quote("A", 50), "throttled"),
        (["A*"], ["*A"], quote("AA", 50), "throttled"),
        (["sim:A"], ["A"], quote("A", 50, "sim"), "every"),
        (["sim:A"], ["A"], quote("A", 50, "lean"), "throttled"),
        (["sim:*"], ["*"], quote("A", 50, "sim"), "every"),
        (["sim:*"], ["*"], quote("A", 50, "lean"), "throttled"),
        (["[A]*"], ["*"], quote("[A]x", 50), "every"),
        (["[A]*"], ["*"], quote("A", 50), "throttled"),
    ],
)
def test_a_tick_belongs_to_the_most_specific_rule(
    every: list[str], throttled: list[str], tick: dict[str, Any], belongs_to: str
) -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=every)
    user.subscribe(quotes=throttled, max_hz=1)
    user.hear(reply(10), reply(10))
    user.hear(tick)
    a, b = user.cut()
    assert (a["since"]["seq"], b["since"]["seq"]) == ((50, 10) if belongs_to == "every" else (10, 50))


def test_a_quote_and_a_trade_of_one_symbol_may_belong_to_different_parts() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.subscribe(trades=["A"], max_hz=1)
    user.hear(reply(10), reply(10))
    user.hear(quote("A", 20), trade("A", 30))
    assert [command["since"]["seq"] for command in user.cut()] == [20, 30]


def test_on_the_address_of_one_feed_its_name_may_stand_before_a_symbol() -> None:
    user = User(Session(feed="sim"))
    user.connect()
    user.subscribe(quotes=["sim:A"])
    user.subscribe(quotes=["B"])
    user.hear(reply(10), reply(10))
    user.hear(quote("A", 20), quote("B", 30))
    assert [command["since"]["seq"] for command in user.cut()] == [20, 30]


def test_a_tick_of_no_part_is_handed_on_and_moves_nothing() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"])
    user.subscribe(quotes=["B"])
    user.hear(reply(10), reply(11))
    assert seqs(user.hear(quote("C", 99))) == [99]
    assert [command["since"]["seq"] for command in user.cut()] == [10, 11]
