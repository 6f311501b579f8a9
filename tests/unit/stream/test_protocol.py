"""Commands in, as bytes or text; messages out, as data."""

from __future__ import annotations

import datetime
import math

import hypothesis.strategies as st
import msgpack
import orjson
import pytest
from hypothesis import example, given

from marketfeed.model import QUOTE, TRADE
from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.stream import protocol
from marketfeed.stream.codes import ErrorCode, GapReason, ProtocolError
from marketfeed.stream.protocol import Auth, Position, Subscribe, Unsubscribe, decode_command, parse_time
from marketfeed.stream.subscription import Options

WRITERS = {"json": lambda command: orjson.dumps(command).decode(), "msgpack": msgpack.packb}


def error_of(data: str | bytes) -> str:
    """What the client is told; it is refused as bad syntax, and the answer can be written."""
    with pytest.raises(ProtocolError) as refused:
        decode_command(data)
    assert refused.value.code == ErrorCode.SYNTAX
    message = protocol.error(refused.value.code, str(refused.value))
    assert len(orjson.dumps(message)) < 2000
    return str(refused.value)


# ---- commands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ({"action": "auth", "key": "k", "secret": "s"}, Auth(key="k", secret="s")),
        ({"action": "auth", "token": "t"}, Auth(token="t")),
        ({"action": "auth"}, Auth()),
        ({"action": "subscribe", "quotes": ["A"], "trades": ["*"]}, Subscribe(quotes=["A"], trades=["*"])),
        ({"quotes": ["A"], "action": "unsubscribe"}, Unsubscribe(quotes=["A"])),
        ({"action": "subscribe", "quotes": ["A"], "max_hz": 4}, Subscribe(quotes=["A"], max_hz=4.0)),
        ({"action": "subscribe", "quotes": ["A"], "max_hz": None}, Subscribe(quotes=["A"])),
        ({"action": "subscribe", "quotes": ["A"], "snapshot": True}, Subscribe(quotes=["A"], snapshot=True)),
        (
            {"action": "subscribe", "quotes": ["A"], "since": {"epoch": (1 << 53) - 1, "seq": 7}},
            Subscribe(quotes=["A"], since=Position(seq=7, epoch=(1 << 53) - 1)),
        ),
        ({"action": "subscribe", "quotes": ["A"], "since": {"seq": 0}}, Subscribe(quotes=["A"], since=Position(seq=0))),
        ({"action": "subscribe", "quotes": ["A"], "since": "now"}, Subscribe(quotes=["A"], since="now")),
    ],
)
def test_a_command_means_the_same_in_either_encoding(write, command, expected):
    assert decode_command(write(command)) == expected


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ([], "Expected `object`"),
        (None, "Expected `object`"),
        (5, "Expected `object`"),
        ("subscribe", "Expected `object`"),
        ({}, "`action`"),
        ({"action": 1}, "`$.action`"),
        ({"action": "dance"}, "'dance'"),
        ({"action": "subscribe", "colour": 1}, "`colour`"),
        ({"action": "auth", "key": 5}, "`$.key`"),
        ({"action": "subscribe", "quotes": "A"}, "`$.quotes`"),
        ({"action": "subscribe", "quotes": ["A", None]}, "quotes["),
        ({"action": "subscribe", "quotes": ["A"], "candles": ["A"]}, "`candles`"),
        ({"action": "subscribe", "quotes": ["A"], "max_hz": 0}, "`$.max_hz`"),
        ({"action": "subscribe", "quotes": ["A"], "max_hz": -1}, "`$.max_hz`"),
        ({"action": "subscribe", "quotes": ["A"], "max_hz": 0.00099}, "`$.max_hz`"),
        ({"action": "subscribe", "quotes": ["A"], "max_hz": 5e-324}, "`$.max_hz`"),
        ({"action": "subscribe", "quotes": ["A"], "max_hz": 1e7}, "`$.max_hz`"),
        ({"action": "subscribe", "quotes": ["A"], "max_hz": "4"}, "`$.max_hz`"),
        ({"action": "subscribe", "quotes": ["A"], "max_hz": True}, "`$.max_hz`"),
        ({"action": "subscribe", "quotes": ["A"], "snapshot": 1}, "`$.snapshot`"),
        ({"action": "subscribe", "quotes": ["A"], "since": 7}, "`$.since`"),
        ({"action": "subscribe", "quotes": ["A"], "since": {}}, "`seq`"),
        ({"action": "subscribe", "quotes": ["A"], "since": {"seq": -1}}, "`$.since.seq`"),
        ({"action": "subscribe", "quotes": ["A"], "since": {"seq": 1 << 62}}, "`$.since.seq`"),
        ({"action": "subscribe", "quotes": ["A"], "since": {"seq": 1.5}}, "`$.since.seq`"),
        ({"action": "subscribe", "quotes": ["A"], "since": {"seq": 1, "epoch": 0}}, "`$.since.epoch`"),
        ({"action": "subscribe", "quotes": ["A"], "since": {"seq": 1, "epoch": 1 << 53}}, "`$.since.epoch`"),
        ({"action": "subscribe", "quotes": ["A"], "since": {"seq": 1, "epoc": 1}}, "`epoc`"),
        ({"action": "unsubscribe", "quotes": ["A"], "max_hz": 1}, "`max_hz`"),
    ],
)
def test_what_is_not_a_command_is_answered_with_what_is_wrong(write, command, hint):
    assert hint in error_of(write(command))


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("", "invalid JSON"),
        ("{", "invalid JSON"),
        ('{"action":"auth"} x', "invalid JSON"),
        ('{"action":"subscribe","quotes":["A"],"max_hz":NaN}', "invalid JSON"),
        ('{"action":"subscribe","quotes":["\\ud800"]}', "invalid JSON"),
        ('{"action":"subscribe","quotes":["\ud800"]}', "invalid JSON"),
        ('{"action":"subscribe","quotes":["A"],"max_hz":1e999}', "out of range"),
        ('{"action":"subscribe","quotes":["A"],"since":{"seq":' + "9" * 100 + "}}", "seq"),
        ("[" * 60_000, "Expected `object`"),
        ('{"action":"subscribe","quotes":' + "[" * 60_000, "quotes["),
        ('{"action":"' + "x" * 60_000 + '"}', "xxx"),
        (b"", "invalid msgpack"),
        (b"\xc1", "msgpack"),
        (b"\x81", "invalid msgpack"),
        (msgpack.packb({"action": "auth"}) + b"\xc0", "invalid msgpack"),
        (b"\x82\xa6action\xa9subscribe\xa6quotes\x91\xa1\xff", "utf-8"),
        (msgpack.packb({"action": "subscribe", "quotes": ["A"], "max_hz": math.nan}), "max_hz"),
        (msgpack.packb({"action": "subscribe", "quotes": ["A"], "max_hz": math.inf}), "max_hz"),
        (msgpack.packb({"action": "subscribe", "quotes": [b"A"]}), "quotes"),
        # A length of 2^32 - 1 with nothing behind it: no memory may be taken on its word.
        (b"\x82\xa6action\xa9subscribe\xa6quotes\xdd\xff\xff\xff\xff", "truncated"),
        (b"\xdf\xff\xff\xff\xff", "truncated"),
        (b"\x82\xa6action\xa9subscribe\xa6quotes" + b"\x91" * 60_000, "quotes"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_is_not_even_an_encoding_is_answered_too(data, hint):
    assert hint in error_of(data)


ATOMS = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    ATOMS, lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=8), some, max_size=3)
)
NEARLY = st.fixed_dictionaries(
    {"action": st.sampled_from(["auth", "subscribe", "unsubscribe", "x"])},
    optional={
        "quotes": ANYTHING | st.lists(st.text()),
        "trades": st.lists(st.text()),
        "max_hz": ANYTHING | st.floats(),
        "snapshot": ANYTHING,
        "since": ANYTHING | st.fixed_dictionaries({"seq": ATOMS}, optional={"epoch": ATOMS}) | st.text(),
        "key": ANYTHING,
    },
)


