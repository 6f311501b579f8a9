"""One client's commands and answers, without a network."""

from __future__ import annotations

import logging

import msgspec
import orjson
import pytest

from marketfeed.stream import protocol
from marketfeed.stream.codes import CloseCode, ErrorCode
from marketfeed.stream.session import Session
from tests.unit.stream.support import QUOTE, TICK, ListLink, Market, np

#: More of anything than is kept for one client.
MANY = 1000


@pytest.fixture
def market() -> Market:
    market = Market()
    for name in ("AAPL", "MSFT"):
        market.instrument(name)
    return market


def authenticate(given: protocol.Auth) -> bool:
    """One key is good; one finds a defect of ours."""
    if given.key == "broken":
        raise RuntimeError("the table of keys is broken")
    return (given.key, given.secret) == ("key", "secret")


def told(link: ListLink) -> list[str]:
    """Each message in short."""
    return [
        f"{message['T']} {message.get('code') or message.get('msg') or ''}".strip()
        for message in link.messages()
        if message["T"] not in ("q", "t")
    ]


def good(market: Market, session: Session, *symbols: str, **more) -> None:
    market.command(session, action="subscribe", quotes=list(symbols or ("AAPL",)), **more)


# ---- the start ---------------------------------------------------------------------------------------------------


def test_the_first_message_says_which_life_of_the_server_this_is(market):
    session, link = market.session()
    session.start("1.2.3")
    assert link.messages() == [
        {"T": "success", "msg": "connected", "epoch": market.store.epoch, "version": "1.2.3"},
    ]


def test_without_keys_everybody_may_subscribe_and_auth_is_accepted_again_and_again(market):
    session, link = market.session()
    session.start("1")
    good(market, session)
    for _ in range(2):
        market.command(session, action="auth", key="any", secret="thing")
    assert told(link) == ["success connected", "subscription", "success authenticated", "success authenticated"]


# ---- keys --------------------------------------------------------------------------------------------------------


def test_where_there_are_keys_nothing_is_given_before_a_good_auth(market):
    session, link = market.session(authenticate=authenticate)
    session.start("1")
    good(market, session)
    market.command(session, action="unsubscribe", quotes=["AAPL"])
    market.publish(("AAPL", QUOTE, 1))
    market.run(1.0)
    assert told(link) == ["success connected", "error 401", "error 401"]
    market.command(session, action="auth", key="key", secret="secret")
    good(market, session)
    market.publish(("AAPL", QUOTE, 2))
    market.run(1.0)
    assert told(link)[3:] == ["success authenticated", "subscription"]
    assert [tick["bp"] for tick in link.ticks()] == [2.0]
    assert link.closed is None


def test_to_authenticate_once_is_enough(market):
    session, link = market.session(authenticate=authenticate)
    for _ in range(2):
        market.command(session, action="auth", key="key", secret="secret")
    market.command(session, action="auth", key="key", secret="wrong")
    good(market, session)
    assert told(link) == ["success authenticated", "error 403", "error 403", "subscription"]
    assert link.closed is None


def test_bad_credentials_are_told_and_end_the_connection(market):
    session, link = market.session(authenticate=authenticate)
    session.start("1")
    market.command(session, action="auth", key="key", secret="guess")
    market.command(session, action="auth", key="key", secret="secret")
    good(market, session)
    assert told(link) == ["success connected", "error 402"]
    assert link.closed is not None
    assert link.closed[0] == CloseCode.AUTH_FAILED
    assert not session.authenticated


@pytest.mark.parametrize(
    ("credentials", "expected", "code"),
    [
        (protocol.Auth(key="key", secret="secret"), ["success connected", "success authenticated"], None),
        (protocol.Auth(key="key", secret="guess"), ["success connected", "error 402"], CloseCode.AUTH_FAILED),
        (protocol.Auth(), ["success connected", "error 402"], CloseCode.AUTH_FAILED),
        (None, ["success connected"], None),
    ],
)
def test_credentials_of_the_handshake_count_like_the_command(market, credentials, expected, code):
    session, link = market.session(authenticate=authenticate)
    session.start("1", credentials)
    assert told(link) == expected
    assert (link.closed and link.closed[0]) == code


