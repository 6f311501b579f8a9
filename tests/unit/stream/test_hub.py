"""Delivery, without a loop and without a network."""

from __future__ import annotations

import itertools
from math import inf

import pytest

from marketfeed.stream.codes import CloseCode
from marketfeed.stream.link import Took
from marketfeed.stream.session import Session
from tests.unit.stream.support import QUOTE, TRADE, ListLink, Market, WiredLink


@pytest.fixture
def market() -> Market:
    market = Market()
    for name in ("AAPL", "MSFT", "BTC-USD", "BTC-EUR"):
        market.instrument(name)
    return market


def seqs(link) -> list[int]:
    return [tick["seq"] for tick in link.ticks()]


def test_every_tick_of_the_symbols_asked_for_arrives_once_and_in_order(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"], trades=["MSFT"])
    for price in range(3):
        market.publish(("AAPL", QUOTE, price), ("AAPL", TRADE, price), ("MSFT", QUOTE, price), ("MSFT", TRADE, price))
        market.run(0.005)
    assert seqs(link) == [1, 4, 5, 8, 9, 12]
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
    assert seqs(link) == [1, 2, 3]


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


def test_a_snapshot_is_the_latest_of_each_symbol_and_what_follows_is_newer(market):
    market.publish(("AAPL", QUOTE, 1), ("MSFT", QUOTE, 2), ("AAPL", QUOTE, 3), ("AAPL", TRADE, 4))
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], trades=["AAPL"], snapshot=True)
    market.run()
    assert seqs(link) == [2, 3, 4]
    market.publish(("MSFT", QUOTE, 5))
    market.run(0.005)
    assert seqs(link) == [2, 3, 4, 5]


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
    assert seqs(link) == [1, 3, 4, 5, 6]


def test_a_throttled_snapshot_since_a_position_is_the_snapshot(market):
    market.publish(("AAPL", QUOTE, 1), ("MSFT", QUOTE, 2), ("MSFT", QUOTE, 3))
    session, link = market.session()
    since = {"epoch": market.store.epoch, "seq": 1}
    market.command(session, action="subscribe", quotes=["*"], max_hz=10, snapshot=True, since=since)
    market.run(1.0)
    assert seqs(link) == [1, 3]


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


def test_since_gives_all_ticks_after_a_position_and_then_goes_on_live(market):
    for price in range(10):
        market.publish(("AAPL", QUOTE, price), ("MSFT", QUOTE, price))
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"], since={"epoch": market.store.epoch, "seq": 7})
    market.publish(("AAPL", QUOTE, 99))
    market.run()
    market.publish(("AAPL", QUOTE, 100))
    market.run(0.005)
    assert seqs(link) == [9, 11, 13, 15, 17, 19, 21, 22]
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
    assert seqs(link) == list(range(15, 31))


def test_since_a_position_of_another_life_is_a_gap_without_an_end(market):
    market.publish(("AAPL", QUOTE, 1))
    other = market.store.epoch % 1000 + 1
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"], since={"epoch": other, "seq": 41})
    market.run()
    assert link.messages()[0]["recovered"] is False
    assert link.messages()[1] == {"T": "gap", "epoch": other, "from": 42, "to": None, "reason": "epoch"}
    assert seqs(link) == [1]


def test_since_a_time_begins_with_the_first_later_tick(market):
    for price in range(5):
        market.publish(("AAPL", QUOTE, price))
    session, link = market.session()
    # The tick with sequence number n has n - 1 in its nanoseconds.
    market.command(session, action="subscribe", quotes=["AAPL"], since="2023-11-14T22:13:20.000000002Z")
    market.run()
    assert seqs(link) == [4, 5]
    assert link.messages()[0]["recovered"] is True


def test_since_with_max_hz_gives_the_latest_of_each_symbol_that_changed(market):
    market.publish(("AAPL", QUOTE, 1), ("MSFT", QUOTE, 1), ("AAPL", QUOTE, 2), ("AAPL", QUOTE, 3))
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], max_hz=5, since={"epoch": market.store.epoch, "seq": 2})
    market.run()
    assert seqs(link) == [4]


def test_a_stalled_client_is_given_every_tick_when_it_reads_again(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["AAPL"])
    link.room = 2
    for price in range(10):
        market.publish(("AAPL", QUOTE, price))
        market.run(0.005)
    assert seqs(link) == [1, 2]
    link.drain(session)
    market.run()
    assert seqs(link) == list(range(1, 11))
    market.publish(("AAPL", QUOTE, 10))
    market.run(0.005)
    assert seqs(link) == list(range(1, 12))


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
    assert seqs(link) == [1, *range(25, 41)]


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


