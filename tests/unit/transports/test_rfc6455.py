"""What a client sends, without a socket: every way to say it right, and every way to say it wrong."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.transports import rfc6455
from marketfeed.transports.rfc6455 import Close, Fail, Ping, Pong, Receiver
from tests.unit.transports.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, RSV1, RSV2, RSV3, TEXT, close, frame

LIMIT = 1000


def received(*chunks: bytes, limit: int = LIMIT) -> list[rfc6455.Event]:
    receiver = Receiver(limit)
    return [event for chunk in chunks for event in receiver.receive(chunk)]


def failed(*chunks: bytes, limit: int = LIMIT) -> int:
    """The close code; nothing else may have come of it."""
    [event] = received(*chunks, limit=limit)
    assert isinstance(event, Fail)
    return event.code


masks = st.binary(min_size=4, max_size=4)
controls = st.one_of(
    st.builds(Ping, st.binary(max_size=125)),
    st.builds(Pong, st.binary(max_size=125)),
)
messages = st.one_of(st.text(max_size=300), st.binary(max_size=900))


@st.composite
def conversations(draw):
    """What a client says, and the bytes of it: in fragments, with control frames between them."""
    said, data = [], b""

    def control() -> None:
        nonlocal data
        for event in draw(st.lists(controls, max_size=1)):
            said.append(event)
            data += frame(PING if isinstance(event, Ping) else PONG, event.data, mask=draw(masks))

    for message in draw(st.lists(messages, max_size=4)):
        payload = message.encode() if isinstance(message, str) else message
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for n, part in enumerate(parts):
            opcode = CONTINUATION if n else TEXT if isinstance(message, str) else BINARY
            data += frame(opcode, part, fin=n == len(parts) - 1, mask=draw(masks))
            if n < len(parts) - 1:
                control()
        said.append(message)
        control()
    return said, data


@given(conversations(), st.data())
def test_whatever_is_said_arrives_however_it_is_cut_up(conversation, data):
    said, octets = conversation
    size = data.draw(st.integers(1, max(1, len(octets))))
    chunks = [octets[i : i + size] for i in range(0, len(octets), size)]
    assert received(*chunks, limit=1200) == said


@given(st.lists(st.binary(max_size=200)))
def test_whatever_bytes_come_there_is_an_answer_and_at_most_one_end(chunks):
    events = received(*chunks)
    assert not any(isinstance(event, Fail | Close) for event in events[:-1])


@pytest.mark.parametrize(
    "octets",
    [
        frame(TEXT, b"a", rsv=RSV1),
        frame(TEXT, b"a", rsv=RSV2),
        frame(BINARY, b"a", rsv=RSV3),
        frame(PING, rsv=RSV1),
        *(frame(opcode, b"a") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        frame(TEXT, b"a", mask=None),
        frame(PING, mask=None),
        frame(PING, fin=False),
        frame(CLOSE, fin=False),
        frame(PING, b"a" * 126),
        frame(CLOSE, b"a" * 200),
        frame(CONTINUATION, b"a"),
        frame(CONTINUATION, b"a", fin=False),
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        frame(BINARY, fin=False) + frame(BINARY, fin=False),
        frame(CLOSE, b"\x03"),
        *(close(code) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)),
        b"\x81\xfe\x00\x7d",
        b"\x81\xff" + struct.pack("!Q", 65_535),
        b"\x81\xff" + struct.pack("!Q", 1 << 63),
    ],
)
def test_what_breaks_the_rules_fails_with_1002(octets):
    assert failed(octets) == 1002


@pytest.mark.parametrize(
    ("text", "seen_after"),
    [
        (b"a\xff", 2),
        (b"\xc0\x80", 1),
        (b"\xce\xba\xed\xa0\x80edit", 4),
        (b"\xf4\x90\x80\x80", 2),
        (b"\xf5", 1),
        (b"\xe2\x82z", 3),
        (b"\x80", 1),
    ],
)
def test_text_that_is_not_utf_8_fails_with_1007_at_the_octet_that_shows_it(text, seen_after):
    assert failed(frame(TEXT, text)) == 1007
    receiver = Receiver(LIMIT)
    octets = frame(TEXT, text + b"and on" * 10)
    head = len(octets) - len(text) - 60
    for n in range(head + seen_after - 1):
        assert receiver.receive(octets[n : n + 1]) == []
    [event] = receiver.receive(octets[head + seen_after - 1 : head + seen_after])
    assert event == Fail(1007, "text that is not UTF-8")
    fragments = [
        frame(TEXT, text[:1], fin=False),
        *(frame(CONTINUATION, text[n : n + 1], fin=False) for n in (1, 2, 3)),
    ]
    assert failed(*fragments) == 1007


def test_text_that_ends_within_a_character_fails_with_1007():
    assert failed(frame(TEXT, "€".encode()[:2])) == 1007
    assert failed(frame(TEXT, "€".encode()[:1], fin=False), frame(CONTINUATION, "€".encode()[1:2])) == 1007


def test_a_message_may_be_as_long_as_the_limit_and_fails_with_1009_by_the_header_of_what_makes_it_longer():
    assert received(frame(TEXT, b"a" * LIMIT)) == ["a" * LIMIT]
    assert failed(frame(TEXT, b"a" * (LIMIT + 1))[:4]) == 1009
    assert failed(b"\x82\xff" + struct.pack("!Q", 1 << 62)) == 1009
    parts = [frame(BINARY, b"a" * 400, fin=False), frame(CONTINUATION, b"a" * 400, fin=False)]
    assert received(*parts, frame(CONTINUATION, b"a" * 200)) == [b"a" * LIMIT]
    assert failed(*parts, frame(CONTINUATION, b"a" * 201)[:4]) == 1009
    assert received(*[frame(TEXT, b"a" * 600)] * 3) == ["a" * 600] * 3


def test_a_message_in_a_million_empty_fragments_holds_nothing():
    receiver = Receiver(LIMIT)
    receiver.receive(frame(TEXT, b"a", fin=False))
    many = frame(CONTINUATION, fin=False) * 1000
    for _ in range(1000):
        assert receiver.receive(many) == []
    assert len(receiver._message) == 1
    assert receiver._rest == b""


def test_between_messages_nothing_is_held():
    receiver = Receiver(LIMIT)
    receiver.receive(frame(TEXT, b"a" * 300, fin=False) + frame(CONTINUATION, b"b" * 300))
    assert receiver._message is None
    assert receiver._rest == b""


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
def test_a_close_frame_tells_its_code_and_reason_and_what_follows_does_not_count(code):
    assert received(close(code, "grüezi".encode()) + frame(TEXT, b"a"), frame(PING)) == [Close(code, "grüezi")]


def test_a_close_frame_may_say_nothing_but_a_reason_is_utf_8():
    assert received(frame(CLOSE)) == [Close(1005, "")]
    assert failed(close(1000, b"\xff")) == 1007


def test_after_a_failure_nothing_counts():
    assert received(frame(TEXT, b"a"), frame(3), frame(TEXT, b"b"), frame(PING))[0] == "a"
    assert failed(frame(3), frame(TEXT, b"b"), frame(PING)) == 1002


@given(st.binary(max_size=70), masks)
def test_masking_is_what_the_rfc_says_and_its_own_inverse(data, mask):
    masked = rfc6455.unmask(data, mask)
    assert masked == bytes(octet ^ mask[i % 4] for i, octet in enumerate(data))
    assert rfc6455.unmask(masked, mask) == data


def test_the_examples_of_the_rfc():
    """5.7 and 1.3."""
    assert received(bytes.fromhex("818537fa213d7f9f4d5158")) == ["Hello"]
    assert received(bytes.fromhex("8a8537fa213d7f9f4d5158")) == [Pong(b"Hello")]
    assert rfc6455.ping(b"Hello") == bytes.fromhex("890548656c6c6f")
    assert rfc6455.head(rfc6455.first_octet(True), 256) == bytes.fromhex("827e0100")
    assert rfc6455.head(rfc6455.first_octet(True), 65_536) == bytes.fromhex("827f0000000000010000")
    assert rfc6455.accept_of("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("key", ["", "short", "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZQ==x", "ä" * 24, "*" * 24])
def test_a_key_that_is_not_16_bytes_is_none(key):
    assert rfc6455.accept_of(key) is None


def test_our_close_frame_has_a_code_that_may_be_sent_and_a_reason_that_fits():
    assert rfc6455.close(1005) == b"\x88\x00"
    assert rfc6455.close(3001, "slow client") == b"\x88\x0d\x0b\xb9slow client"
    frame = rfc6455.close(1000, "ä" * 100)
    assert len(frame) == 2 + 124
    assert frame[4:].decode() == "ä" * 61
    with pytest.raises(ValueError, match="1006"):
        rfc6455.close(1006)
