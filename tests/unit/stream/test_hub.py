"""Delivery of every tick, without a loop and without a network."""

from __future__ import annotations

from math import inf

import pytest

from tests.unit.stream.support import QUOTE, TRADE, Market


def test_every_tick_of_the_symbols_asked_for_arrives_once_and_in_order(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"], trades=["MSFT"])
    for price in range(3):
        market.publish(("AAPL", QUOTE, price), ("AAPL", TRADE, price), ("MSFT", QUOTE, price), ("MSFT", TRADE, price))
        market.run(0.005)
    assert link.seqs() == [1, 4, 5, 8, 9, 12]
    assert [t["T"] for t in link.ticks()] == ["q", "t"] * 3


def test_a_quote_and_a_trade_say_what_was_published(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], trades=["*"])
    market.publish(("AAPL", QUOTE, 1.25), ("MSFT", TRADE, 7.5))
    market.run(0.005)
    assert link.ticks() == [
        {"T": "q", "S": "AAPL", "bp": 1.25, "bs": 10.0, "ap": 2.25, "as": 20.0,
         "t": "2023-11-14T22:13:20.000000000Z", "seq": 1, "f": "sim"},
        {"T": "t", "S": "MSFT", "p": 7.5, "s": 5.0, "t": "2023-11-14T22:13:20.000000000Z", "seq": 2, "f": "sim"},
    ]  # fmt: skip


def test_after_an_idle_moment_the_first_tick_goes_out_at_once_and_then_they_are_coalesced(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"])
    market.run(1.0)
    frames = len(link.frames)
    market.publish(("AAPL", QUOTE, 1))
    again = market.run()
    assert len(link.frames) == frames + 1
    assert again == inf
    market.publish(("AAPL", QUOTE, 2))
    market.publish(("AAPL", QUOTE, 3))
    again = market.run(0.001)
    assert len(link.frames) == frames + 1
    assert again == pytest.approx(market.now + 0.004)
    market.run(0.004)
    assert len(link.frames) == frames + 2
    assert link.seqs() == [1, 2, 3]


def test_a_flush_that_came_late_does_not_make_the_next_one_late(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"])
    market.run(1.0)
    for n in range(2):  # the first after an idle moment, the second late: the loop had other work
        market.publish(("AAPL", QUOTE, n))
        market.run(0.007)
    frames = len(link.frames)
    for n in range(8):  # on time again, every 5 ms since the first
        market.publish(("AAPL", QUOTE, n))
        assert market.run(0.003 if n == 0 else 0.005) == inf
        assert len(link.frames) == frames + 1 + n


def test_however_often_wake_ups_are_late_flushes_keep_their_distance_in_the_mean(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"])
    market.run(1.0)
    frames, begin = len(link.frames), market.now
    for n in range(1000):
        market.publish(("AAPL", QUOTE, n))
        market.run(0.0006 if n % 8 else 0.0026)
    flushes, seconds = len(link.frames) - frames, market.now - begin
    assert 0.9 * seconds / 0.005 < flushes < 1.3 * seconds / 0.005  # a fifth of the window they may be early


def test_all_who_want_the_same_get_one_and_the_same_frame(market):
    links = []
    for _ in range(3):
        session, link = market.session()
        market.command(session, action="subscribe", quotes=["AAPL"])
        links.append(link)
    market.publish(("AAPL", QUOTE, 1))
    market.run(0.005)
    assert links[0].frames[-1] is links[1].frames[-1] is links[2].frames[-1]


def test_each_gets_its_own_frame_whoever_else_can_be_sent_to_at_once_or_only_with_care(market):
    # Two that share a group, one whose other subscriber makes it careful, one by itself, and one without a wire.
    wishes = [[["A"], []], [["A"], []], [["B"], ["A"]], [["C"], []], [["B"], []]]
    links = []
    for n, (every, throttled) in enumerate(wishes):
        session, link = market.session(wired=n < 4)
        market.command(session, action="subscribe", quotes=every)
        if throttled:
            market.command(session, action="subscribe", quotes=throttled, max_hz=10)
        links.append(link)
    for price in range(30):
        market.publish(*((symbol, QUOTE, price) for symbol in "ABC"))
        market.run(0.01)
    market.run(1.0)
    for link, (every, _) in zip(links, wishes, strict=True):
        assert [tick["bp"] for tick in link.ticks() if tick["S"] in every] == list(range(30))
    assert [{tick["S"] for tick in link.ticks()} for link in links] == [{"A"}, {"A"}, {"A", "B"}, {"C"}, {"B"}]


def test_a_glob_also_takes_instruments_that_appear_later(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["BTC-*"])
    market.publish(("BTC-USD", QUOTE, 1), ("AAPL", QUOTE, 1), ("BTC-GBP", QUOTE, 1))
    market.run(0.005)
    assert [t["S"] for t in link.ticks()] == ["BTC-USD", "BTC-GBP"]


def test_a_symbol_may_be_subscribed_to_before_it_exists(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["NEW", "sim:NEWER"])
    market.publish(("NEW", QUOTE, 1), ("NEWER", QUOTE, 1), ("NEWEST", QUOTE, 1))
    market.run(0.005)
    assert [t["S"] for t in link.ticks()] == ["NEW", "NEWER"]


def test_the_same_symbol_of_two_feeds_is_two_instruments(market):
    market.instrument("AAPL", "other")
    everywhere, of_everywhere = market.session()
    market.command(everywhere, action="subscribe", quotes=["AAPL"])
    named, of_named = market.session()
    market.command(named, action="subscribe", quotes=["other:AAPL"])
    scoped, of_scoped = market.session(feed="other")
    market.command(scoped, action="subscribe", quotes=["*"])
    market.publish(("AAPL", QUOTE, 1), feed="sim")
    market.publish(("AAPL", QUOTE, 2), feed="other")
    market.run(0.005)
    assert [(t["f"], t["bp"]) for t in of_everywhere.ticks()] == [("sim", 1.0), ("other", 2.0)]
    assert [(t["f"], t["bp"]) for t in of_named.ticks()] == [("other", 2.0)]
    assert [t["bp"] for t in of_scoped.ticks()] == [2.0]
    assert "f" not in of_scoped.ticks()[0]


def test_a_hub_without_sessions_keeps_nothing(market):
    sessions = []
    for n in range(20):
        session, _link = market.session()
        market.command(session, action="subscribe", quotes=["BTC-*", "AAPL"], trades=["*"], max_hz=n + 1)
        market.command(session, action="subscribe", quotes=["MSFT"], snapshot=True)
        sessions.append(session)
        market.publish(("AAPL", QUOTE, n), ("MSFT", QUOTE, n))
        market.run(0.001)
    for session in sessions:
        session.closed()
    assert market.hub._groups.lanes() == []


def test_a_burst_larger_than_a_frame_comes_in_several_frames(market):
    market = Market(ticks=1 << 14)
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"])
    market.publish(*[("AAPL", QUOTE, n) for n in range(5000)])
    market.run(0.005)
    assert link.seqs() == list(range(1, 5001))
    assert max(len(frame) for frame in link.frames) < 1 << 19


def test_a_lane_that_is_lapped_itself_tells_all_who_are_in_step():
    market = Market(ticks=16)
    pairs = [market.session() for _ in range(2)]
    for session, _ in pairs:
        market.command(session, action="subscribe", quotes=["AAPL"])
    for price in range(40):
        market.publish(("AAPL", QUOTE, price))
    market.run(0.005)
    for _, link in pairs:
        assert link.messages()[1] == {"T": "gap", "from": 1, "to": 24, "reason": "lapped"}
        assert link.seqs() == list(range(25, 41))
