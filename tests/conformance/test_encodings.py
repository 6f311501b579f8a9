"""Every encoding says exactly what was put in. A new one joins by a way to read it in READERS."""

from __future__ import annotations

import datetime
import gc
import math
import re
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis.strategies as st
import msgpack
import numpy as np
import orjson
import pytest
from hypothesis import example, given

from marketfeed.model import BAR, QUOTE, TICK, TRADE, UPDATED_BAR, empty_ticks
from marketfeed.model.bars import FROM_QUOTES, empty_bars
from marketfeed.model.instruments import InstrumentDirectory, check_name
from marketfeed.model.tick import Ticks
from marketfeed.stream import protocol
from marketfeed.stream.codes import CloseCode, ErrorCode, GapReason
from marketfeed.stream.encoding import ENCODINGS, FIELDS, Encoding, check_fields
from marketfeed.stream.encoding.fields import ALWAYS
from marketfeed.stream.subscription import Options

#: The numbers of a bar, as they follow one another in a record.
BAR_KEYS = ("o", "h", "l", "c", "vw", "v")
TICKS_AND_BARS = ("q", "t", "b", "u")
_T = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", re.ASCII)


def read_json(payload: bytes, directory: InstrumentDirectory) -> list[dict[str, Any]]:
    messages = orjson.loads(payload)
    for message in messages:
        if message["T"] in TICKS_AND_BARS and "t" in message:
            assert _T.fullmatch(message["t"]), message
            second, fraction = message["t"][:-1].split(".")
            since = datetime.datetime.fromisoformat(second) - datetime.datetime(1970, 1, 1)
            message["t"] = since // datetime.timedelta(seconds=1) * 1_000_000_000 + int(fraction)
    return messages


def read_msgpack(payload: bytes, directory: InstrumentDirectory) -> list[dict[str, Any]]:
    messages = msgpack.unpackb(payload)
    for message in messages:
        if message["T"] in TICKS_AND_BARS and "t" in message:
            assert type(message["t"]) is msgpack.Timestamp, message
            message["t"] = message["t"].to_unix_nano()
    return messages


def read_binary(payload: bytes, directory: InstrumentDirectory) -> list[dict[str, Any]]:
    """By the offsets in docs/protocol.md, with nothing of ours: as a reader in another language would."""
    magic, version, begin, length, _, count, first = struct.unpack_from("<4sHHHHIQ", payload)
    assert (magic, version) == (b"MKTF", 1)
    assert len(payload) == begin + count * length
    messages = []
    for at in range(begin, len(payload), length):
        seq, time, _, n, sec, instrument, _, kind, flags, *numbers = struct.unpack_from("<QqqIIIHBB6d", payload, at)
        feed, symbol = directory.feeds()[directory.feed_of()[instrument]], directory.symbols()[instrument]
        if kind >= BAR:
            message = {"T": "bu"[kind - BAR], "S": symbol, **dict(zip(BAR_KEYS, numbers, strict=True)), "n": n}
            message |= {"t": time, "seq": seq, "f": feed}
            message |= {"sec": sec} if sec != 60 else {}
            messages.append(message | ({"from": "quotes"} if flags & 1 else {}))
            continue
        names = ("bp", "bs", "ap", "as") if kind == QUOTE else ("p", "s")
        values = zip(names, numbers[:4] if kind == QUOTE else numbers[4:], strict=True)
        messages.append({"T": "qt"[kind - QUOTE], "S": symbol, **dict(values), "t": time, "seq": seq, "f": feed})
    assert first == (messages[0]["seq"] if messages else 0)
    return messages


class Reader(NamedTuple):
    """How the frames of an encoding are read."""

    #: payload of a frame of ticks -> what they say, as dicts, times as ns
    ticks: Callable[[bytes, InstrumentDirectory], list[dict[str, Any]]]
    #: payload of a frame of messages -> the messages
    messages: Callable[[bytes], list[dict[str, Any]]]
    #: what is there for a number that is not there
    missing: float
    #: whether a tick itself tells its feed
    tells_feed: bool = True


