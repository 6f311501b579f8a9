"""What a server sends becomes typed messages, exactly."""

import datetime
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.client.errors import BadMessage
from marketfeed.client.messages import (
    Error,
    Gap,
    Heartbeat,
    Position,
    Quote,
    Rule,
    Subscription,
    Success,
    Trade,
    decode_frame,
    encode_message,
    parse_time,
)

QUOTE = (
    '{"T":"q","S":"AIG","bp":50.1,"bs":2.0,"ap":50.2,"as":3.0,"t":"2013-10-07T13:30:00.123456789Z","seq":17,"f":"lean"}'
)
TRADE = '{"T":"t","S":"IBM","p":181.5,"s":100.0,"t":"2013-10-07T13:30:01.000000001Z","seq":18}'


def test_quotes_and_trades_are_read_with_readable_names_and_exact_times() -> None:
    quote, trade = decode_frame(f"[{QUOTE},{TRADE}]")
    assert quote == Quote("AIG", 50.1, 2.0, 50.2, 3.0, "2013-10-07T13:30:00.123456789Z", 17, "lean")
    assert trade == Trade("IBM", 181.5, 100.0, "2013-10-07T13:30:01.000000001Z", 18, "")
    assert isinstance(quote, Quote)
    assert quote.t == 1_381_152_600_123_456_789
    assert isinstance(trade, Trade)
    assert trade.t == 1_381_152_601_000_000_001


@pytest.mark.parametrize(
    ("bp", "bs", "ap", "as_", "bid", "ask"),
    [
        (0, 0, 5.0, 1, math.nan, 5.0),
        (5.0, 1, 0.0, 0.0, 5.0, math.nan),
        (0, 0, 0, 0, math.nan, math.nan),
        (0, 7, 0.01, 0, 0.0, 0.01),
        (-37.63, 0, -37.6, 2, -37.63, -37.6),
    ],
)
def test_a_side_that_is_not_there_has_no_price(
    bp: float, bs: float, ap: float, as_: float, bid: float, ask: float
) -> None:
    frame = msgspec.json.encode(
        [{"T": "q", "S": "X", "bp": bp, "bs": bs, "ap": ap, "as": as_, "t": "2024-01-01T00:00:00Z"}]
    )
    (quote,) = decode_frame(frame)
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.ask) == pytest.approx((bid, ask), nan_ok=True)


@given(
    st.sets(st.sampled_from(["bp", "bs", "ap", "as", "t"])), st.sampled_from([0.0, 5.0]), st.sampled_from([0.0, 2.0])
)
def test_what_was_not_asked_for_is_missing_and_makes_no_side_missing(keys: set[str], price: float, size: float) -> None:
    whole = {"bp": price, "bs": size, "ap": price, "as": size, "t": "1970-01-01T00:00:01Z"}
    wire = {"T": "q", "S": "X", **{key: value for key, value in whole.items() if key in keys}, "seq": 3}
    (quote,) = decode_frame(msgspec.json.encode([wire]))
    assert isinstance(quote, Quote)
    no_side = price == size == 0
    for side, bp, bs in ((quote.bid, "bp", "bs"), (quote.ask, "ap", "as")):
        expected = math.nan if bp not in keys or (no_side and bs in keys) else price
        assert side == pytest.approx(expected, nan_ok=True)
    for value, key in ((quote.bid_size, "bs"), (quote.ask_size, "as")):
        assert value == pytest.approx(size if key in keys else math.nan, nan_ok=True)
    assert (quote.time, quote.t) == (("1970-01-01T00:00:01Z", 10**9) if "t" in keys else ("", 0))
    # Written again, a size of 0 stands for a side that is not there, also where its price was not asked for.
    implied = {bp: 0.0 for bp, bs in (("bp", "bs"), ("ap", "as")) if bs in keys and not size}
    assert msgspec.json.decode(encode_message(quote)) == implied | wire


@given(st.sets(st.sampled_from(["p", "s", "t"])))
def test_a_trade_has_what_was_asked_for(keys: set[str]) -> None:
    whole = {"p": 0.0, "s": 7.0, "t": "1970-01-01T00:00:01Z"}
    wire = {"T": "t", "S": "X", **{key: value for key, value in whole.items() if key in keys}, "seq": 3}
    (trade,) = decode_frame(msgspec.json.encode([wire]))
    assert isinstance(trade, Trade)
    assert (trade.price, trade.size) == pytest.approx(
        (0.0 if "p" in keys else math.nan, 7.0 if "s" in keys else math.nan), nan_ok=True
    )
    assert trade.t == (10**9 if "t" in keys else 0)
    assert msgspec.json.decode(encode_message(trade)) == wire


