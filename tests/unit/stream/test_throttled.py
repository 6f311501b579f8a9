"""Throttled delivery: the latest of each symbol, no more often than was asked for; without a loop."""

from __future__ import annotations

import itertools

from tests.unit.stream.support import QUOTE, Market


def test_a_throttled_subscriber_gets_the_latest_no_more_often_than_it_asked_and_ends_on_the_last(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"], max_hz=10)
    times = []
    for price in range(250):
        market.publish(("AAPL", QUOTE, price))
        before = len(link.ticks())
        market.run(0.002)
        times += [market.now] * (len(link.ticks()) - before)
    for _ in range(100):
        market.run(0.01)
    assert link.ticks()[-1]["bp"] == 249.0
    assert len(times) == 5 or len(times) == 6
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(times))


def test_a_client_that_gives_up_symbols_in_the_midst_of_a_pass_is_told_its_place_again():
    market = Market(ticks=16_384, instruments=8192)
    market.publish(*((f"S{n}", QUOTE, n) for n in range(5000)))
    session, link = market.session(wired=False)
    link.room = 3
    market.command(session, action="subscribe", quotes=["*"], snapshot=True, max_hz=10)
    market.run(1.0)
    assert link.full
    market.command(session, action="unsubscribe", quotes=["*"])
    link.drain(session)
    market.run(1.0)
    assert [m["seq"] for m in link.messages() if m["T"] == "position"] == [None, 5000]


def test_a_lane_is_shared_by_those_who_ask_for_nearly_the_same_cadence(market):
    for hz in range(1, 2000):
        session, _ = market.session()
        market.command(session, action="subscribe", quotes=["AAPL"], max_hz=hz / 7)
    intervals = [lane.interval for lane in market.hub._groups.lanes()]
    assert len(intervals) < 200
    for hz in range(1, 2000):
        wanted = max(0.005, 7 / hz)
        given = market.hub._groups.interval(hz / 7)
        assert wanted - 1e-9 <= given <= wanted * 1.035 + 0.005


def test_a_symbol_that_never_rests_has_its_turn_among_thousands():
    """More symbols change than go into one frame, and one of them changes between any two frames."""
    market = Market(ticks=1 << 16, instruments=16_384)
    names = [f"S{n}" for n in range(10_000)]
    in_step, of_in_step = market.session()
    market.command(in_step, action="subscribe", quotes=["*"], max_hz=1)
    slow, of_slow = market.session()
    market.command(slow, action="subscribe", quotes=["*"], max_hz=1)
    market.run(1.0)
    of_slow.room = 1
    for _ in range(5):
        market.publish(("BUSY", QUOTE, 1), *[(name, QUOTE, 1) for name in names], ("BUSY", QUOTE, 1))
        market.now += 1.0
        for _ in range(10):
            market.hub.run(market.now)
            market.publish(("BUSY", QUOTE, 1))
            of_slow.drain(slow, room=1)
    for link in (of_in_step, of_slow):
        count = {name: sum(t["S"] == name for t in link.ticks()) for name in ("BUSY", "S0", "S9999")}
        assert all(4 <= n <= 6 for n in count.values()), count


def test_a_client_cannot_have_a_throttled_symbol_more_often_by_asking_for_others(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], max_hz=1)
    for n in range(100):
        market.publish(("AAPL", QUOTE, n))
        market.command(session, action="subscribe", quotes=["C*"], max_hz=1 + n % 2)
        market.run(0.01)
    assert sum(t["S"] == "AAPL" for t in link.ticks()) <= 2


def test_throttled_subscribers_go_in_step_however_fast_ticks_come(market):
    links = [market.session() for _ in range(200)]
    for session, _ in links:
        market.command(session, action="subscribe", quotes=["*"], max_hz=10)
    for n in range(40):
        market.publish(("AAPL", QUOTE, n))
        market.now += 0.01
        market.hub.run(market.now)  # once: not all of them can be served before the next tick comes
    assert all(subscriber.in_step for session, _ in links for subscriber in session.subscribers)
    # Those in step share a frame.
    assert len({id(link.frames[-1]) for _, link in links}) == 1