READERS = {
    "json": Reader(read_json, orjson.loads, 0.0),
    "msgpack": Reader(read_msgpack, msgpack.unpackb, 0.0),
    "binary": Reader(read_binary, orjson.loads, math.nan, tells_feed=False),
}

every_encoding = pytest.mark.parametrize("name", list(ENCODINGS))
every_encoding_with_fields = pytest.mark.parametrize("name", [n for n, cls in ENCODINGS.items() if not cls.RECORDS])
with_and_without_feed = pytest.mark.parametrize("with_feed", [True, False], ids=["with f", "without f"])


def is_name(text: str) -> bool:
    try:
        check_name(text)
    except ValueError:
        return False
    return True


SYMBOLS = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters=","), min_size=1, max_size=32).filter(
    is_name
) | st.sampled_from(["A", '"', "\\", '"}{"', "日経225", "🐂" * 8, "é" * 16, "x" * 32, "</script>", "%s{0}{{"])
FEEDS = SYMBOLS.filter(lambda name: ":" not in name and "/" not in name)
NUMBERS = st.floats(allow_nan=True, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 0.1, -37.63, 1e-8, 5e-324, 1.7976931348623157e308, -1e22, 1e16, 123456789.125, 2.0**53 + 2, math.nan]
)
TIMES = st.integers(0, (1 << 63) - 1) | st.integers(1_600_000_000_000_000_000, 1_800_000_000_000_000_000)
SEQS = st.integers(1, 1 << 53)
TICKS = st.tuples(st.integers(0, 4), st.sampled_from([QUOTE, TRADE]), TIMES, SEQS, *[NUMBERS] * 4)
INSTRUMENTS = st.lists(st.tuples(FEEDS, SYMBOLS), min_size=5, max_size=5, unique=True)

Made = tuple[int, int, int, int, float, float, float, float]


def rows_of(made: list[Made], feed_of: list[int]) -> tuple[Ticks, np.ndarray]:
    rows = empty_ticks(len(made))
    for row, (instrument, kind, time, _, a, b, c, d) in zip(rows, made, strict=True):
        row["instrument"], row["feed"], row["kind"], row["ts_event"] = instrument, feed_of[instrument], kind, time
        # The columns of the other kind hold something too: nothing of it may come through.
        row["bid"], row["bid_size"], row["ask"], row["ask_size"] = a, b, c, d
        row["price"], row["size"] = (a, b) if kind == TRADE else (d, c)
    return rows, np.array([tick[3] for tick in made], np.uint64)


def expected_of(name: str, tick: Made, instruments: list[tuple[str, str]], with_feed: bool) -> dict[str, Any]:
    """What a reader of that encoding is to find."""
    reader = READERS[name]
    instrument, kind, time, seq, *numbers = tick
    feed, symbol = instruments[instrument]
    a, b, c, d = (reader.missing if math.isnan(number) else number for number in numbers)
    values = {"bp": a, "bs": b, "ap": c, "as": d} if kind == QUOTE else {"p": a, "s": b}
    message = {"T": "q" if kind == QUOTE else "t", "S": symbol, **values, "t": time, "seq": seq}
    return {**message, "f": feed} if with_feed or not reader.tells_feed else message