def test_a_burst_larger_than_a_frame_comes_in_several_frames(market):
    market = Market(ticks=1 << 14)
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"])
    market.publish(*[("AAPL", QUOTE, n) for n in range(5000)])
    market.run(0.005)
    assert seqs(link) == list(range(1, 5001))
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
        assert seqs(link) == list(range(25, 41))


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


def test_a_client_cannot_have_a_throttled_symbol_more_often_by_asking_for_others(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], max_hz=1)
    for n in range(100):
        market.publish(("AAPL", QUOTE, n))
        market.command(session, action="subscribe", quotes=["C*"], max_hz=1 + n % 2)
        market.run(0.01)
    assert sum(t["S"] == "AAPL" for t in link.ticks()) <= 2


def test_where_keeps_only_the_ticks_it_holds_for_live_behind_and_in_a_snapshot(market):
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], trades=["*"], where="bid >= 5 or price > 100")
    for price in range(10):
        market.publish(("AAPL", QUOTE, price), ("MSFT", TRADE, 95 + price))
        market.run(0.005)
    wanted = [seq for n in range(10) for seq in ([2 * n + 1] if n >= 5 else []) + ([2 * n + 2] if n > 5 else [])]
    assert seqs(link) == wanted
    again, of_again = market.session()
    market.command(
        again, action="subscribe", quotes=["*"], trades=["*"], where="bid>=5.0 or 100<price", since={"seq": 0}
    )
    market.run()
    assert seqs(of_again) == wanted
    last, of_last = market.session()
    market.command(last, action="subscribe", quotes=["*"], trades=["*"], where="bid < 5", snapshot=True)
    market.run()
    assert seqs(of_last) == []
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


def test_who_is_at_the_edge_of_the_ring_is_given_ticks_however_fast_it_is_overwritten():
    market = Market(ticks=256)
    market.publish(*[("AAPL", QUOTE, n) for n in range(300)])
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["*"], since={"seq": 0})
    market.publish(*[("AAPL", QUOTE, n) for n in range(256)])
    # Run once: before it runs again, all may have been overwritten again.
    market.hub.run(market.now)
    assert [(m["from"], m["to"]) for m in link.messages() if m["T"] == "gap"] == [(1, 300)]
    assert seqs(link) == list(range(301, 557))


class FailingLink(ListLink):
    """One in which there is a defect."""

    failing = False

    def send(self, frame: bytes) -> Took:
        if self.failing:
            raise RuntimeError("a defect of this link")
        return super().send(frame)

    def finish(self, frame: bytes, sent: int) -> bool:
        raise RuntimeError("a defect of this link")

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        raise RuntimeError("and another one")


class FailingWiredLink(FailingLink, WiredLink):
    """The same where frames come by the sender."""


@pytest.mark.parametrize("when", ["a frame", "the rest of a frame", "a frame of its own", "a heartbeat"])
def test_a_link_that_fails_costs_nobody_else_a_tick(market, when):
    before, told_before = market.session(wired=when == "the rest of a frame")
    market.command(before, action="subscribe", quotes=["AAPL"])
    link = FailingWiredLink(len(market._wired)) if when == "the rest of a frame" else FailingLink()
    if isinstance(link, FailingWiredLink):
        market._wired.append(link)
    session = Session(market.hub, link, market.hub.encoding("json", True), "failing")
    market.command(session, action="subscribe", quotes=["AAPL"], heartbeat=5.0 if when == "a heartbeat" else 0)
    after, told_after = market.session()
    market.command(after, action="subscribe", quotes=["AAPL"], max_hz=100)
    market.run(1.0)
    if when == "a frame of its own":
        link.full = True
        market.hub.stalled(session)
        market.publish(("AAPL", QUOTE, 1.0))
        market.run(1.0)
        link.failing = True
        link.drain(session)
    elif when == "a heartbeat":
        link.failing = True
        market.run(5.0)
    elif when == "the rest of a frame":
        link.room = 1
    else:
        link.failing = True
    market.publish(("AAPL", QUOTE, 1.0))
    market.run(1.0)
    market.publish(("AAPL", QUOTE, 2.0))
    market.run(1.0)
    head = market.store.ring.head
    for told in (told_before, told_after):
        assert seqs(told) == list(range(1, head + 1))
    assert session.ended is CloseCode.INTERNAL
    assert not session.subscribers
    assert link.closed is not None
