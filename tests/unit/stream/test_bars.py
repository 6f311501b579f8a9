"""Bars on their way to subscribers: records in the ring like ticks, of one length for each subscriber."""

from __future__ import annotations

from typing import Any

import pytest

from marketfeed.model import BAR, QUOTE, TICK, TRADE, UPDATED_BAR
from marketfeed.model.bars import FROM_QUOTES, SECOND_NS, empty_bars
from marketfeed.stream.hub import _BAR_LENGTHS
from tests.unit.stream.support import ListLink, Market

BEGIN = 1_700_000_040 * SECOND_NS  # a whole minute
T = "2023-11-14T22:14:00.000000000Z"


@pytest.fixture
def market() -> Market:
    return Market()


def publish(market: Market, *bars: tuple[str, int, int, float], flags: int = 0) -> None:
    """(symbol, kind, seconds, close) each."""
    rows = empty_bars(len(bars))
    for n, (symbol, kind, seconds, close) in enumerate(bars):
        rows["instrument"][n], rows["kind"][n], rows["seconds"][n] = market.instrument(symbol), kind, seconds
        rows["open"][n], rows["high"][n], rows["low"][n], rows["close"][n] = close - 1, close + 1, close - 2, close
        rows["volume"][n], rows["vwap"][n], rows["count"][n] = 100, close - 0.5, 7
    rows["ts_event"], rows["flags"] = BEGIN, flags
    market.store.publish(rows.view(TICK))


def bars_of(link: ListLink) -> list[tuple[str, str, float]]:
    return [(m["T"], m["S"], m["c"]) for m in link.messages() if m["T"] in "bu"]


def error_of(link: ListLink) -> tuple[int, str]:
    message = link.messages()[-1]
    assert message["T"] == "error", message
    return message["code"], message["msg"]


def test_a_bar_is_told_as_alpaca_tells_it(market: Market) -> None:
    session, link = market.session(feed="sim")
    market.command(session, action="subscribe", bars=["AAPL"])
    publish(market, ("AAPL", BAR, 60, 10.0), ("MSFT", BAR, 60, 10.0))
    market.run(1)
    assert link.messages()[-1] == {
        "T": "b", "S": "AAPL", "t": T, "seq": 1,
        "o": 9.0, "h": 11.0, "l": 8.0, "c": 10.0, "v": 100.0, "n": 7, "vw": 9.5,
    }  # fmt: skip


def test_bars_and_updated_bars_are_two_channels(market: Market) -> None:
    ends = {}
    for channels in (("bars",), ("updatedBars",), ("bars", "updatedBars")):
        session, ends[channels] = market.session()
        market.command(session, action="subscribe", **{channel: ["*"] for channel in channels})
    publish(market, ("A", BAR, 60, 1.0), ("A", UPDATED_BAR, 60, 2.0))
    market.publish(("A", QUOTE, 5.0))
    market.run(1)
    told, again = ("b", "A", 1.0), ("u", "A", 2.0)
    assert [bars_of(link) for link in ends.values()] == [[told], [again], [told, again]]
    assert not any(link.ticks() for link in ends.values())


def test_a_subscriber_of_ticks_gets_no_bars(market: Market) -> None:
    for options in ({}, {"max_hz": 10}, {"snapshot": True}):
        session, link = market.session()
        publish(market, ("A", BAR, 60, 1.0))
        market.command(session, action="subscribe", quotes=["*"], trades=["*"], **options)
        publish(market, ("A", BAR, 60, 1.0), ("A", UPDATED_BAR, 60, 2.0), ("A", BAR, 5, 2.0))
        market.run(1)
        assert bars_of(link) == []


def test_each_gets_the_bars_of_its_length_and_ticks_of_the_same_command(market: Market) -> None:
    minute, minutes = market.session()
    five, fives = market.session()
    market.command(minute, action="subscribe", bars=["*"], trades=["A"])
    market.command(five, action="subscribe", bars=["A"], trades=["A"], bar_seconds=5)
    publish(market, ("A", BAR, 60, 1.0), ("A", BAR, 5, 2.0), ("A", BAR, 7, 3.0))
    market.publish(("A", TRADE, 9.0))
    market.run(1)
    assert [(m["T"], m.get("c"), m.get("sec")) for m in minutes.messages()[1:]] == [("b", 1.0, None), ("t", None, None)]
    assert [(m["T"], m.get("c"), m.get("sec")) for m in fives.messages()[1:]] == [("b", 2.0, 5), ("t", None, None)]


def test_bars_added_to_ticks_that_are_subscribed_to_are_of_one_length_too(market: Market) -> None:
    session, link = market.session()
    market.command(session, action="subscribe", quotes=["A"])
    market.command(session, action="subscribe", bars=["A"])
    publish(market, ("A", BAR, 5, 2.0), ("A", BAR, 60, 1.0))
    market.run(1)
    assert bars_of(link) == [("b", "A", 1.0)]
    assert len(session.subscribers) == 1


def test_bars_named_again_take_the_new_length(market: Market) -> None:
    session, link = market.session()
    market.command(session, action="subscribe", bars=["A"], trades=["A"])
    market.command(session, action="subscribe", bars=["A"], bar_seconds=5)
    publish(market, ("A", BAR, 60, 1.0), ("A", BAR, 5, 2.0))
    market.publish(("A", TRADE, 9.0))
    market.run(1)
    assert bars_of(link) == [("b", "A", 2.0)]
    assert len(link.ticks()) == 1