def told(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    """With each value as text and type, so that -0.0 is not 0.0 and 1 is not 1.0."""
    return [{key: f"{type(value).__name__} {value!r}" for key, value in message.items()} for message in messages]


def directory_of(instruments: list[tuple[str, str]]) -> InstrumentDirectory:
    directory = InstrumentDirectory.on_heap(64)
    for feed, symbol in instruments:
        directory.add(directory.add_feed(feed), symbol)
    return directory


def new(name: str, directory: InstrumentDirectory, with_feed: bool = True) -> Encoding:
    return ENCODINGS[name](directory, with_feed)


def test_every_encoding_is_held_to_this():
    assert set(READERS) == set(ENCODINGS)
    assert [cls.NAME for cls in ENCODINGS.values()] == list(ENCODINGS)


@every_encoding
@with_and_without_feed
@given(INSTRUMENTS, st.lists(TICKS, max_size=12))
@example([("s", s) for s in "ABCDE"], [(0, QUOTE, 0, 1, math.nan, math.nan, -37.63, 1.0)])
@example([("s", s) for s in "ABCDE"], [(4, TRADE, (1 << 63) - 1, 1 << 53, -0.0, math.nan, 0.0, 0.0)])
def test_ticks_say_what_was_put_in_each_once_and_in_order(name, with_feed, instruments, made):
    directory = directory_of(instruments)
    rows, seqs = rows_of(made, directory.feed_of())
    encoding = new(name, directory, with_feed)
    encoded = encoding.ticks(rows, seqs)
    expected = told([expected_of(name, tick, instruments, with_feed) for tick in made])
    read = READERS[name].ticks
    assert told(read(encoded.frame(), directory)) == expected
    # A tick stands by itself: any group has those that it wants, be they many or few.
    for places in (range(0, len(made), 2), range(1, len(made)), range(len(made)), range(0)):
        assert told(read(encoded.frame(list(places)), directory)) == [expected[n] for n in places]


@every_encoding
@given(INSTRUMENTS, st.lists(TICKS, min_size=1, max_size=4))
@example([("s", s) for s in "ABCDE"], [(0, QUOTE, 0, 1, math.nan, math.nan, 1.0, 1.0)])
def test_the_rows_that_are_encoded_stay_as_they_are(name, instruments, made):
    directory = directory_of(instruments)
    rows, seqs = rows_of(made, directory.feed_of())
    before = rows.tobytes()
    rows.flags.writeable = seqs.flags.writeable = False
    new(name, directory).ticks(rows, seqs)
    assert rows.tobytes() == before


@every_encoding
@given(INSTRUMENTS, st.lists(TICKS, min_size=2, max_size=8))
def test_rows_that_do_not_lie_side_by_side_are_encoded_like_others(name, instruments, made):
    directory = directory_of(instruments)
    rows, seqs = rows_of(made, directory.feed_of())
    encoding = new(name, directory)
    every_other = list(range(0, len(made), 2))
    assert encoding.ticks(rows[::2], seqs[::2]).frame() == encoding.ticks(rows, seqs).frame(every_other)


@every_encoding
@with_and_without_feed
@given(st.lists(st.lists(st.tuples(FEEDS, SYMBOLS), max_size=4), min_size=1, max_size=6))
def test_a_directory_may_grow_between_calls(name, with_feed, steps):
    directory = InstrumentDirectory.on_heap(64)
    encoding = new(name, directory, with_feed)
    for step in steps:
        for feed, symbol in step:
            directory.add(directory.add_feed(feed), symbol)
        known = [
            (directory.feeds()[f], s) for s, f in zip(directory.symbols(), directory.feed_of(), strict=True)
        ]  # every one so far, the old ones again
        made: list[Made] = [
            (i, kind, i, i + 1, 1.0, 2.0, 3.0, 4.0) for i in range(len(known)) for kind in (TRADE, QUOTE)
        ]
        rows, seqs = rows_of(made, directory.feed_of())
        messages = READERS[name].ticks(encoding.ticks(rows, seqs).frame(), directory)
        assert told(messages) == told([expected_of(name, tick, known, with_feed) for tick in made])


@every_encoding
def test_thousands_of_different_seconds_in_one_call_are_each_told_right(name):
    instruments = [("s", "A")]
    made: list[Made] = [
        (0, QUOTE, n * 86_399_999_999_999 % (1 << 62), n + 1, float(n), 1.0, 2.0, 3.0) for n in range(5000)
    ]
    directory = directory_of(instruments)
    rows, seqs = rows_of(made, directory.feed_of())
    encoding = new(name, directory)
    for _ in range(2):
        assert READERS[name].ticks(encoding.ticks(rows, seqs).frame(), directory) == [
            expected_of(name, tick, instruments, True) for tick in made
        ]


@every_encoding
@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 255, 256, 65_535, 65_536, 70_000])
def test_a_frame_holds_any_number_of_ticks(name, n):
    directory = directory_of([("s", "A")])
    made: Made = (0, TRADE, 5, 6, 1.0, 2.0, 0.0, 0.0)
    rows, seqs = rows_of([made], [0])
    encoded = new(name, directory).ticks(np.repeat(rows, n + 1), np.repeat(seqs, n + 1))
    expected = [expected_of(name, made, [("s", "A")], True)]
    assert READERS[name].ticks(encoded.frame(list(range(n))), directory) == expected * n
    assert READERS[name].ticks(encoded.frame(), directory) == expected * (n + 1)