def refused_or_used(data: str | bytes) -> None:
    """Whatever comes either is a command that can be looked at, or a ProtocolError; nothing else is raised."""
    try:
        command = decode_command(data)
        if isinstance(command, Subscribe):
            assert command.max_hz is None or 0.001 <= command.max_hz <= 1_000_000
            if isinstance(command.since, str):
                parse_time(command.since)
        if not isinstance(command, Auth):
            assert command.patterns()
    except ProtocolError as error:
        orjson.dumps(protocol.error(error.code, str(error)))


ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(ANY_TEXT)
@example("\ud800")
def test_no_text_raises_anything_but_a_protocol_error(text):
    refused_or_used(text)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_protocol_error(data):
    refused_or_used(data)


@given(NEARLY | ANYTHING)
def test_no_command_raises_anything_but_a_protocol_error(command):
    refused_or_used(msgpack.packb(command))
    refused_or_used(orjson.dumps(command).decode())


@given(NEARLY, st.data())
def test_no_damaged_command_raises_anything_but_a_protocol_error(command, data):
    good = bytearray(msgpack.packb(command))
    good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    refused_or_used(bytes(good[: data.draw(st.integers(0, len(good)))]))


def test_symbols_are_named_once_each_in_the_order_they_came():
    command = Subscribe(quotes=["B", "A", "B"], trades=["B"])
    assert command.patterns() == [(QUOTE, "B"), (QUOTE, "A"), (TRADE, "B")]


