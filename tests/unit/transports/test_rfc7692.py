"""What is agreed on, and what compressed messages are, without a socket."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.transports import rfc7692
from marketfeed.transports.rfc6455 import Fail, Ping, Receiver
from marketfeed.transports.rfc7692 import Agreed, agree, deflate, parse_extensions
from tests.unit.transports.frames import CONTINUATION, PING, RSV1, TEXT, frame

BASE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
LIMIT = 10_000


def received(*chunks: bytes, limit: int = LIMIT):
    receiver = Receiver(limit, rfc7692.Inflate())
    return [event for chunk in chunks for event in receiver.receive(chunk)]


@pytest.mark.parametrize(
    ("header", "agreed"),
    [
        ("permessage-deflate", Agreed(12, BASE)),
        ("permessage-deflate; client_max_window_bits", Agreed(12, BASE)),
        ("permessage-deflate; client_max_window_bits=8", Agreed(12, BASE)),
        ('permessage-deflate; client_max_window_bits="10"', Agreed(12, BASE)),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", Agreed(12, BASE)),
        ("permessage-deflate; server_max_window_bits=15", Agreed(12, BASE + "; server_max_window_bits=15")),
        ("permessage-deflate; server_max_window_bits=12", Agreed(12, BASE + "; server_max_window_bits=12")),
        ("permessage-deflate; server_max_window_bits=9", Agreed(9, BASE + "; server_max_window_bits=9")),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", Agreed(12, BASE)),
        ("x-webkit-deflate-frame, permessage-deflate", Agreed(12, BASE)),
        ("", None),
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=09", None),
        ("permessage-deflate; server_max_window_bits=ten", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; client_no_context_takeover=true", None),
        ("permessage-deflate; mystery", None),
    ],
)
def test_an_offer_is_taken_as_it_stands_or_declined(header, agreed):
    assert agree(parse_extensions(header)) == agreed


@pytest.mark.parametrize(
    "header", ["a=b", "a; ", "a b", 'a; b="c d"', 'a; b="c', "a; b=", "a;; b", "(a)", "a; b=c=d", 'a; b="c,d"']
)
def test_a_header_that_is_none_is_told(header):
    with pytest.raises(ValueError, match="not an extension"):
        parse_extensions(header)


def test_a_header_is_read_as_the_rfc_writes_it():
    assert parse_extensions(' foo , bar;baz=2 ; qux , foo; v="\\a\\b",, ') == [
        ("foo", []),
        ("bar", [("baz", "2"), ("qux", None)]),
        ("foo", [("v", "ab")]),
    ]


@pytest.mark.parametrize(
    "octets",
    ["f248cdc9c90700", "f348cdc9c9070000", "000500faff48656c6c6f00", "f248050000 00ffffcac9c90700"],
    ids=["shared example", "final block", "not compressed", "two blocks"],
)
def test_the_examples_of_the_rfc(octets):
    """7.2.3: each is Hello."""
    payload = bytes.fromhex(octets)
    assert received(frame(TEXT, payload, rsv=RSV1)) == ["Hello"]
    parts = [frame(TEXT, payload[:3], fin=False, rsv=RSV1), frame(PING), frame(CONTINUATION, payload[3:])]
    assert received(*parts) == [Ping(b""), "Hello"]


@given(st.lists(st.tuples(st.text(max_size=500), st.booleans()), max_size=5), st.integers(1, 50))
def test_compressed_and_other_messages_arrive_in_turn_however_they_are_cut_up(messages, size):
    octets = b"".join(
        frame(TEXT, deflate(text.encode(), 12), rsv=RSV1) if compressed else frame(TEXT, text.encode())
        for text, compressed in messages
    )
    chunks = [octets[i : i + size] for i in range(0, len(octets), size)]
    assert received(*chunks) == [text for text, _ in messages]


@given(st.binary(max_size=9000), st.integers(rfc7692.LEAST_BITS, rfc7692.WINDOW_BITS))
def test_a_frame_needs_no_more_than_the_window_that_was_agreed_on_and_nothing_before_it(payload, bits):
    data = deflate(payload * 2, bits) + b"\x00\x00\xff\xff"
    assert zlib.decompressobj(-bits).decompress(data) == payload * 2


def test_what_is_short_is_sent_as_it_is_and_what_is_long_gets_shorter():
    short, long = b"a" * (rfc7692.LEAST_BYTES - 1), b"a" * rfc7692.LEAST_BYTES
    assert rfc7692.frame(short, False, 12) == b"\x81\x7e\x00\xc7" + short
    sent = rfc7692.frame(long, True, 12)
    assert sent[0] == 0xC2
    assert len(sent) < 20


def test_a_bomb_is_refused_with_1009_before_it_takes_more_memory_than_a_message_may():
    bomb = frame(TEXT, deflate(bytes(30_000_000), 15), rsv=RSV1)
    tracemalloc.start()
    try:
        [event] = received(bomb, limit=100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert event == Fail(1009, "a message that is too long when it is decompressed")
    assert peak < 1_000_000


def test_a_compressed_message_may_be_as_long_as_the_limit_and_no_longer():
    assert received(frame(TEXT, deflate(b"a" * LIMIT, 12), rsv=RSV1)) == ["a" * LIMIT]
    [event] = received(frame(TEXT, deflate(b"a" * (LIMIT + 1), 12), rsv=RSV1))
    assert event.code == 1009
    half = deflate(b"a" * (LIMIT // 2), 12)
    [event] = received(frame(TEXT, half + b"\x00\x00\xff\xff" + half + b"\x00\x00\xff\xff" + half, rsv=RSV1))
    assert event.code == 1009


def test_a_message_of_blocks_that_are_all_empty_ends_too():
    [event] = received(*[frame(TEXT, b"\x00\x00\x00\xff\xff" * 1000, rsv=RSV1, fin=False)] + 10 * [
        frame(CONTINUATION, b"\x00\x00\x00\xff\xff" * 1000, fin=False)
    ])  # fmt: skip
    assert event.code == 1009


@pytest.mark.parametrize("octets", [b"\xff" * 10, b"\x07", deflate(b"\xff\xfe", 12)])
def test_what_is_not_compressed_as_it_has_to_be_or_no_text_fails_with_1007(octets):
    [event] = received(frame(TEXT, octets, rsv=RSV1))
    assert event.code == 1007


def test_only_the_first_frame_of_a_message_says_that_it_is_compressed():
    parts = [frame(TEXT, deflate(b"abc", 12)[:2], fin=False, rsv=RSV1), frame(CONTINUATION, b"", rsv=RSV1)]
    assert [event.code for event in received(*parts)] == [1002]
    assert [event.code for event in received(frame(PING, rsv=RSV1))] == [1002]


def test_between_messages_no_window_is_held():
    inflate = rfc7692.Inflate()
    receiver = Receiver(LIMIT, inflate)
    receiver.receive(frame(TEXT, deflate(b"abc", 12), rsv=RSV1))
    assert inflate._stream is None
