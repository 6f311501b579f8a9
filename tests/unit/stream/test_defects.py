"""A defect of ours costs nobody a tick that nothing tells of: with no loop and no socket."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from marketfeed.model.tick import Ticks
from marketfeed.stream.codes import CloseCode
from marketfeed.stream.encoding import ENCODINGS, EncodedTicks, JsonEncoding
from marketfeed.stream.session import Session
from tests.unit.stream.support import QUOTE, TRADE, ListLink, Market, WiredLink

#: No tick of this instrument can be written: it is the first that a market has.
POISON = "POISON"


class DefectiveEncoding(JsonEncoding):
    """JSON that cannot write ticks of instrument 0."""

    NAME = "defective"

    def ticks(self, rows: Ticks, seqs: NDArray[np.uint64]) -> EncodedTicks:
        if not rows["instrument"].all():
            raise RuntimeError("a defect of this encoding")
        return super().ticks(rows, seqs)


@pytest.fixture
def market(monkeypatch) -> Market:
    monkeypatch.setitem(ENCODINGS, DefectiveEncoding.NAME, DefectiveEncoding)
    market = Market()
    for name in (POISON, "A", "B", "C"):
        market.instrument(name)
    return market


def subscribed(market: Market, encoding: str = "json", wired: bool = True, **command) -> tuple[Session, ListLink]:
    session, link = market.session(encoding=encoding, wired=wired)
    market.command(session, action="subscribe", **command)
    return session, link


def gaps(link: ListLink) -> list[tuple[int, int, str]]:
    return [(m["from"], m["to"], m["reason"]) for m in link.messages() if m["T"] == "gap"]


@pytest.mark.parametrize("wired", [True, False], ids=["by the sender", "one by one"])
def test_what_cannot_be_written_is_told_and_everything_else_comes(market, wired, caplog):
    every = subscribed(market, "defective", wired, quotes=["*"])
    healthy = subscribed(market, "defective", wired, quotes=["B", "A"])
    other = subscribed(market, quotes=["*"])
    market.publish(("A", QUOTE, 1), (POISON, QUOTE, 2), ("B", QUOTE, 3), (POISON, QUOTE, 4), ("C", QUOTE, 5))
    market.run(1.0)
    market.publish(("A", QUOTE, 6))
    market.run(1.0)
    assert every[1].seqs() == [1, 3, 5, 6]
    assert gaps(every[1]) == [(2, 2, "internal"), (4, 4, "internal")]
    assert [m.get("seq", m.get("from")) for m in every[1].messages()[1:]] == [1, 2, 3, 4, 5, 6]
    assert healthy[1].seqs() == [1, 3, 6]
    assert other[1].seqs() == [1, 2, 3, 4, 5, 6]
    assert gaps(healthy[1]) == gaps(other[1]) == []
    for session, link in (every, healthy, other):
        assert link.closed is None
        assert all(subscriber.in_step for subscriber in session.subscribers)
    assert "tick 2 could not be written" in caplog.text
    assert market.hub.stats.ticks_lost == 2


def test_a_slow_client_gets_past_what_cannot_be_written_frame_by_frame(market):
    session, link = subscribed(market, "defective", False, quotes=["*"])
    link.room = 0
    market.publish(*(((POISON, "A", "B")[n % 3], QUOTE, n) for n in range(30)))
    market.run(1.0)
    for _ in range(200):
        link.drain(session, room=1)
        market.run(0.01)
    assert link.seqs() == [n + 1 for n in range(30) if n % 3]
    assert gaps(link) == [(n + 1, n + 1, "internal") for n in range(0, 30, 3)]
    assert link.closed is None


def test_a_throttled_client_is_told_which_latest_it_cannot_have_and_gets_all_others(market):
    session, link = subscribed(market, "defective", quotes=["*"], max_hz=10)
    market.run(1.0)
    for price in range(3):
        market.publish((POISON, QUOTE, price), ("A", QUOTE, price), ("B", QUOTE, price))
        market.run(1.0)
    latest = {tick["S"]: tick["seq"] for tick in link.ticks()}
    assert latest == {"A": 8, "B": 9}
    assert (7, 7, "internal") in gaps(link)
    assert all(subscriber.in_step for subscriber in session.subscribers)
    assert link.closed is None


def test_a_snapshot_comes_without_what_cannot_be_written(market):
    market.publish(*((name, QUOTE, 1) for name in ("C", POISON, "A", "B")))
    _, link = subscribed(market, "defective", quotes=["*"], snapshot=True)
    market.run(1.0)
    assert sorted(tick["S"] for tick in link.ticks()) == ["A", "B", "C"]
    assert gaps(link) == [(2, 2, "internal")]
    assert [m["seq"] for m in link.messages() if m["T"] == "position"] == [None, 4]


class DefectiveMarket(Market):
    """Its sender fails when it is told to, when a part has left already."""

    failing = False

    def _send(self, buffer, begins, lengths, wires):
        if self.failing:
            super()._send(buffer, begins, lengths, wires)
            raise RuntimeError("a defect of the sender")
        return super()._send(buffer, begins, lengths, wires)


def test_where_the_sender_fails_those_it_was_to_send_to_are_ended_and_nobody_else():
    market = DefectiveMarket()
    wired = [subscribed(market, quotes=["*"]), subscribed(market, quotes=["*"]), subscribed(market, quotes=["A"])]
    by_itself = subscribed(market, wired=False, quotes=["*"])
    stalled = subscribed(market, quotes=["*"])
    market.publish(("A", QUOTE, 1))
    market.run(1.0)
    stalled[1].full = True
    market.hub.stalled(stalled[0])
    market.failing = True
    market.publish(("A", QUOTE, 2))
    market.run(1.0)
    for session, link in wired:
        assert session.ended is CloseCode.INTERNAL
        assert link.closed == (CloseCode.INTERNAL, "internal")
        assert session.position() is None  # no place that is behind what it may not have
    market.failing = False
    stalled[1].drain(stalled[0])
    market.publish(("A", QUOTE, 3))
    market.run(1.0)
    assert by_itself[1].seqs() == stalled[1].seqs() == [1, 2, 3]


def test_until_a_session_whose_sender_failed_is_ended_nothing_is_sent_to_it_and_no_place_told():
    """A change of another subscription flushes between two runs of the hub."""
    market = DefectiveMarket()
    session, link = subscribed(market, quotes=["*"])
    market.run(1.0)
    other, _ = market.session()
    market.failing = True
    market.publish(("A", QUOTE, 1))
    market.command(other, action="subscribe", quotes=["*"], since={"epoch": market.store.epoch, "seq": 1})
    assert session.ended is None
    assert session.position() is None
    frames = len(link.frames)
    session.writable()
    market.run(1.0)
    assert session.ended is CloseCode.INTERNAL
    assert len(link.frames) == frames


def test_a_defect_in_finding_who_wants_what_loses_nothing(market, monkeypatch):
    every = subscribed(market, quotes=["*"])
    conditional = subscribed(market, quotes=["*"], where="bid > 1")
    throttled = subscribed(market, trades=["*"], max_hz=10)
    market.run(1.0)
    lane = next(lane for lane in market.hub._groups.lanes() if lane.every)
    wanted, failures = type(lane).wanted, [lane]

    def fails_once(self, ticks):
        if self in failures:
            failures.remove(self)
            raise RuntimeError("a defect")
        return wanted(self, ticks)

    monkeypatch.setattr(type(lane), "wanted", fails_once)
    market.publish(("A", QUOTE, 1), ("B", QUOTE, 2), ("B", TRADE, 3))
    market.run(1.0)
    market.publish(("A", QUOTE, 4))
    market.run(1.0)
    assert not failures
    assert every[1].seqs() == [1, 2, 4]
    assert conditional[1].seqs() == [2, 4]
    assert throttled[1].seqs() == [3]


def test_a_session_that_is_to_end_in_the_midst_of_its_own_command_leaves_nothing_behind():
    """Its command flushes, it was lapped, and the gap is one message too many for its outbox."""
    market = Market(ticks=64)
    for name in ("A", "B"):
        market.instrument(name)
    session, link = subscribed(market, wired=False, quotes=["*"], heartbeat=1)
    market.command(session, action="subscribe", trades=["*"], max_hz=10)
    market.run(1.0)
    market.publish(*(("A", QUOTE, n) for n in range(200)))  # every lane is lapped
    session._outbox += [{"T": "gap", "from": 1, "to": 1, "reason": "lapped"}] * 64
    market.command(session, action="subscribe", quotes=["A"], trades=["A"], max_hz=5, heartbeat=2)
    assert session.ended is CloseCode.SLOW_CLIENT
    assert link.closed == (CloseCode.SLOW_CLIENT, "slow client")
    assert session.subscribers == []
    assert session.state == {}
    assert market.hub._groups.lanes() == []
    assert len(market.hub._heartbeats) == 0
    market.run(10.0)


def test_wired_and_unwired_fail_alike(market):
    """Nobody is sent twice what had left before a later frame could not be made."""
    links = []
    for n in range(6):
        session, link = market.session(encoding="defective" if n % 2 else "json", wired=n < 4)
        assert isinstance(link, WiredLink) == (n < 4)
        market.command(session, action="subscribe", quotes=["A", POISON])
        links.append(link)
    market.publish(("A", QUOTE, 1), (POISON, QUOTE, 2), ("A", QUOTE, 3))
    market.run(1.0)
    for n, link in enumerate(links):
        assert link.seqs() == ([1, 3] if n % 2 else [1, 2, 3])
