"""Conditions, fields and heartbeats over cuts: with no loop and no socket."""

from hypothesis import given
from hypothesis import strategies as st

from marketfeed.client.errors import CommandError
from marketfeed.client.messages import Gap, Heartbeat
from tests.unit.client.support import User, heartbeat, quote, reply, seqs, trade

BEAT = Heartbeat(5, 500, "2024-01-01T00:00:00.000000+00:00")

# ---- conditions and fields


def test_after_a_cut_it_asks_with_the_condition_and_the_fields_of_each() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], where="bid > 1", fields=["bp"])
    user.subscribe(trades=["*"], where="size > 100")
    user.subscribe(quotes=["B"])
    user.hear(reply(10), reply(10), reply(10))
    user.hear({"T": "q", "S": "A", "bp": 2.0, "seq": 20}, trade("A", 30), quote("B", 40))
    assert user.cut() == [
        {
            "action": "subscribe",
            "quotes": ["A"],
            "where": "bid > 1",
            "fields": ["bp"],
            "since": {"epoch": 5, "seq": 20},
        },
        {"action": "subscribe", "trades": ["*"], "where": "size > 100", "since": {"epoch": 5, "seq": 30}},
        {"action": "subscribe", "quotes": ["B"], "since": {"epoch": 5, "seq": 40}},
    ]


def test_conditions_are_one_where_the_server_says_so_however_they_are_written() -> None:
    """To the server A has its options already and stays where it is, behind: a cut must not lose what is between."""
    user = User()
    user.connect()
    rules = [{"quotes": ["A"], "trades": [], "where": "1 < bid"}]
    user.subscribe(quotes=["A"], where="bid>1", since={"seq": 0})
    user.hear(reply(0, rules=rules, recovered=True))
    user.hear(quote("A", 7))
    user.subscribe(quotes=["A"], where="1  <  bid")
    user.hear(reply(900, rules=rules))
    assert user.cut() == [{"action": "subscribe", "quotes": ["A"], "where": "1 < bid", "since": {"epoch": 5, "seq": 7}}]


def test_a_new_condition_begins_where_the_answer_says() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], where="bid > 1")
    user.hear(reply(10))
    user.subscribe(quotes=["A"])
    user.hear(reply(20))
    assert user.cut() == [{"action": "subscribe", "quotes": ["A"], "since": {"epoch": 5, "seq": 20}}]


def test_a_condition_that_is_none_is_the_answer_to_its_command_only() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], where="foo > 1", heartbeat=1)
    user.hear({"T": "error", "code": 400, "msg": "where: unknown column 'foo' at character 0: →foo > 1"})
    (answer,) = user.answers
    assert isinstance(answer, CommandError)
    assert "at character 0" in answer.msg
    assert user.cut() == []


def test_what_a_move_lost_leaves_the_others_where_they_are() -> None:
    """B gets other options while A and B are at 100 and the head is at 900: of A everything is still to come."""
    user = User()
    user.connect()
    user.subscribe(quotes=["A", "B"])
    user.hear(reply(100))
    user.subscribe(quotes=["B"], where="bid > 1")
    gap = {"T": "gap", "from": 101, "to": 900, "reason": "moved"}
    assert user.hear(reply(900), gap) == [Gap(101, 900, "moved")]
    assert user.cut() == [
        {"action": "subscribe", "quotes": ["A"], "since": {"epoch": 5, "seq": 100}},
        {"action": "subscribe", "quotes": ["B"], "where": "bid > 1", "since": {"epoch": 5, "seq": 900}},
    ]


# ---- heartbeats


def test_a_heartbeat_is_handed_on_and_moves_every_position_on_and_none_back() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], heartbeat=1)
    user.subscribe(quotes=["B"], where="bid > 1")
    user.subscribe(quotes=["C"], max_hz=1)
    user.hear(reply(10), reply(20), reply(600))
    messages = user.hear(quote("A", 30), heartbeat(500), quote("B", 501))
    assert messages[1] == BEAT
    assert seqs(messages) == [30, 501]
    assert [command["since"]["seq"] for command in user.cut()] == [500, 501, 600]


def test_a_heartbeat_of_another_life_moves_nothing() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], heartbeat=1)
    user.hear(reply(10), heartbeat(500, epoch=6))
    assert user.cut()[0]["since"] == {"epoch": 5, "seq": 10}


