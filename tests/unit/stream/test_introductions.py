"""Where ticks name their instrument by an id, a session is told what the id stands for before it gets one."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from marketfeed.stream.encoding.binary import read_frame
from tests.unit.stream.support import QUOTE, TRADE, ListLink, Market


@pytest.fixture
def market() -> Market:
    market = Market(instruments=8192)
    for name in ("AAPL", "MSFT", "BTC-USD"):
        market.instrument(name)
    market.instrument("AAPL", feed="other")
    return market


def told(link: ListLink) -> list[str]:
    """What has been told so far, in order; every tick read against it."""
    link.messages()
    return [f"{each.get('f', '')}:{each['S']}" for each in link.instruments.values()]


def binary(market: Market, feed: str | None = None, **command: Any) -> tuple[Any, ListLink]:
    session, link = market.session(feed, encoding="binary")
    if command:
        market.command(session, action="subscribe", **command)
    return session, link


def order(link: ListLink) -> list[str]:
    """Each frame in short."""
    return [
        f"{len(read_frame(frame.partition(b' ')[2]))} ticks"
        if frame[:1] == b"B"
        else orjson.loads(frame.partition(b" ")[2])[0]["T"]
        for frame in link.frames
    ]


def test_messages_are_text_and_ticks_are_binary_behind_their_instruments(market):
    session, link = binary(market)
    session.start("1")
    market.command(session, action="subscribe", quotes=["MSFT"], snapshot=True)
    market.publish(("MSFT", QUOTE, 1), ("AAPL", QUOTE, 2))
    market.run(0.005)
    assert order(link) == ["success", "subscription", "instruments", "1 ticks"]
    assert link.frames[0][:1] == link.frames[2][:1] == b"T"
    assert [(t["S"], t["bp"], t["f"]) for t in link.ticks()] == [("MSFT", 1.0, "sim")]


def test_only_those_that_were_asked_for_are_told_and_each_once(market):
    session, link = binary(market, quotes=["AAPL"])
    assert told(link) == ["sim:AAPL", "other:AAPL"]
    market.command(session, action="subscribe", trades=["AAPL"], quotes=["BTC-*"])
    market.command(session, action="subscribe", quotes=["BTC-USD"], max_hz=5)
    assert told(link) == ["sim:AAPL", "other:AAPL", "sim:BTC-USD"]
    market.command(session, action="unsubscribe", quotes=["BTC-USD"])
    market.command(session, action="subscribe", quotes=["*"])
    assert told(link) == ["sim:AAPL", "other:AAPL", "sim:BTC-USD", "sim:MSFT"]


def test_on_one_feed_its_instruments_are_told_without_it(market):
    _, link = binary(market, "sim", quotes=["*"])
    assert told(link) == [":AAPL", ":MSFT", ":BTC-USD"]


@pytest.mark.parametrize("wish", [{"quotes": ["*"], "trades": ["*"]}, {"quotes": ["N*"]}, {"quotes": ["NEW", "X"]}])
@pytest.mark.parametrize("how", [{}, {"max_hz": 10}])
def test_those_that_appear_later_are_told_to_all_that_share_a_group_before_their_first_tick(market, wish, how):
    sessions = [binary(market, **wish, **how) for _ in range(3)]
    _, other = binary(market, quotes=["AAPL"])
    _, text = market.session()
    market.run(1.0)
    market.publish(("NEW", QUOTE, 1))
    market.run(1.0)
    for _, link in sessions:
        assert order(link)[-2:] == ["instruments", "1 ticks"]
        assert [t["S"] for t in link.ticks()] == ["NEW"]
    assert "sim:NEW" not in told(other)
    assert text.frames == []


def test_a_symbol_that_is_left_to_another_subscriber_is_told_when_that_one_has_it(market):
    _, link = binary(market, quotes=["*"], trades=["LATER"])
    market.publish(("LATER", TRADE, 1), ("LATER", QUOTE, 2))
    market.run(0.005)
    assert told(link)[-1] == "sim:LATER"
    assert [t["S"] for t in link.ticks()] == ["LATER", "LATER"]


@pytest.mark.parametrize("how", [{}, {"max_hz": 10}, {"since": {"seq": 0}}, {"snapshot": True}])
def test_a_stalled_session_gets_no_tick_before_its_instruments(market, how):
    market.publish(("AAPL", QUOTE, 1))
    session, link = binary(market)
    link.room = 1
    market.command(session, action="subscribe", quotes=["*"], **how)  # the answer fills the link
    assert link.full
    market.publish(("NEW", QUOTE, 1), ("AAPL", QUOTE, 2))
    market.run(1.0)
    assert order(link) == ["subscription"]
    for _ in range(8):
        link.drain(session, 1)
        market.run(1.0)
    assert {"NEW", "AAPL"} <= {t["S"] for t in link.ticks()}
    assert "sim:NEW" in told(link)


def test_who_is_behind_when_an_instrument_appears_is_told_when_it_can_take_it(market):
    session, link = binary(market, quotes=["*"])
    market.run(1.0)
    link.room = 1
    market.publish(("AAPL", QUOTE, 1))
    market.run(1.0)
    assert link.full
    for name in ("NEW-1", "NEW-2"):
        market.publish((name, QUOTE, 1))
        market.run(1.0)
    link.drain(session)
    market.run(1.0)
    assert order(link)[-3:] == ["1 ticks", "instruments", "2 ticks"]
    assert [t["S"] for t in link.ticks()] == ["AAPL", "NEW-1", "NEW-2"]


def test_thousands_are_told_in_messages_that_every_client_takes_however_slowly_it_reads(market):
    names = {f"{'日' * 9}{n}" for n in range(7_000)}
    for name in names:
        market.instrument(name)
    session, link = binary(market)
    link.room = 0
    market.command(session, action="subscribe", quotes=["*"])
    while link.full:
        told(link)
        link.drain(session, 1)
    assert link.closed is None
    assert {each["S"] for each in link.instruments.values()} >= names
    assert max(map(len, link.frames)) < 1 << 18
    assert len(link.frames) > 3


def test_a_new_session_is_told_anew_and_one_that_has_gone_nothing(market):
    session, link = binary(market, quotes=["*"])
    session.closed()
    market.instrument("NEW")
    market.publish(("NEW", QUOTE, 1))
    market.run(1.0)
    assert "sim:NEW" not in told(link)
    session.introduce([4])
    assert "sim:NEW" not in told(link)
    _, again = binary(market, quotes=["*"])
    assert told(again) == [*told(link), "sim:NEW"]


def test_fields_are_refused_for_records_and_nothing_is_subscribed(market):
    session, link = binary(market)
    market.command(session, action="subscribe", quotes=["*"], fields=["bp"])
    (error,) = link.messages()
    assert (error["T"], error["code"]) == ("error", 400)
    assert "whole records" in error["msg"]
    assert not session.state
    # All of them is no choice.
    market.command(session, action="subscribe", quotes=["*"], fields=["bp", "bs", "ap", "as", "p", "s", "t"])
    assert link.messages()[-1]["T"] == "subscription"