def test_who_does_not_authenticate_in_time_is_told_and_cut(market):
    session, link = market.session(authenticate=authenticate)
    session.auth_timeout()
    assert told(link) == ["error 404"]
    assert link.closed is not None
    assert link.closed[0] == CloseCode.AUTH_TIMEOUT


def test_who_did_authenticate_has_all_the_time_there_is(market):
    for more in ({}, {"authenticate": authenticate}):
        session, link = market.session(**more)
        market.command(session, action="auth", key="key", secret="secret")
        session.auth_timeout()
        assert link.closed is None


# ---- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_defect_of_ours_is_answered_with_500_logged_and_the_connection_goes_on(market, caplog):
    session, link = market.session(authenticate=authenticate)
    with caplog.at_level(logging.INFO, "marketfeed.session"):
        market.command(session, action="auth", key="broken", secret="secret")
    assert told(link) == ["error 500"]
    assert "the table of keys is broken" not in link.messages()[0]["msg"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "the table of keys is broken" in str(record.exc_info[1])
    assert link.closed is None
    market.command(session, action="auth", key="key", secret="secret")
    good(market, session)
    market.publish(("AAPL", QUOTE, 1))
    market.run(1.0)
    assert told(link)[1:] == ["success authenticated", "subscription"]
    assert len(link.ticks()) == 1


def test_what_is_no_command_is_answered_and_the_first_is_logged_in_one_line_and_the_connection_goes_on(market, caplog):
    session, link = market.session()
    with caplog.at_level(logging.INFO, "marketfeed.session"):
        forged = '{"action":"subscribe","x\\n2026-01-01 ERROR forged":1}'
        for data in (forged, "{", b"\xc1", '{"action":"subscribe"}'):
            session.receive(data, market.now)
    assert told(link) == ["error 400"] * 4
    assert len(caplog.records) == 1
    assert all("\n" not in record.getMessage() for record in caplog.records)
    good(market, session)
    assert told(link)[-1] == "subscription"


def test_a_command_may_come_as_msgpack_whatever_the_answers_are_written_in(market):
    session, link = market.session()
    session.receive(msgspec.msgpack.encode({"action": "subscribe", "quotes": ["AAPL"]}), market.now)
    assert link.messages()[-1]["quotes"] == ["AAPL"]


def test_more_symbols_than_a_client_may_have_are_refused_whole_and_what_it_has_stays(market):
    session, link = market.session(max_symbols=3)
    good(market, session, "A", "B")
    good(market, session, "C", "D")
    good(market, session, "A", "B", max_hz=1)  # no more than before
    market.command(session, action="subscribe", trades=["A"])
    market.command(session, action="subscribe", trades=["B"])
    market.command(session, action="unsubscribe", quotes=["A"])
    market.command(session, action="subscribe", trades=["B"])
    assert told(link) == [
        "subscription",
        "error 405",
        "subscription",
        "subscription",
        "error 405",
        "subscription",
        "subscription",
    ]
    assert (link.messages()[-1]["quotes"], link.messages()[-1]["trades"]) == (["B"], ["A", "B"])
    assert link.closed is None


def test_more_different_options_than_a_client_may_have_are_refused_whole_and_what_it_has_stays(market):
    session, link = market.session(max_rules=2)
    good(market, session, "A")
    good(market, session, "B", max_hz=1)
    before = dict(session.state)
    good(market, session, "C", where="bid > 1")
    good(market, session, "B", "C", fields=["bp"], since={"seq": 0})  # of the second rule nothing is left by then
    assert told(link) == ["subscription", "subscription", "error 405", "subscription"]
    assert "2 different options" in link.messages()[2]["msg"]
    assert dict(session.state) != before
    good(market, session, "A", max_hz=2)
    good(market, session, "D", max_hz=2, snapshot=True)  # the same options once more are no more of them
    good(market, session, "D", max_hz=3)
    market.command(session, action="unsubscribe", quotes=["B", "C"])
    good(market, session, "D", max_hz=3)
    assert told(link)[4:] == ["subscription", "subscription", "error 405", "subscription", "subscription"]
    assert [rule["quotes"] for rule in link.messages()[-1]["rules"]] == [["A"], ["D"]]
    assert link.closed is None


def test_however_many_options_a_client_tries_the_hub_has_as_many_groups_as_it_may_have(market):
    session, link = market.session(max_rules=5)
    for n in range(MANY):
        good(market, session, f"S{n}", fields=["bp"], where=f"bid > {n}", max_hz=1 + n % 50)
    assert len(session.subscribers) == 5
    assert sum(len(lane.groups) for lane in market.hub._groups.lanes()) == 5
    assert told(link).count("error 405") == MANY - 5
    session.closed()
    assert market.hub._groups.lanes() == []


def test_snapshot_and_a_time_exclude_each_other(market):
    session, link = market.session()
    good(market, session, snapshot=True, since="2024-01-01T00:00:00Z")
    assert told(link) == ["error 400"]
    assert session.state == {}


@pytest.mark.parametrize(
    "since", [{"seq": 1}, {"seq": 2, "epoch": "this"}, "2024-13-01T00:00:00Z"], ids=["no epoch", "beyond", "no time"]
)
def test_a_position_that_is_none_is_refused_and_nothing_is_subscribed(market, since):
    market.publish(("AAPL", QUOTE, 1))
    if isinstance(since, dict) and "epoch" in since:
        since["epoch"] = market.store.epoch
    session, link = market.session()
    good(market, session, since=since)
    assert told(link) == ["error 400"]
    assert session.state == {}
    assert session.subscribers == []


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_time_far_from_any_tick_is_still_a_time(market, time):
    market.publish(("AAPL", QUOTE, 1))
    session, link = market.session()
    good(market, session, since=time)
    market.run(1.0)
    assert told(link) == ["subscription"]
    assert len(link.ticks()) == (time < "1970")


@pytest.mark.parametrize("max_hz", [0.001, 1, 1e6])
def test_any_rate_that_the_protocol_allows_is_served(market, max_hz):
    session, link = market.session()
    good(market, session, max_hz=max_hz, snapshot=True)
    market.publish(("AAPL", QUOTE, 1))
    market.run(1.0)
    assert told(link) == ["subscription"]
    good(market, session, max_hz=max_hz)
    assert told(link) == ["subscription"] * 2


# ---- a client that does not read -----------------------------------------------------------------------------------


def test_answers_wait_in_order_for_a_link_that_is_full(market):
    session, link = market.session()
    good(market, session, "A")
    link.room = 1
    for symbol in "BCDEF":
        good(market, session, symbol)
    assert len(link.messages()) == 2
    link.drain(session)
    assert [message["quotes"] for message in link.messages()] == [list("ABCDEF"[:n]) for n in range(1, 7)]
    market.publish(("F", QUOTE, 1))
    market.run(1.0)
    assert [tick["S"] for tick in link.ticks()] == ["F"]


@pytest.mark.parametrize("data", ["{", '{"action":"subscribe","quotes":["AAPL"]}'], ids=["errors", "answers"])
def test_a_client_that_asks_on_without_reading_is_cut_before_much_waits_for_it(market, data):
    session, link = market.session()
    link.room = 0
    asked = 0
    while link.closed is None and asked < MANY:
        session.receive(data, market.now)
        asked += 1
        assert len(session._outbox) <= 64
    assert link.closed is not None
    assert link.closed[0] == CloseCode.SLOW_CLIENT
    assert 32 <= asked < 128  # some patience, but not much
    assert session._outbox == []
    assert market.hub._groups.lanes() == []


def behind(market: Market) -> tuple[Session, ListLink]:
    """A client that is behind with every tick of `*`, so that no other subscriber of it can take a part of that."""
    session, link = market.session()
    good(market, session, "*")
    market.publish(("AAPL", QUOTE, 1))
    link.room = 1
    market.run(1.0)
    market.publish(("AAPL", QUOTE, 2))
    market.run(1.0)
    assert link.full
    return session, link


# ---- the end -----------------------------------------------------------------------------------------------------


def test_nothing_is_sent_and_nothing_is_done_after_the_end(market):
    session, link = market.session()
    good(market, session, "*")
    session.end(CloseCode.SHUTDOWN)
    frames = len(link.frames)
    market.publish(("AAPL", QUOTE, 1))
    good(market, session, "MSFT")
    session.receive("{", market.now)
    session.tell(protocol.authenticated())
    session.auth_timeout()
    session.writable()
    market.hub.stalled(session)
    market.run(1.0)
    assert len(link.frames) == frames
    assert session.state == {}
    assert market.hub._groups.lanes() == []


def test_the_reason_of_the_end_is_told_first_and_the_first_end_counts(market):
    session, link = market.session()
    session.end(CloseCode.CONNECTION_LIMIT, protocol.error(ErrorCode.CONNECTION_LIMIT, "no more room"))
    session.end(CloseCode.SHUTDOWN, protocol.error(ErrorCode.INTERNAL, "again"))
    assert told(link) == ["error 406"]
    assert link.closed == (CloseCode.CONNECTION_LIMIT, "connection limit")


def test_an_end_while_the_link_is_full_sends_nothing_into_it(market):
    session, link = behind(market)
    frames = len(link.frames)
    session.end(CloseCode.SHUTDOWN, protocol.error(ErrorCode.INTERNAL, "going"))
    link.full = False
    session.writable()
    market.run(1.0)
    assert len(link.frames) == frames
    assert link.closed == (CloseCode.SHUTDOWN, "shutdown")


def test_a_connection_that_has_gone_leaves_nothing_and_may_go_twice(market):
    session, link = behind(market)
    good(market, session, "AAPL", max_hz=1)  # waits
    for _ in range(2):
        session.closed()
    link.full = False
    market.run(1.0)
    assert market.hub._groups.lanes() == []
    assert session.subscribers == []
    assert link.closed is None  # it was the client who went


def test_the_answers_are_in_the_encoding_of_the_session(market):
    session, link = market.session(encoding="msgpack")
    session.start("1")
    assert link.frames[0][:1] == b"B"
    assert msgspec.msgpack.decode(link.frames[0][2:])[0]["msg"] == "connected"
    text, link = market.session()
    text.start("1")
    assert orjson.loads(link.frames[0].removeprefix(b"T "))[0]["msg"] == "connected"


def test_a_position_is_told_only_where_resuming_there_loses_nothing(market):
    session, link = market.session()
    assert session.position() == 0
    market.publish(*[("A", QUOTE, 1.0)] * 3)
    assert session.position() == 3
    market.command(session, action="subscribe", quotes=["*"], snapshot=True)
    assert session.position() is None
    market.run()
    assert session.position() == 3
    link.room = 1
    market.publish(("A", QUOTE, 2.0))
    market.run(1.0)
    market.publish(*[("A", QUOTE, 3.0)] * 2000)  # more than the ring has
    market.run(1.0)
    assert session.position() == 4
    link.drain(session, 1)
    market.run(1.0)
    assert link.messages()[-1]["T"] == "gap"
    assert session.position() == link.messages()[-1]["to"]
    market.command(session, action="dance")
    assert session.position() is None
    link.drain(session)
    market.run(1.0)
    assert session.position() == 2004


class Counted(dict):
    """A dict that knows how many keys were looked at, one after the other."""

    looked_at = 0

    def __iter__(self):
        for key in super().__iter__():
            self.looked_at += 1
            yield key


def test_one_more_symbol_costs_as_much_as_there_are_and_not_the_square_of_it(market):
    session, _ = market.session()
    session.state = Counted()
    for n in range(100):
        market.command(session, action="subscribe", quotes=[f"S{n}"], where=f"bid > {n}")
    assert len(session.subscribers) == 100
    before = session.state.looked_at
    market.command(session, action="subscribe", quotes=["ONE-MORE"], where="bid > 1000")
    assert session.state.looked_at - before <= 10 * 100


# ---- a command that takes several steps --------------------------------------------------------------------------

TIME = "2023-11-14T22:13:20.000060000Z"  # of tick number 60,001


@pytest.fixture
def wide() -> Market:
    """Held in more than two steps."""
    market = Market(ticks=1 << 17)
    market.instrument("AAPL")
    for _ in range(7):
        batch = np.zeros(10_000, TICK)
        batch["kind"], batch["ts_event"] = QUOTE, 1_700_000_000_000_000_000 + market.store.ring.head + np.arange(10_000)
        market.store.publish(batch)
    return market


def test_a_time_is_looked_for_in_steps_and_then_answered_as_of_when_it_was_asked_for(wide):
    session, link = wide.session()
    good(wide, session, since=TIME, heartbeat=0.1)
    assert told(link) == []
    assert (session.looking, session.position()) == (True, None)
    assert wide.hub.due() < wide.now
    wide.publish(("AAPL", QUOTE, 7))
    assert wide.hub.run(wide.now) < wide.now
    wide.run(1.0)
    state = next(message for message in link.messages() if message["T"] == "subscription")
    assert (state["seq"], state["recovered"]) == (60_001, True)
    assert [tick["seq"] for tick in link.ticks()] == list(range(60_002, 70_002))
    assert not session.looking


def test_commands_that_come_meanwhile_are_carried_out_after_it_in_their_order(wide):
    session, link = wide.session()
    good(wide, session, "AAPL", since=TIME)
    good(wide, session, "MSFT", colour="red")
    good(wide, session, "B", since=TIME)
    session.receive("{", wide.now)
    wide.command(session, action="unsubscribe", quotes=["AAPL"])
    assert told(link) == []
    wide.run(1.0)
    assert told(link) == ["subscription", "error 400", "subscription", "error 400", "subscription"]
    assert [state["quotes"] for state in link.messages() if state["T"] == "subscription"] == [
        ["AAPL"],
        ["AAPL", "B"],
        ["B"],
    ]


@pytest.mark.parametrize("size", [10, 30_000])
def test_no_more_commands_wait_than_may_and_none_is_lost(wide, size):
    session, link = wide.session()
    good(wide, session, "AAPL", since=TIME)
    for n in range(MANY):
        session.receive(orjson.dumps({"action": "unsubscribe", "quotes": [f"S{n}", "x" * size]}), wide.now)
        assert len(session._waiting) <= 64
        assert sum(map(len, session._waiting)) <= 1 << 16
    wide.run()
    assert len(told(link)) == 1 + MANY


def test_what_cannot_be_subscribed_to_is_told_before_it_is_looked_for(wide):
    session, link = wide.session()
    for n in range(1, 16):
        wide.command(session, action="subscribe", bars=[f"S{n}"], bar_seconds=n)
    wide.command(session, action="subscribe", bars=["AAPL"], bar_seconds=16, since=TIME)
    assert told(link)[-1] == "error 405"
    assert not session.looking


def test_a_client_that_is_gone_is_looked_for_no_further(wide):
    session, link = wide.session()
    good(wide, session, since=TIME)
    session.closed()
    assert wide.hub.due() > wide.now
    wide.run(1.0)
    assert (link.messages(), session.subscribers) == ([], [])


def test_many_that_look_at_a_time_take_turns_and_others_are_served_meanwhile(wide):
    searching = [wide.session() for _ in range(9)]
    live, link = wide.session()
    good(wide, live)
    for session, _ in searching:
        good(wide, session, since=TIME)
    wide.publish(("AAPL", QUOTE, 7))
    wide.now += 1.0
    wide.hub.run(wide.now)
    assert len(link.ticks()) == 1
    assert any(session.looking for session, _ in searching)
    wide.run()
    assert all(len(link.ticks()) == 10_000 for _, link in searching)