def test_a_heartbeat_moves_nothing_that_is_not_resumed_yet() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], heartbeat=1)
    user.subscribe(quotes=["B"], max_hz=1)
    user.hear(reply(10), reply(20))
    user.cut()
    user.hear(reply(10, recovered=True), heartbeat(500))
    assert [command["since"]["seq"] for command in user.cut()] == [500, 20]


def test_heartbeats_are_asked_for_once_again_on_every_connection() -> None:
    user = User()
    user.connect()
    assert user.session.heartbeat is None
    user.subscribe(quotes=["A"], heartbeat=2.5)
    user.subscribe(trades=["A"], max_hz=1)
    assert user.session.heartbeat is None
    user.hear(reply(10, heartbeat=2.5), reply(20, heartbeat=2.5))
    assert user.session.heartbeat == 2.5
    for _ in range(2):
        a, b = user.cut()
        assert user.session.heartbeat is None
        assert (a["heartbeat"], b.get("heartbeat")) == (2.5, None)
    user.hear(reply(10, heartbeat=2.5), reply(20, heartbeat=2.5))
    assert user.session.heartbeat == 2.5


def test_heartbeats_that_were_switched_off_stay_off() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], heartbeat=2.5)
    user.subscribe(quotes=["A"], heartbeat=0)
    user.hear(reply(10, heartbeat=2.5), reply(10))
    assert user.session.heartbeat is None
    (command,) = user.cut()
    assert "heartbeat" not in command


def test_heartbeats_of_a_connection_without_symbols_are_asked_for_with_the_next_ones() -> None:
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], heartbeat=2)
    user.hear(reply(10, heartbeat=2.0))
    user.unsubscribe(quotes=["A"])
    user.hear(reply(11, heartbeat=2.0))
    assert user.cut() == []
    assert user.unsubscribe(quotes=["A"]) == [{"action": "unsubscribe", "quotes": ["A"]}]
    user.hear(reply(12))
    refused = user.subscribe(quotes=["B"], where="foo")
    assert refused == [{"action": "subscribe", "quotes": ["B"], "where": "foo", "heartbeat": 2}]
    user.hear({"T": "error", "code": 400, "msg": "where"})
    # It was refused with all that was in it.
    assert user.subscribe(quotes=["B"]) == [{"action": "subscribe", "quotes": ["B"], "heartbeat": 2}]
    user.hear(reply(13, heartbeat=2.0))
    assert user.subscribe(quotes=["C"]) == [{"action": "subscribe", "quotes": ["C"]}]


# ---- whatever happens


@given(st.lists(st.sampled_from(["match", "other", "heartbeat", "cut or back"]), max_size=60), st.integers(1, 20))
def test_a_filtered_stream_is_complete_but_for_the_gaps_that_are_told(steps: list[str], held: int) -> None:
    """Against a server whose ring holds the last ``held`` ticks, of which only some satisfy the condition."""
    user = User()
    user.connect()
    user.subscribe(quotes=["A"], where="bid > 1", heartbeat=1)
    user.hear(reply(0, heartbeat=1.0))
    there, head, told = True, 0, 0
    matching: list[int] = []
    got: list[int] = []
    lost: set[int] = set()
    for step in [*steps, *(["cut or back"] if steps.count("cut or back") % 2 else [])]:
        if step in ("match", "other"):
            head += 1
            if step == "match":
                matching.append(head)
        messages = []
        if step == "match" and there:
            messages, told = [quote("A", head)], head
        elif step == "heartbeat" and there:
            messages, told = [heartbeat(head)], head
        elif step == "cut or back":
            there = not there
            if not there:
                user.session.disconnected()
                continue
            (command,) = user.connect()
            assert command == {
                "action": "subscribe",
                "quotes": ["A"],
                "where": "bid > 1",
                "heartbeat": 1,
                "since": {"epoch": 5, "seq": told},
            }
            oldest = max(1, head - held + 1)
            messages = [reply(told, heartbeat=1.0, recovered=oldest <= told + 1)]
            if oldest > told + 1:
                messages.append({"T": "gap", "from": told + 1, "to": oldest - 1, "reason": "lapped"})
                lost |= set(range(told + 1, oldest))
                told = oldest - 1
            missed = [seq for seq in matching if seq > told]
            messages += [quote("A", seq) for seq in missed]
            told = max([told, *missed])
        got += seqs(user.hear(*messages))
    assert got == [seq for seq in matching if seq not in lost]
