"""Clients that cannot take all at once: served from the ring by themselves, and told what it lost; without a loop."""

from __future__ import annotations

from tests.unit.stream.support import QUOTE, Market


def test_a_stalled_client_is_given_every_tick_when_it_reads_again(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"])
    link.room = 2
    for price in range(10):
        market.publish(("AAPL", QUOTE, price))
        market.run(0.005)
    assert link.seqs() == [1, 2]
    link.drain(session)
    market.run()
    assert link.seqs() == list(range(1, 11))
    market.publish(("AAPL", QUOTE, 10))
    market.run(0.005)
    assert link.seqs() == list(range(1, 12))


def test_a_stalled_client_is_told_exactly_what_it_lost():
    market = Market(ticks=16)
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"])
    link.room = 1
    for price in range(40):
        market.publish(("AAPL", QUOTE, price))
        market.run(0.005)
    link.drain(session)
    market.run()
    gaps = [m for m in link.messages() if m["T"] == "gap"]
    assert gaps == [{"T": "gap", "from": 2, "to": 24, "reason": "lapped"}]
    assert link.seqs() == [1, *range(25, 41)]


def test_nothing_is_queued_for_a_stalled_client(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"])
    link.room = 1
    for price in range(1000):
        market.publish(("AAPL", QUOTE, price))
        market.run(0.005)
    assert len(link.frames) == 2  # the answer, and one frame
    assert not session._outbox


def test_a_stalled_throttled_client_ends_on_the_true_latest_state_without_a_gap():
    market = Market(ticks=16)
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], max_hz=100)
    market.run(0.02)
    link.room = 1
    for price in range(40):
        market.publish(("AAPL", QUOTE, price), ("MSFT", QUOTE, price))
        market.run(0.005)
    link.drain(session)
    market.run(1.0)
    last = {t["S"]: t["bp"] for t in link.ticks()}
    assert last == {"AAPL": 39.0, "MSFT": 39.0}
    assert all(m["T"] != "gap" for m in link.messages())


def test_a_slow_reader_can_unsubscribe_at_once_and_is_told_what_that_cost():
    market = Market(ticks=1024)
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"])
    market.command(session, action="subscribe", quotes=["MSFT"], max_hz=4)
    link.room = 1
    for price in range(50):
        market.publish(("AAPL", QUOTE, price), ("MSFT", QUOTE, price))
        market.run(0.005)
    market.command(session, action="unsubscribe", quotes=["*"])
    link.drain(session)
    market.run(1.0)
    assert link.messages()[-2]["T"] == "subscription"
    assert link.messages()[-2]["quotes"] == ["MSFT"]
    assert link.ticks()[-1]["S"] == "MSFT"
    assert link.ticks()[-1]["bp"] == 49.0


def test_moving_symbols_between_options_while_behind_loses_nothing_silently():
    market = Market(ticks=1024)
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["A*"])
    market.command(session, action="subscribe", quotes=["MSFT"], since={"seq": 0})
    link.room = 1
    for price in range(50):
        market.publish(("AAPL", QUOTE, price), ("MSFT", QUOTE, price))
        market.run(0.005)
    market.command(session, action="subscribe", quotes=["*"])
    market.command(session, action="unsubscribe", quotes=["A*", "MSFT"])
    link.drain(session)
    market.run(1.0)
    seqs_of = [t["seq"] for t in link.ticks()]
    lost = {seq for m in link.messages() if m["T"] == "gap" for seq in range(m["from"], m["to"] + 1)}
    assert set(seqs_of) | lost >= set(range(1, 101))
    assert len(seqs_of) == len(set(seqs_of))


def test_who_is_at_the_edge_of_the_ring_is_given_ticks_however_fast_it_is_overwritten():
    market = Market(ticks=256)
    market.publish(*[("AAPL", QUOTE, n) for n in range(300)])
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], since={"seq": 0})
    market.publish(*[("AAPL", QUOTE, n) for n in range(256)])
    # Run once: before it runs again, all may have been overwritten again.
    market.hub.run(market.now)
    assert [(m["from"], m["to"]) for m in link.messages() if m["T"] == "gap"] == [(1, 300)]
    assert link.seqs() == list(range(301, 557))
