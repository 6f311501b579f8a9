"""What one client after the other chooses is not kept when nobody wants it any more."""

from __future__ import annotations

from itertools import combinations

from tests.unit.stream.support import QUOTE, Market

KEYS = ["bp", "bs", "ap", "as", "p", "s", "t"]


def test_ways_to_write_a_tick_that_nobody_wants_are_forgotten():
    market = Market()
    market.instrument("A")
    staying, stays = market.session()
    market.command(staying, action="subscribe", quotes=["A"])
    session, link = market.session()
    groups = market.hub._groups
    (lane,) = groups.lanes()
    for n, fields in enumerate(choice for size in (1, 2, 3) for choice in combinations(KEYS, size)):
        market.command(session, action="subscribe", quotes=["A"], fields=list(fields))
        market.run(1.0)
        market.publish(("A", QUOTE, 1.0))
        market.run(1.0)
        assert link.ticks()[-1].keys() == {"T", "S", "seq", "f", *set(fields) & {"bp", "bs", "ap", "as", "t"}}
        assert len(stays.ticks()) == n + 1
        assert "bp" in stays.ticks()[-1]
        assert len(lane.styles) <= 2
    market.command(session, action="unsubscribe", quotes=["A"])
    assert len(lane.styles) == 1
    assert len(groups._framers) <= 1
    assert len(groups._encodings) <= 1


def test_a_style_that_others_still_have_stays():
    market = Market()
    market.instrument("A")
    market.instrument("B")
    sessions = [market.session() for _ in range(3)]
    for (session, _), symbol in zip(sessions, "ABA", strict=True):
        market.command(session, action="subscribe", quotes=[symbol], fields=["bp"])
    plain, _ = market.session()
    market.command(plain, action="subscribe", quotes=["A"])
    market.run(1.0)
    first, _ = sessions[0]
    market.command(first, action="unsubscribe", quotes=["A"])
    sessions[2][0].closed()
    other, got = market.session(encoding="msgpack")
    market.command(other, action="subscribe", quotes=["A", "B"])
    market.run(1.0)
    before = len(got.frames)
    market.publish(("A", QUOTE, 1.0), ("B", QUOTE, 2.0))
    market.run(1.0)
    assert [tick.keys() for tick in sessions[1][1].ticks()] == [{"T", "S", "seq", "f", "bp"}]
    assert len(got.frames) == before + 1
    assert got.frames[-1].startswith(b"B ")
