"""WebSocket as the load client speaks it, held against RFC 6455 and against Tornado's own masking."""

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tornado.util import _websocket_mask_python as mask

from bench.load.wire import (
    CLOSE,
    PING,
    TEXT,
    PlainDialect,
    SocketIoDialect,
    WebSocketDialect,
    accepted,
    frame,
    frames,
    upgrade,
)


def server_frame(opcode: int, payload: bytes) -> bytes:
    n = len(payload)
    if n < 126:
        return bytes((0x80 | opcode, n)) + payload
    if n < 65536:
        return bytes((0x80 | opcode, 126)) + n.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + n.to_bytes(8, "big") + payload


def test_the_accept_key_is_the_one_in_the_rfc() -> None:
    request, accept = upgrade("127.0.0.1", "/stream")
    key = request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    assert accept == base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    assert len(base64.b64decode(key)) == 16
    assert request.startswith(b"GET /stream HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\n")


def test_only_a_101_with_the_right_accept_key_opens_a_connection() -> None:
    _, accept = upgrade("127.0.0.1", "/")
    good = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nsec-websocket-accept: " + accept
    assert accepted(good, accept)
    assert not accepted(good.replace(b"101", b"200"), accept)
    assert not accepted(good[:-2], accept)
    assert not accepted(b"HTTP/1.1 101 Switching Protocols", accept)


@given(st.binary(max_size=70_000))
def test_a_client_frame_is_masked_and_says_its_length(payload: bytes) -> None:
    data = frame(TEXT, payload)
    size = data[1] & 0x7F
    width = {126: 2, 127: 8}.get(size, 0)
    begin = 2 + width
    assert data[0] == 0x81
    assert data[1] & 0x80
    assert (int.from_bytes(data[2:begin], "big") if width else size) == len(payload)
    assert mask(data[begin : begin + 4], data[begin + 4 :]) == payload


@given(
    st.lists(st.tuples(st.sampled_from([TEXT, PING, CLOSE]), st.binary(max_size=300)), max_size=8),
    st.integers(0, 3000),
)
def test_every_whole_frame_is_found_and_the_rest_is_left(sent: list[tuple[int, bytes]], cut: int) -> None:
    encoded = [server_frame(opcode, payload) for opcode, payload in sent]
    data = b"".join(encoded)[:cut]
    whole, end = 0, 0
    while whole < len(encoded) and end + len(encoded[whole]) <= len(data):
        end += len(encoded[whole])
        whole += 1
    found = list(frames(data))
    assert [(opcode, payload) for opcode, payload, _ in found] == sent[:whole]
    assert (found[-1][2] if found else 0) == end


def test_a_long_frame_is_found() -> None:
    payload = b"x" * 70_000
    assert list(frames(server_frame(TEXT, payload))) == [(TEXT, payload, 70_010)]


@pytest.mark.parametrize("head", [b"\x01\x00", b"\xc1\x00", b"\x81\x80", b"\x83\x00"])
def test_fragmented_compressed_masked_and_unknown_frames_are_refused(head: bytes) -> None:
    with pytest.raises(ValueError, match="byte 0 begins no frame"):
        list(frames(head + b"...."))


def test_each_dialect_subscribes_in_its_own_way() -> None:
    symbols = ["SIM-00", "SIM-01", "SIM-02"]

    def said(data: bytes) -> bytes:
        return mask(data[2:6], data[6:]) if data[1] & 0x7F < 126 else mask(data[4:8], data[8:])

    command = json.loads(said(WebSocketDialect("/").subscribe([0, 2], symbols, 10)))
    assert command == {
        "action": "subscribe",
        "quotes": ["SIM-00", "SIM-02"],
        "trades": ["SIM-00", "SIM-02"],
        "max_hz": 10,
    }
    event = said(SocketIoDialect("/").subscribe(None, symbols, None))
    assert event.startswith(b"42")
    assert json.loads(event[2:]) == ["subscribe", {"action": "subscribe", "quotes": ["*"], "trades": ["*"]}]
    assert PlainDialect("/").subscribe([0, 2], symbols, 10) == b"0 2\n"
    assert PlainDialect("/").subscribe(None, symbols, None) == b"*\n"


def test_messages_of_both_dialects_are_the_same() -> None:
    updates = [{"T": "q", "S": "SIM-00", "seq": 1}]
    assert WebSocketDialect("/").messages(json.dumps(updates).encode()) == updates
    assert SocketIoDialect("/").messages(b"42" + json.dumps(["m", updates]).encode()) == updates
    assert SocketIoDialect("/").messages(b"2") == []
    with pytest.raises(ValueError, match="not an array"):
        WebSocketDialect("/").messages(b"{}")
