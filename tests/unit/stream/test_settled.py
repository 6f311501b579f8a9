"""What a link that may lose ticks gives once more: last values that nothing follows."""

from __future__ import annotations

import orjson
import pytest

from marketfeed.stream.group import FRAME_TICKS
from tests.unit.stream.support import QUOTE, TRADE, Market


def settled(market, session, after, until):
    market.run()
    payloads, end = market.hub.settled(session, after, until)
    return [(m["S"], m["seq"]) for payload in payloads for m in orjson.loads(payload)], end


@pytest.fixture
def market() -> Market:
    return Market()


def test_only_what_changed_last_in_between_is_given(market):
    session, _ = market.session()
    market.command(session, action="subscribe", quotes=["*"], max_hz=10)
    market.publish(("OLD", QUOTE, 1.0), ("A", QUOTE, 2.0), ("B", QUOTE, 3.0))
    middle = market.publish(("A", QUOTE, 4.0))
    market.publish(("B", QUOTE, 5.0), ("NEW", QUOTE, 6.0))
    assert settled(market, session, 1, middle) == ([("A", 4)], 4)
    assert settled(market, session, 0, middle) == ([("OLD", 1), ("A", 4)], 4)
    assert settled(market, session, 4, 4) == ([], 4)


def test_only_throttled_symbols_are_given_as_they_are_wanted(market):
    session, _ = market.session()
    market.command(session, action="subscribe", quotes=["A"], max_hz=10, where="bid > 1", fields=["bp"])
    market.command(session, action="subscribe", trades=["*"], max_hz=1)
    market.command(session, action="subscribe", quotes=["B"])
    end = market.publish(("A", QUOTE, 2.0), ("B", QUOTE, 3.0), ("B", TRADE, 4.0))
    assert sorted(settled(market, session, 0, end)[0]) == [("A", 1), ("B", 3)]
    payloads, _ = market.hub.settled(session, 0, 1)
    assert orjson.loads(payloads[0]) == [{"T": "q", "S": "A", "bp": 2.0, "seq": 1, "f": "sim"}]
    end = market.publish(("A", QUOTE, 0.5))
    assert settled(market, session, 3, end) == ([], 4)


def test_what_is_more_than_a_frame_goes_on_from_where_the_first_ended():
    market = Market(ticks=8192, instruments=4096)
    session, _ = market.session()
    market.command(session, action="subscribe", quotes=["*"], max_hz=10)
    count = FRAME_TICKS + 100
    end = market.publish(*[(f"S{n}", QUOTE, 1.0) for n in range(count)])
    first, cut = settled(market, session, 0, end)
    rest, last = settled(market, session, cut, end)
    assert (len(first), cut, last) == (FRAME_TICKS, FRAME_TICKS, end)
    assert [seq for _, seq in first + rest] == list(range(1, count + 1))


def test_a_lossy_session_takes_only_throttled_symbols(market):
    session, link = market.session()
    session.lossy = True
    market.command(session, action="subscribe", quotes=["A"])
    assert "max_hz" in link.messages()[-1]["msg"]
    market.command(session, action="subscribe", quotes=["A"], max_hz=5)
    assert link.messages()[-1]["T"] == "subscription"