@pytest.mark.parametrize(
    ("quotes", "hint"), [([], "names no symbols"), ([""], "bytes"), (["A", "B C"], "blanks"), (["A" * 66], "bytes")]
)
def test_a_command_that_names_nothing_is_refused(quotes, hint):
    for command in (Subscribe(quotes=quotes), Unsubscribe(quotes=quotes)):
        with pytest.raises(ProtocolError, match=hint) as refused:
            command.patterns()
        assert refused.value.code == ErrorCode.SYNTAX


def test_options_are_those_of_the_command():
    assert Subscribe(quotes=["A"], max_hz=2).options() == Options(max_hz=2)
    assert Subscribe(quotes=["A"], snapshot=True).options() == Options()


# ---- times -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01 00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:00.1Z", 100_000_000),
        ("1970-01-01T00:00:00.1234567899999Z", 123_456_789),  # cut, not rounded
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1969-12-31T18:30:00-05:30", 0),
        ("1970-01-01T00:00:00+23:59", -86_340_000_000_000),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("1969-12-31T23:59:59.25Z", -750_000_000),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123_456_789),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000_000),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140_000_000_000),
        ("9999-12-31T23:59:59.999999999-23:59", 253_402_387_139_999_999_999),
    ],
)
def test_a_time_is_nanoseconds_since_1970(text, ns):
    assert parse_time(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2024-01-01",
        "2024-01-01T00:00:00",
        "2024-01-01T00:00Z",
        "2024-13-01T00:00:00Z",
        "2024-00-01T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "2024-04-31T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:60:00Z",
        "2016-12-31T23:59:60Z",  # a real leap second: no clock of ours can hold it
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00,5Z",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00+05:60",
        "2024-01-01T00:00:00+0530",
        "2024-01-01T00:00:00 Z",
        "2024-1-1T00:00:00Z",
        " 2024-01-01T00:00:00Z",
        "2024-01-01T00:00:00Z\n",
        "２０２４-01-01T00:00:00Z",
        "+2024-01-01T00:00:00Z",
        "2024-01-01T00:00:00Z" * 1000,
        "\ud800",
    ],
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ProtocolError, match="RFC 3339") as refused:
        parse_time(text)
    assert refused.value.code == ErrorCode.SYNTAX
    assert len(orjson.dumps(protocol.error(refused.value.code, str(refused.value)))) < 1000


@given(ANY_TEXT)
def test_no_text_taken_for_a_time_raises_anything_but_a_protocol_error(text):
    try:
        assert isinstance(parse_time(text), int)
    except ProtocolError as error:
        orjson.dumps(protocol.error(error.code, str(error)))


