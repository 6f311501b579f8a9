from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.sim import SimFeed
from marketfeed.feed import FeedError, FeedSpec, Option, parse_options

OPTIONS = (
    Option("speed", float, 1.0, "times real time"),
    Option("loop", lambda text: {"true": True, "false": False}[text], False, "start again at the end"),
)


@pytest.mark.parametrize(
    ("text", "name", "feed_type", "target", "options"),
    [
        ("sim", "sim", "sim", "", {}),
        ("sim?symbols=500&rate=20000", "sim", "sim", "", {"symbols": "500", "rate": "20000"}),
        ("fast=sim?rate=1", "fast", "sim", "", {"rate": "1"}),
        ("replay:ticks/aig_quote.zip?speed=10", "replay", "replay", "ticks/aig_quote.zip", {"speed": "10"}),
        ("aig=replay:ticks/aig.zip", "aig", "replay", "ticks/aig.zip", {}),
        ("replay:/data/a=b.csv", "replay", "replay", "/data/a=b.csv", {}),
        ("x=replay:C:/data/a=b.csv?speed=max", "x", "replay", "C:/data/a=b.csv", {"speed": "max"}),
        ("venue:wss://host:9443/ws?symbols=BTC-USD,ETH-USD", "venue", "venue", "wss://host:9443/ws", None),
        ("replay:", "replay", "replay", "", {}),
        ("sim?", "sim", "sim", "", {}),
        ("sim?a=%26%3D&b=", "sim", "sim", "", {"a": "&=", "b": ""}),
        ("sim?a", "sim", "sim", "", {"a": ""}),
        ("sim?a=b=c", "sim", "sim", "", {"a": "b=c"}),
    ],
)
def test_a_command_line_names_feed_type_target_and_options(
    text: str, name: str, feed_type: str, target: str, options: dict[str, str] | None
) -> None:
    spec = FeedSpec.parse(text)
    assert (spec.name, spec.type, spec.target) == (name, feed_type, target)
    assert spec.options == (options if options is not None else {"symbols": "BTC-USD,ETH-USD"})


@pytest.mark.parametrize("text", ["", "=sim", ":x", "?a=1", "a b", "a/b=sim"])
def test_what_has_another_form_is_an_error_that_shows_the_form(text: str) -> None:
    with pytest.raises(FeedError, match=r"is not \[NAME=\]TYPE:TARGET\?key=value"):
        FeedSpec.parse(text)


def test_an_option_given_twice_is_an_error() -> None:
    with pytest.raises(FeedError, match="gives 'rate' twice"):
        FeedSpec.parse("sim?rate=1&rate=2")


NAME = st.text("abcXYZ019_-", min_size=1)


@given(NAME, NAME, st.text().filter(lambda text: "?" not in text))
def test_what_is_written_is_read_back(name: str, feed_type: str, target: str) -> None:
    assert FeedSpec.parse(f"{name}={feed_type}:{target}") == FeedSpec(name, feed_type, target)


@given(st.text())
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    lines = 1
    try:
        FeedSpec.parse(text)
    except FeedError as error:
        lines = len(str(error).splitlines())
    assert lines == 1


def test_a_table_says_the_same_as_a_command_line() -> None:
    table = {"name": "aig", "type": "replay", "target": "aig.zip", "speed": 10, "loop": True, "symbol": "AIG"}
    assert FeedSpec.from_table(table) == FeedSpec.parse("aig=replay:aig.zip?speed=10&loop=true&symbol=AIG")
    assert FeedSpec.from_table({"type": "sim"}) == FeedSpec.parse("sim")
    assert FeedSpec.from_table({"type": "sim", "loop": False, "x": 0.5}).options == {"loop": "false", "x": "0.5"}


def test_a_table_without_a_type_is_an_error() -> None:
    with pytest.raises(FeedError, match="needs a type"):
        FeedSpec.from_table({"name": "x"})


@pytest.mark.parametrize("value", [None, ["A", "B"], {"a": 1}])
def test_a_value_that_no_option_can_have_is_an_error(value: object) -> None:
    with pytest.raises(FeedError, match="'symbols' is text, a number or true/false"):
        FeedSpec.from_table({"type": "sim", "symbols": value})


def test_options_are_parsed_and_the_others_have_their_defaults() -> None:
    assert parse_options("replay", OPTIONS, {}) == {"speed": 1.0, "loop": False}
    assert parse_options("replay", OPTIONS, {"speed": "10"}) == {"speed": 10.0, "loop": False}


def test_an_unknown_option_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(FeedError, match="'replay' has no option 'sped'; it has: speed, loop"):
        parse_options("replay", OPTIONS, {"speed": "1", "sped": "10"})
    with pytest.raises(FeedError, match="it has: none"):
        parse_options("plain", (), {"x": "1"})


def test_a_value_that_does_not_parse_is_an_error_that_shows_it() -> None:
    with pytest.raises(FeedError, match="'replay': speed=fast: could not convert"):
        parse_options("replay", OPTIONS, {"speed": "fast"})


def test_an_unknown_type_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(FeedError, match=r"no feed type 'simm'; there are: .*replay, .*sim"):
        FeedSpec.parse("simm").build()


@pytest.mark.parametrize(("table", "message"), [({"rate": 0}, "rate=0"), ({"colour": "red"}, "has no option 'colour'")])
def test_building_a_feed_checks_its_options(table: dict[str, Any], message: str) -> None:
    with pytest.raises(FeedError, match=message):
        FeedSpec.from_table({"type": "sim", **table}).build()


def test_a_feed_is_found_by_its_entry_point_and_built() -> None:
    assert isinstance(FeedSpec.parse("sim?symbols=5").build(), SimFeed)
