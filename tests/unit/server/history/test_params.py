"""What may be asked, and what the answer to anything else is."""

import pytest

from marketfeed.model import QUOTE, TRADE
from marketfeed.server.history.params import (
    BadRequest,
    RangeQuery,
    SymbolsQuery,
    bars_query,
    latest_query,
    seconds_of,
    symbols_query,
    ticks_query,
)
from tests.unit.server.history.support import BEGIN, LIMITS, SECOND

DAY = 86_400 * SECOND


def quotes(**given):
    return ticks_query("sim", QUOTE, {name: [value] for name, value in given.items()}, LIMITS)


def bars(**given):
    return bars_query("sim", {name: [value] for name, value in given.items()}, LIMITS)


def test_symbols_alone_are_the_first_thousand_of_all_that_is_held():
    assert quotes(symbols="A,B-*,A") == RangeQuery("sim", QUOTE, ("A", "B-*"), None, None, 1000, False, None)


def test_everything_may_be_said():
    asked = quotes(
        symbols="A",
        start="2023-11-15T00:00:00.000000001Z",
        end="2023-11-15T04:00:00+02:00",
        limit="10000",
        sort="desc",
        page_token="x",
        feed="sip",
        currency="USD",
        asof="-",
    )
    assert asked == RangeQuery("sim", QUOTE, ("A",), BEGIN + 1, BEGIN + 7200 * SECOND, 10_000, True, "x")


def test_a_date_is_all_of_that_day_in_utc():
    asked = quotes(symbols="A", start="2023-11-15", end="2023-11-15")
    assert (asked.start, asked.end) == (BEGIN, BEGIN + DAY - 1)


def test_times_beyond_what_a_tick_can_have_are_no_error():
    asked = quotes(symbols="A", start="0001-01-01", end="9999-12-31T23:59:59Z")
    assert (asked.start, asked.end) == (1 - (1 << 63), (1 << 63) - 1)


@pytest.mark.parametrize(
    ("timeframe", "seconds"),
    [
        ("1Min", 60), ("59T", 59 * 60), ("1Hour", 3600), ("23H", 23 * 3600), ("1Day", 86_400), ("1D", 86_400),
        ("5Sec", 5), ("59S", 59),
    ],
)  # fmt: skip
def test_a_timeframe_is_so_many_seconds(timeframe, seconds):
    assert seconds_of(timeframe) == seconds
    asked = bars(symbols="A", timeframe=timeframe, adjustment="raw")
    assert (asked.seconds, asked.kind) == (seconds, TRADE)


@pytest.mark.parametrize(
    "timeframe", ["", "Min", "0Min", "60Min", "24Hour", "2Day", "1Week", "3Month", "1min", "1.5Min"]
)
def test_another_timeframe_is_an_error(timeframe):
    with pytest.raises(BadRequest, match="timeframe"):
        bars(symbols="A", timeframe=timeframe)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "missing parameter `symbols`"),
        ({"symbols": ""}, "missing parameter `symbols`"),
        ({"symbols": "A,,B"}, "invalid symbol"),
        ({"symbols": "A B"}, "invalid symbol"),
        ({"symbols": ",".join(f"S{n}" for n in range(101))}, "101 are named, at most 100"),
        ({"symbols": "A*,B*,C*,D*,E*,F*"}, "at most 5 may be globs"),
        ({"symbols": "A", "symbol": "B"}, "unknown parameter `symbol`"),
        ({"symbols": "A", "limit": "0"}, "limit: Expected `int` >= 1"),
        ({"symbols": "A", "limit": "10001"}, "limit: Expected `int` <= 10000"),
        ({"symbols": "A", "limit": "many"}, "limit: Expected `int`"),
        ({"symbols": "A", "sort": "up"}, "sort: Invalid enum value 'up'"),
        ({"symbols": "A", "start": "yesterday"}, "start is an RFC 3339 time or a date"),
        ({"symbols": "A", "start": "2023-02-30"}, "start is an RFC 3339 time or a date"),
        ({"symbols": "A", "end": "2023-11-15T00:00:00"}, "end is an RFC 3339 time or a date"),
        ({"symbols": "A", "start": "2023-11-16", "end": "2023-11-15"}, "end is before start"),
        ({"symbols": "A", "currency": "EUR"}, "currency"),
        ({"symbols": "A", "timeframe": "1Min"}, "unknown parameter `timeframe`"),
    ],
)
def test_what_is_not_possible_is_told_in_words(given, message):
    with pytest.raises(BadRequest) as error:
        quotes(**given)
    assert message in str(error.value)


def test_bars_need_a_timeframe_and_are_not_adjusted():
    with pytest.raises(BadRequest, match="missing parameter `timeframe`"):
        bars(symbols="A")
    with pytest.raises(BadRequest, match="adjustment: only raw"):
        bars(symbols="A", timeframe="1Min", adjustment="split")


def test_a_parameter_is_given_once():
    with pytest.raises(BadRequest, match="symbols is given 2 times"):
        latest_query({"symbols": ["A", "B"]}, LIMITS)


def test_the_latest_is_of_symbols():
    assert latest_query({"symbols": ["A,B"], "feed": ["iex"]}, LIMITS) == ("A", "B")


def test_instruments_are_all_or_those_that_match():
    assert symbols_query({}) == SymbolsQuery("*", None, 1000, None)
    given = {"match": ["BTC-*"], "feed": ["sim"], "limit": ["5"], "page_token": ["x"]}
    assert symbols_query(given) == SymbolsQuery("BTC-*", "sim", 5, "x")
    with pytest.raises(BadRequest, match="invalid symbol"):
        symbols_query({"match": ["A B"]})


def test_only_limit_and_token_may_differ_between_pages():
    asked = quotes(symbols="A")
    assert asked._replace(limit=5, token="x").identity == asked.identity
    others = [
        asked._replace(feed="other"), asked._replace(kind=TRADE), asked._replace(symbols=("B",)),
        asked._replace(start=1), asked._replace(end=1), asked._replace(descending=True), asked._replace(seconds=5),
    ]  # fmt: skip
    assert len({other.identity for other in [asked, *others]}) == 8