@given(
    st.datetimes(),
    st.integers(0, 999_999_999),
    st.integers(-(23 * 60 + 59), 23 * 60 + 59),
)
def test_a_time_written_with_any_offset_is_read_exactly(moment, fraction, minutes):
    moment = moment.replace(microsecond=0)
    seconds = (moment - datetime.datetime(1970, 1, 1)) // datetime.timedelta(seconds=1)
    sign, hours, rest = "-" if minutes < 0 else "+", *divmod(abs(minutes), 60)
    text = f"{moment.isoformat()}.{fraction:09d}{sign}{hours:02d}:{rest:02d}"
    assert parse_time(text) == (seconds - minutes * 60) * 1_000_000_000 + fraction


# ---- messages ----------------------------------------------------------------------------------------------------


def test_the_state_is_told_whole_and_by_its_options():
    state = {
        (QUOTE, "AAPL"): Options(),
        (TRADE, "*"): Options(max_hz=4.0),
        (QUOTE, "BTC-*"): Options(max_hz=4.0),
        (TRADE, "AAPL"): Options(),
    }
    assert protocol.subscription(state, 5, 77, None) == {
        "T": "subscription",
        "trades": ["*", "AAPL"],
        "quotes": ["AAPL", "BTC-*"],
        "bars": [],
        "updatedBars": [],
        "rules": [
            {"quotes": ["AAPL"], "trades": ["AAPL"]},
            {"quotes": ["BTC-*"], "trades": ["*"], "max_hz": 4.0},
        ],
        "epoch": 5,
        "seq": 77,
    }


@pytest.mark.parametrize("recovered", [True, False])
def test_whether_all_could_be_recovered_is_told_only_where_it_was_asked(recovered):
    message = protocol.subscription({}, 5, 77, recovered)
    assert message["recovered"] is recovered
    assert (message["quotes"], message["trades"], message["bars"], message["rules"]) == ([], [], [], [])
    assert "recovered" not in protocol.subscription({}, 5, 77, None)


def test_the_other_messages_are_what_the_protocol_says():
    assert protocol.connected(5, "1.2") == {"T": "success", "msg": "connected", "epoch": 5, "version": "1.2"}
    assert protocol.authenticated() == {"T": "success", "msg": "authenticated"}
    assert protocol.gap(1, 9, GapReason.LAPPED) == {"T": "gap", "from": 1, "to": 9, "reason": "lapped"}
    assert protocol.gap(4, None, GapReason.EPOCH, 3) == {
        "T": "gap",
        "from": 4,
        "to": None,
        "reason": "epoch",
        "epoch": 3,
    }
    assert protocol.error(ErrorCode.SYMBOL_LIMIT, "too many") == {"T": "error", "code": 405, "msg": "too many"}
    assert type(protocol.error(ErrorCode.SYMBOL_LIMIT, "")["code"]) is int


def test_instruments_are_told_with_their_feed_only_where_ticks_of_every_feed_are_sent():
    directory = InstrumentDirectory.on_heap(4)
    for feed, symbol in (("a", "X"), ("b", "X"), ("b", "Y")):
        directory.add(directory.add_feed(feed), symbol)
    assert protocol.instruments(directory, [2, 0], True) == {
        "T": "instruments",
        "instruments": [{"id": 2, "S": "Y", "f": "b"}, {"id": 0, "S": "X", "f": "a"}],
    }
    assert protocol.instruments(directory, [1], False)["instruments"] == [{"id": 1, "S": "X"}]


def test_every_message_has_a_type_that_is_listed():
    messages = [
        protocol.connected(1, ""),
        protocol.authenticated(),
        protocol.subscription({}, 1, 0, None),
        protocol.gap(1, 2, GapReason.LAPPED),
        protocol.error(ErrorCode.SYNTAX, ""),
        protocol.heartbeat(1, 2, 0),
        protocol.position(1, None),
        protocol.instruments(InstrumentDirectory.on_heap(1), [], True),
    ]
    assert {message["T"] for message in messages} | {"q", "t", "b", "u"} == set(protocol.MESSAGE_TYPES)