@pytest.mark.parametrize("zone", ["+00:00", "Z"])
def test_a_heartbeat_tells_a_position_and_the_time(zone: str) -> None:
    wire = f'{{"T":"heartbeat","epoch":5,"seq":120,"t":"2026-11-22T20:00:00.123456{zone}"}}'
    (heartbeat,) = decode_frame(f"[{wire}]")
    assert heartbeat == Heartbeat(5, 120, f"2026-11-22T20:00:00.123456{zone}")
    assert isinstance(heartbeat, Heartbeat)
    assert heartbeat.t == 1_795_377_600_123_456_000
    assert encode_message(heartbeat).decode() == wire


def test_control_messages_are_read() -> None:
    frame = """[
        {"T":"success","msg":"connected","epoch":123456,"version":"0.1.0"},
        {"T":"subscription","quotes":["A*"],"trades":[],"bars":[],"epoch":5,"seq":9,"recovered":false,
         "heartbeat":2.5,
         "rules":[{"quotes":["A*"],"trades":[],"max_hz":4.0},
                  {"quotes":[],"trades":["B"],"where":"1 < size","fields":["p","s"]}]},
        {"T":"gap","from":10,"to":20,"reason":"lapped"},
        {"T":"gap","epoch":4,"from":18,"to":null,"reason":"epoch"},
        {"T":"error","code":400,"msg":"no"}]"""
    assert decode_frame(frame) == [
        Success("connected", 123456, "0.1.0"),
        Subscription(
            ["A*"], [], [Rule(["A*"], [], 4.0), Rule([], ["B"], None, "1 < size", ["p", "s"])], 5, 9, False, 2.5
        ),
        Gap(10, 20, "lapped"),
        Gap(18, None, "epoch", 4),
        Error(400, "no"),
    ]


def test_what_a_newer_server_adds_is_passed_over_and_the_rest_is_read() -> None:
    newer = QUOTE.replace('"seq"', '"c":["R"],"z":{"deep":[1]},"seq"')
    frame = f'[{{"T":"weather","seq":5}},{newer},{{"no":"type"}},{TRADE}]'
    assert decode_frame(frame) == decode_frame(f"[{QUOTE},{TRADE}]")


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "[",
        "{}",
        "nonsense",
        '[{"T":"q"}]',
        '[{"T":"heartbeat","seq":5}]',
        '[{"T":"q","S":"A","bp":"1","bs":1,"ap":1,"as":1,"t":"2024-01-01T00:00:00Z"}]',
        "[1]",
        b"\xff\xfe",
        b"\x93\xa1",
    ],
)
def test_what_is_not_the_protocol_is_an_error_that_shows_it(frame: str | bytes) -> None:
    with pytest.raises(BadMessage) as info:
        decode_frame(frame)
    assert repr(frame[:120]) in str(info.value)


@given(st.integers(min_value=0, max_value=4_102_444_800 * 10**9), st.integers(min_value=0, max_value=9))
def test_times_are_read_to_the_last_digit(ns: int, digits: int) -> None:
    ns -= ns % 10 ** (9 - digits)
    whole, fraction = divmod(ns, 10**9)
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=whole)
    text = moment.isoformat() + (f".{fraction:09d}"[: digits + 1] if digits else "") + "Z"
    assert parse_time(text) == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.0000000019Z", 1),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T19:30:00.5-04:30", 500_000_000),
        ("1970-01-01T05:00:00.1234+05:00", 123_400_000),
    ],
)
def test_other_writings_of_a_time_are_read(text: str, ns: int) -> None:
    assert parse_time(text) == ns


@pytest.mark.parametrize("text", ["", "now", "1970-01-01", "1970-13-01T00:00:00Z", "2013-10-07T13:30:00.12345678xZ"])
def test_what_is_no_time_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_time(text)


def test_messages_are_written_with_the_keys_of_the_wire() -> None:
    frame = f'[{QUOTE},{TRADE},{{"T":"gap","from":10,"to":20,"reason":"lapped"}}]'
    written = b"[%b]" % b",".join(
        encode_message(message) for message in decode_frame(frame) if isinstance(message, Quote | Trade | Gap)
    )
    assert written.decode() == frame


def test_a_side_that_is_not_there_is_written_as_it_was_sent() -> None:
    wire = QUOTE.replace("50.1", "0.0").replace("2.0", "0.0")
    (quote,) = decode_frame(f"[{wire}]")
    assert isinstance(quote, Quote)
    assert encode_message(quote).decode() == wire


def test_a_position_is_written_without_an_epoch_it_does_not_have() -> None:
    assert msgspec.json.encode(Position(0)) == b'{"seq":0}'
    assert msgspec.json.encode(Position(3, 7)) == b'{"seq":3,"epoch":7}'
