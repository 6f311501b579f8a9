"""Where a stream begins: with a snapshot, after a position or a time; without a loop."""

from __future__ import annotations

import pytest

from tests.unit.stream.support import QUOTE, TRADE, Market


def test_a_snapshot_is_the_latest_of_each_symbol_and_what_follows_is_newer(market):
    market.publish(("AAPL", QUOTE, 1), ("MSFT", QUOTE, 2), ("AAPL", QUOTE, 3), ("AAPL", TRADE, 4))
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], trades=["AAPL"], snapshot=True)
    market.run()
    assert link.seqs() == [2, 3, 4]
    market.publish(("MSFT", QUOTE, 5))
    market.run(0.005)
    assert link.seqs() == [2, 3, 4, 5]


def test_a_snapshot_since_a_position_is_what_did_not_change_after_it_and_then_every_tick(market):
    market.publish(*((name, QUOTE, 1) for name in ("AAPL", "MSFT", "BTC-EUR", "MSFT", "MSFT")))
    session, link = market.session()
    since = {"epoch": market.store.epoch, "seq": 3}
    market.command(session, action="subscribe", quotes=["*"], snapshot=True, since=since)
    market.run(1.0)
    market.publish(("AAPL", QUOTE, 6))
    market.run(1.0)
    answer = link.messages()[0]
    assert (answer["seq"], answer["recovered"]) == (3, True)
    assert link.seqs() == [1, 3, 4, 5, 6]


def test_a_throttled_snapshot_since_a_position_is_the_snapshot(market):
    market.publish(("AAPL", QUOTE, 1), ("MSFT", QUOTE, 2), ("MSFT", QUOTE, 3))
    session, link = market.session()
    since = {"epoch": market.store.epoch, "seq": 1}
    market.command(session, action="subscribe", quotes=["*"], max_hz=10, snapshot=True, since=since)
    market.run(1.0)
    assert link.seqs() == [1, 3]


@pytest.mark.parametrize("command", [{}, {"max_hz": 100}], ids=["every tick", "throttled"])
def test_a_snapshot_of_several_frames_says_before_it_and_behind_it_what_ticks_tell(command):
    market = Market(ticks=16_384, instruments=8192)
    market.publish(*((f"S{n}", QUOTE, n) for n in range(5000)))
    session, link = market.session(wired=False)
    link.room = 2  # the answer and what is told before the first frame
    market.command(session, action="subscribe", quotes=["*"], snapshot=True, **command)
    for _ in range(6):
        market.run(1.0)
        link.drain(session, room=1)
    market.run(1.0)
    kinds = [message["T"] for message in link.messages()]
    assert kinds == ["subscription", "position", *["q"] * 5000, "position"]
    assert [m["seq"] for m in link.messages() if m["T"] == "position"] == [None, 5000]
    assert session.position() == 5000


def test_since_gives_all_ticks_after_a_position_and_then_goes_on_live(market):
    for price in range(10):
        market.publish(("AAPL", QUOTE, price), ("MSFT", QUOTE, price))
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"], since={"epoch": market.store.epoch, "seq": 7})
    market.publish(("AAPL", QUOTE, 99))
    market.run()
    market.publish(("AAPL", QUOTE, 100))
    market.run(0.005)
    assert link.seqs() == [9, 11, 13, 15, 17, 19, 21, 22]
    reply = link.messages()[0]
    assert reply["T"] == "subscription"
    assert reply["recovered"] is True
    assert reply["seq"] == 7


def test_since_beyond_what_the_ring_holds_tells_the_exact_gap_first():
    market = Market(ticks=16)
    for price in range(30):
        market.publish(("AAPL", QUOTE, price))
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"], since={"seq": 0})
    market.run()
    assert link.messages()[0]["recovered"] is False
    assert link.messages()[1] == {"T": "gap", "from": 1, "to": 14, "reason": "lapped"}
    assert link.seqs() == list(range(15, 31))


def test_since_a_position_of_another_life_is_a_gap_without_an_end(market):
    market.publish(("AAPL", QUOTE, 1))
    other = market.store.epoch % 1000 + 1
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"], since={"epoch": other, "seq": 41})
    market.run()
    assert link.messages()[0]["recovered"] is False
    assert link.messages()[1] == {"T": "gap", "epoch": other, "from": 42, "to": None, "reason": "epoch"}
    assert link.seqs() == [1]


def test_since_a_time_begins_with_the_first_later_tick(market):
    for price in range(5):
        market.publish(("AAPL", QUOTE, price))
    session, link = market.session()
    # The tick with sequence number n has n - 1 in its nanoseconds.
    market.command(session, action="subscribe", quotes=["AAPL"], since="2023-11-14T22:13:20.000000002Z")
    market.run()
    assert link.seqs() == [4, 5]
    assert link.messages()[0]["recovered"] is True


def test_since_with_max_hz_gives_the_latest_of_each_symbol_that_changed(market):
    market.publish(("AAPL", QUOTE, 1), ("MSFT", QUOTE, 1), ("AAPL", QUOTE, 2), ("AAPL", QUOTE, 3))
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], max_hz=5, since={"epoch": market.store.epoch, "seq": 2})
    market.run()
    assert link.seqs() == [4]