def test_a_bar_of_quotes_says_so(market: Market) -> None:
    session, link = market.session()
    market.command(session, action="subscribe", bars=["A"])
    publish(market, ("A", BAR, 60, 1.0), flags=FROM_QUOTES)
    market.run(1)
    assert link.messages()[-1]["from"] == "quotes"
    assert link.messages()[-1]["f"] == "sim"


def test_the_state_tells_bars_and_their_length(market: Market) -> None:
    session, link = market.session()
    market.command(session, action="subscribe", bars=["A"], updatedBars=["A"], bar_seconds=5)
    market.command(session, action="subscribe", bars=["B"], bar_seconds=60)
    state = link.messages()[-1]
    assert (state["bars"], state["updatedBars"]) == (["A", "B"], ["A"])
    assert state["rules"] == [
        {"quotes": [], "trades": [], "bars": ["A"], "updatedBars": ["A"], "bar_seconds": 5},
        {"quotes": [], "trades": [], "bars": ["B"]},
    ]
    market.command(session, action="unsubscribe", updatedBars=["A"], bars=["B"])
    assert link.messages()[-1]["bars"] == ["A"]


def test_a_snapshot_is_the_last_bar_of_a_minute(market: Market) -> None:
    publish(market, ("A", BAR, 60, 1.0), ("A", BAR, 60, 2.0), ("A", BAR, 5, 3.0), ("B", BAR, 5, 4.0))
    session, link = market.session()
    market.command(session, action="subscribe", bars=["*"], snapshot=True)
    market.run(1)
    assert bars_of(link) == [("b", "A", 2.0)]


def test_since_gives_the_bars_of_its_length_that_came_after_it(market: Market) -> None:
    publish(market, *[("A", BAR, seconds, float(n)) for n in range(4) for seconds in (5, 60)])
    for seconds in (5, 60):
        session, link = market.session()
        since = {"epoch": market.store.epoch, "seq": 2}
        market.command(session, action="subscribe", bars=["A"], bar_seconds=seconds, since=since)
        market.run(1)
        assert link.messages()[0]["recovered"] is True
        assert bars_of(link) == [("b", "A", 1.0), ("b", "A", 2.0), ("b", "A", 3.0)]


def test_fields_are_of_bars_too(market: Market) -> None:
    session, link = market.session(feed="sim")
    market.command(session, action="subscribe", bars=["A"], fields=["c", "v", "bp"])
    publish(market, ("A", BAR, 60, 1.0))
    market.run(1)
    assert link.messages()[-1] == {"T": "b", "S": "A", "c": 1.0, "v": 100.0, "seq": 1}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ({"bars": ["A"], "max_hz": 4}, "max_hz is not for bars"),
        ({"updatedBars": ["A"], "quotes": ["A"], "max_hz": 4}, "max_hz is not for bars"),
        ({"bars": ["A"], "where": "price > 1"}, "where is not for bars"),
        ({"bars": ["A"], "bar_seconds": 5, "snapshot": True}, "a snapshot of bars of 60 s only"),
        ({"quotes": ["A"], "bar_seconds": 5}, "bar_seconds is for bars"),
        ({"bars": ["A"], "bar_seconds": 0}, "`$.bar_seconds`"),
        ({"bars": ["A"], "bar_seconds": 3601}, "`$.bar_seconds`"),
        ({"bars": ["A"], "bar_seconds": 1.5}, "`$.bar_seconds`"),
        ({"dailyBars": ["A"]}, "channel 'dailyBars' is not served; there are: quotes, trades, bars, updatedBars"),
    ],
)
def test_what_bars_do_not_have_is_an_error_and_nothing_is_subscribed(
    market: Market, command: dict[str, Any], says: str
) -> None:
    session, link = market.session()
    market.command(session, action="subscribe", **command)
    code, text = error_of(link)
    assert code == 400
    assert says in text
    assert session.state == {}


def test_lengths_are_told_while_they_are_wanted_and_are_bounded(market: Market) -> None:
    sessions = [market.session() for _ in range(_BAR_LENGTHS)]
    assert market.hub.bar_lengths() == set()
    for seconds, (session, _) in enumerate(sessions[1:], 1):
        market.command(session, action="subscribe", bars=["A", "B-*"], bar_seconds=seconds)
    lengths = set(range(1, _BAR_LENGTHS))
    assert market.hub.bar_lengths() == lengths
    session, link = sessions[0]
    market.command(session, action="subscribe", bars=["A"], bar_seconds=99)
    assert error_of(link) == (405, f"bar length limit exceeded: 16 at a time, now {', '.join(map(str, lengths))}, 60 s")
    assert session.state == {}
    market.command(session, action="subscribe", bars=["A"], bar_seconds=1)
    market.command(session, action="subscribe", quotes=["A"], updatedBars=["A"])
    assert market.hub.bar_lengths() == {*lengths, 60}
    for other, _ in sessions[1:]:
        other.closed()
    assert market.hub.bar_lengths() == {1, 60}
    market.command(session, action="unsubscribe", bars=["A"], updatedBars=["A"])
    assert market.hub.bar_lengths() == set()
    market.command(session, action="subscribe", bars=["A"], bar_seconds=99)
    assert market.hub.bar_lengths() == {99}