STATES = st.dictionaries(
    st.tuples(st.sampled_from([QUOTE, TRADE]), SYMBOLS),
    st.builds(Options, max_hz=st.none() | st.floats(1e-6, 1e6)),
    max_size=6,
)
EPOCHS = st.integers(1, (1 << 53) - 1)
POSITIONS = st.integers(0, (1 << 62) - 1)
MESSAGES = st.one_of(
    st.builds(protocol.connected, EPOCHS, st.text()),
    st.just(protocol.authenticated()),
    st.builds(protocol.subscription, STATES, EPOCHS, POSITIONS, st.none() | st.booleans()),
    st.builds(protocol.gap, POSITIONS, st.none() | POSITIONS, st.sampled_from(GapReason), st.none() | EPOCHS),
    st.builds(protocol.error, st.sampled_from(ErrorCode), st.text()),
)


@every_encoding
@given(st.lists(MESSAGES, max_size=5))
def test_messages_arrive_as_they_are(name, messages):
    encoding = new(name, directory_of([]))
    assert told(READERS[name].messages(encoding.messages(messages))) == told(messages)


@every_encoding
def test_codes_are_written_as_numbers(name):
    encoding = new(name, directory_of([]))
    frame = encoding.messages([{"T": "error", "code": code} for code in (*ErrorCode, *CloseCode)])
    assert [m["code"] for m in READERS[name].messages(frame)] == [int(code) for code in (*ErrorCode, *CloseCode)]


@every_encoding
def test_what_is_sent_as_text_is_text_and_what_is_sent_as_binary_is_not(name):
    encoding = new(name, directory_of([("s", "日経")]))
    frames = {
        encoding.ticks(*rows_of([(0, QUOTE, 1, 1, 1.0, 1.0, 1.1, 1.0)], [0])).frame(): encoding.BINARY_TICKS,
        encoding.messages([{"T": "x", "S": "日経", "n": 1.1}]): encoding.BINARY_MESSAGES,
    }
    assert len(frames) == 2
    for frame, binary in frames.items():
        if not binary:
            assert "日経" in frame.decode()
        else:
            with pytest.raises(UnicodeDecodeError):
                frame.decode()


# ---- bars --------------------------------------------------------------------------------------------------------

BARS = st.tuples(
    st.integers(0, 4),
    st.sampled_from([BAR, UPDATED_BAR]),
    TIMES,
    SEQS,
    st.lists(NUMBERS, min_size=6, max_size=6),
    st.integers(0, (1 << 32) - 1),
    st.sampled_from([60, 1, 3600]),
    st.sampled_from([0, FROM_QUOTES]),
)
BarMade = tuple[int, int, int, int, list[float], int, int, int]
SOME_FIELDS = st.none() | st.frozensets(st.sampled_from(FIELDS))


