"""Options symbol by symbol, conditions, fields and heartbeats; without a loop."""

from __future__ import annotations

from math import inf

import pytest

from tests.unit.stream.support import QUOTE, TRADE


def test_one_session_may_want_one_symbol_whole_and_the_rest_throttled(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], max_hz=1)
    market.command(session, action="subscribe", quotes=["AAPL"])
    market.run(1.0)
    for price in range(10):
        market.publish(("AAPL", QUOTE, price), ("MSFT", QUOTE, price))
        market.run(0.005)
    market.run(1.0)
    got = [(t["S"], t["bp"]) for t in link.ticks()]
    assert [price for symbol, price in got if symbol == "AAPL"] == list(range(10))
    assert [price for symbol, price in got if symbol == "MSFT"] == [0.0, 9.0]
    assert link.messages()[1]["rules"] == [
        {"quotes": ["*"], "trades": [], "max_hz": 1.0},
        {"quotes": ["AAPL"], "trades": []},
    ]


def test_a_change_of_options_loses_no_tick(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"])
    market.publish(("AAPL", QUOTE, 1))
    market.run(0.005)
    market.publish(("AAPL", QUOTE, 2))  # waits for its window ...
    market.command(session, action="subscribe", quotes=["AAPL"], max_hz=1)  # ... when the lane is changed
    market.run(2.0)
    assert [t["bp"] for t in link.ticks()] == [1.0, 2.0]
    market.publish(("AAPL", QUOTE, 3))
    market.publish(("AAPL", QUOTE, 4))
    market.command(session, action="subscribe", quotes=["AAPL"])
    market.run(2.0)
    assert [t["bp"] for t in link.ticks()] == [1.0, 2.0, 3.0, 4.0]


def test_unsubscribing_ends_the_ticks_and_says_what_is_left(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL", "MSFT"])
    market.command(session, action="unsubscribe", quotes=["AAPL", "NEVER"])
    assert link.messages()[-1]["quotes"] == ["MSFT"]
    market.publish(("AAPL", QUOTE, 1), ("MSFT", QUOTE, 1))
    market.run(0.005)
    assert [t["S"] for t in link.ticks()] == ["MSFT"]


def test_where_keeps_only_the_ticks_it_holds_for_live_behind_and_in_a_snapshot(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], trades=["*"], where="bid >= 5 or price > 100")
    for price in range(10):
        market.publish(("AAPL", QUOTE, price), ("MSFT", TRADE, 95 + price))
        market.run(0.005)
    wanted = [seq for n in range(10) for seq in ([2 * n + 1] if n >= 5 else []) + ([2 * n + 2] if n > 5 else [])]
    assert link.seqs() == wanted
    again, of_again = market.session()
    market.command(
        again, action="subscribe", quotes=["*"], trades=["*"], where="bid>=5.0 or 100<price", since={"seq": 0}
    )
    market.run()
    assert of_again.seqs() == wanted
    last, of_last = market.session()
    market.command(last, action="subscribe", quotes=["*"], trades=["*"], where="bid < 5", snapshot=True)
    market.run()
    assert of_last.seqs() == []
    market.publish(("AAPL", QUOTE, 6))
    market.run(0.005)
    # The same condition in other words: one frame for both.
    assert link.frames[-1] is of_again.frames[-1]
    assert of_again.messages()[0]["rules"][0]["where"] == link.messages()[0]["rules"][0]["where"]


def test_fields_leaves_out_the_rest(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], trades=["*"], fields=["bp", "ap", "p"])
    market.publish(("AAPL", QUOTE, 1), ("AAPL", TRADE, 2))
    market.run(0.005)
    assert link.ticks() == [
        {"T": "q", "S": "AAPL", "bp": 1.0, "ap": 2.0, "seq": 1, "f": "sim"},
        {"T": "t", "S": "AAPL", "p": 2.0, "seq": 2, "f": "sim"},
    ]
    assert link.messages()[0]["rules"] == [{"quotes": ["*"], "trades": ["*"], "fields": ["ap", "bp", "p"]}]


def test_one_session_may_have_conditions_and_fields_symbol_by_symbol(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"], where="bid > 1")
    market.command(session, action="subscribe", quotes=["MSFT"], fields=["bp"])
    for price in range(4):
        market.publish(("AAPL", QUOTE, price), ("MSFT", QUOTE, price))
        market.run(0.005)
    assert [t["bp"] for t in link.ticks() if t["S"] == "AAPL"] == [2.0, 3.0]
    assert [set(t) for t in link.ticks() if t["S"] == "MSFT"] == [{"T", "S", "bp", "seq", "f"}] * 4


def test_a_condition_or_field_that_is_none_is_refused_and_changes_nothing(market):
    session, link = market.session()
    for bad in ({"where": "bid >"}, {"where": "eval(1)"}, {"fields": ["colour"]}, {"heartbeat": 0.01}):
        market.command(session, action="subscribe", quotes=["*"], **bad)
        assert link.messages()[-1]["code"] == 400
    assert session.state == {}
    assert market.hub._groups.lanes() == []


def test_a_heartbeat_comes_when_it_was_asked_for_and_says_how_far_the_client_is(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"], heartbeat=2)
    assert link.messages()[-1]["heartbeat"] == 2.0
    assert market.run() == pytest.approx(market.now + 2)
    market.publish(("MSFT", QUOTE, 1))
    market.run(1.0)
    market.run(1.0)
    beat = link.messages()[-1]
    assert (beat["T"], beat["seq"], beat["epoch"]) == ("heartbeat", 1, market.store.epoch)
    market.run(1.9)
    assert link.messages()[-1] is beat
    market.run(0.1)
    assert [m["T"] for m in link.messages()] == ["subscription", "heartbeat", "heartbeat"]
    market.command(session, action="subscribe", quotes=["AAPL"], heartbeat=0)
    assert market.run(10.0) == inf
    session.closed()
    assert len(market.hub._heartbeats) == 0


def test_a_heartbeat_of_a_client_that_is_behind_names_the_place_it_has_been_given(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"], heartbeat=1)
    link.room = 1
    for price in range(5):
        market.publish(("AAPL", QUOTE, price))
        market.run(0.5)
    assert [m["T"] for m in link.messages()] == ["subscription", "q"]
    link.drain(session, room=1)
    market.hub.run(market.now)
    link.drain(session)
    market.run(1.0)
    told = link.messages()
    for n, message in enumerate(told):
        if message["T"] == "heartbeat":
            assert message["seq"] == max(m["seq"] for m in told[:n] if m["T"] == "q")