def bar_rows(made: list[BarMade], feed_of: list[int]) -> tuple[Ticks, np.ndarray]:
    rows = empty_bars(len(made))
    for row, (instrument, kind, time, _, numbers, count, seconds, flags) in zip(rows, made, strict=True):
        row["instrument"], row["feed"], row["kind"], row["ts_event"] = instrument, feed_of[instrument], kind, time
        row["open"], row["high"], row["low"], row["close"], row["vwap"], row["volume"] = numbers
        row["count"], row["seconds"], row["flags"] = count, seconds, flags
    return rows.view(TICK), np.array([bar[3] for bar in made], np.uint64)


def expected_bar(bar: BarMade, instruments: list[tuple[str, str]], with_feed: bool, missing: float) -> dict[str, Any]:
    instrument, kind, time, seq, numbers, count, seconds, flags = bar
    feed, symbol = instruments[instrument]
    message: dict[str, Any] = {"T": "u" if kind == UPDATED_BAR else "b", "S": symbol}
    message |= {key: missing if math.isnan(n) else n for key, n in zip(BAR_KEYS, numbers, strict=True)}
    message |= {"n": count, "t": time, "seq": seq}
    message |= {"sec": seconds} if seconds != 60 else {}
    message |= {"from": "quotes"} if flags else {}
    return {**message, "f": feed} if with_feed else message


@every_encoding
@with_and_without_feed
@given(INSTRUMENTS, st.lists(BARS, max_size=6), st.lists(TICKS, max_size=6), SOME_FIELDS)
def test_bars_say_what_was_put_in_alone_and_among_ticks(name, with_feed, instruments, bars, ticks, fields):
    directory, reader = directory_of(instruments), READERS[name]
    fields = None if ENCODINGS[name].RECORDS else fields
    encoding = ENCODINGS[name](directory, with_feed, fields)
    keys = set(FIELDS if fields is None else fields) | {*ALWAYS, "sec", "from"}
    parts = bar_rows(bars, directory.feed_of()), rows_of(ticks, directory.feed_of())
    rows, seqs = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    rows.flags.writeable = False
    tells_feed = with_feed or not reader.tells_feed
    expected = [expected_bar(bar, instruments, tells_feed, reader.missing) for bar in bars]
    expected += [expected_of(name, tick, instruments, with_feed) for tick in ticks]
    expected = [dict(sorted((key, value) for key, value in message.items() if key in keys)) for message in expected]

    def read(frame):
        return told([dict(sorted(message.items())) for message in reader.ticks(frame, directory)])

    assert read(encoding.ticks(rows, seqs).frame()) == told(expected)
    mixed = np.arange(len(rows))[::-1]
    assert read(encoding.ticks(rows[mixed], seqs[mixed]).frame()) == told(expected)[::-1]


# ---- fields ------------------------------------------------------------------------------------------------------

FIELD_SETS = st.frozensets(st.sampled_from(FIELDS))


@every_encoding
@with_and_without_feed
@given(INSTRUMENTS, st.lists(TICKS, min_size=1, max_size=12))
def test_among_many_a_tick_is_written_as_it_is_alone(name, with_feed, instruments, made):
    directory = directory_of(instruments)
    rows, seqs = rows_of(made * (1 + 128 // len(made)), directory.feed_of())
    encoding = new(name, directory, with_feed)
    encoded = encoding.ticks(rows, seqs)
    for n in range(len(made)):
        assert encoded.frame([n]) == encoding.ticks(rows[n : n + 1], seqs[n : n + 1]).frame()


@every_encoding_with_fields
@with_and_without_feed
@given(INSTRUMENTS, st.lists(TICKS, max_size=8), FIELD_SETS)
@example([("s", s) for s in "ABCDE"], [(0, kind, 5, 6, 1.0, 2.0, 3.0, 4.0) for kind in (QUOTE, TRADE)], frozenset())
@example(
    [("s", s) for s in "ABCDE"], [(0, kind, 5, 6, 1.0, 2.0, 3.0, 4.0) for kind in (QUOTE, TRADE)], {"s", "as", "t"}
)
def test_of_the_fields_only_those_asked_for_are_sent(name, with_feed, instruments, made, fields):
    directory = directory_of(instruments)
    rows, seqs = rows_of(made, directory.feed_of())
    rows.flags.writeable = seqs.flags.writeable = False
    encoding = ENCODINGS[name](directory, with_feed, fields)
    encoded = encoding.ticks(rows, seqs)
    expected = [
        {
            key: value
            for key, value in expected_of(name, tick, instruments, with_feed).items()
            if key in fields | set(ALWAYS)
        }
        for tick in made
    ]
    assert told(READERS[name].ticks(encoded.frame(), directory)) == told(expected)


@every_encoding_with_fields
@with_and_without_feed
@given(INSTRUMENTS, st.lists(TICKS, max_size=8))
def test_all_fields_are_the_same_bytes_as_no_choice(name, with_feed, instruments, made):
    directory = directory_of(instruments)
    rows, seqs = rows_of(made, directory.feed_of())
    every = ENCODINGS[name](directory, with_feed, frozenset(FIELDS))
    assert every.ticks(rows, seqs).frame() == new(name, directory, with_feed).ticks(rows, seqs).frame()


@every_encoding_with_fields
def test_with_fields_a_directory_may_grow_between_calls(name):
    directory = InstrumentDirectory.on_heap(64)
    encoding = ENCODINGS[name](directory, True, frozenset({"bp"}))
    for n, feed in enumerate(["a", "b", "a"]):
        directory.add(directory.add_feed(feed), f"X{n}")
        rows, seqs = rows_of([(n, QUOTE, 1, 1, 1.0, 2.0, 3.0, 4.0)], directory.feed_of())
        (message,) = READERS[name].ticks(encoding.ticks(rows, seqs).frame(), directory)
        assert message == {"T": "q", "S": f"X{n}", "bp": 1.0, "seq": 1, "f": feed}


@pytest.mark.parametrize("name", [name for name, cls in ENCODINGS.items() if cls.RECORDS])
def test_an_encoding_of_records_takes_no_fields(name):
    with pytest.raises(ValueError, match="no fields to choose"):
        ENCODINGS[name](InstrumentDirectory.on_heap(1), True, frozenset({"bp"}))


@every_encoding_with_fields
def test_encodings_with_fields_keep_nothing_for_each_instrument(name):
    """There may be one for every set of fields that clients think of."""
    count = 2_000
    directory = InstrumentDirectory.on_heap(count)
    for i in range(count):
        directory.add(directory.add_feed("s"), f"SYMBOL-{i:08d}")
    rows, seqs = rows_of([(i, QUOTE, 1, i + 1, 1.0, 2.0, 3.0, 4.0) for i in range(count)], directory.feed_of())
    kept = []

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = held()
        for key in FIELDS:
            kept.append(ENCODINGS[name](directory, True, frozenset({key})))
            assert kept[-1].ticks(rows, seqs).frame()
        assert (held() - before) / len(kept) < count * 10
    finally:
        tracemalloc.stop()


def test_fields_are_known_keys_of_ticks():
    assert check_fields([]) == frozenset()
    assert check_fields(["ap", "bp", "ap", "t"]) == {"ap", "bp", "t"}
    assert check_fields([*FIELDS, *ALWAYS]) == set(FIELDS)
    assert check_fields(["T", "S", "seq", "f", "p"]) == {"p"}


@pytest.mark.parametrize("name", ["", "bid", "BP", "x" * 10_000, "\ud800", "\n"])
def test_an_unknown_field_is_refused_with_the_known_ones(name):
    with pytest.raises(
        ValueError, match=r"^unknown field '.*': there are bp, bs, ap, as, p, s, t, o, h, l, c, v, n, vw; always "
    ) as refused:
        check_fields(["bp", name])
    assert len(str(refused.value)) < 200
    assert str(refused.value).isprintable()
