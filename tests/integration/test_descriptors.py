"""A connection that breaks frees its descriptor, and the next one gets it: nothing meant for the first may reach it."""

import json
import os
import socket
import struct
from base64 import b64encode
from urllib.parse import urlsplit

from tests.integration.processes import BOUND, server


def connect(address: str) -> tuple[socket.socket, bytes]:
    """A WebSocket connection, and the first frame's payload on it."""
    parts = urlsplit(address)
    sock = socket.create_connection((parts.hostname, parts.port), timeout=BOUND)
    key = b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /stream HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    answer = sock.makefile("rb")
    assert answer.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
    while answer.readline() != b"\r\n":
        pass
    first, length = answer.read(2)
    assert (first, length < 126) == (0x81, True)
    return sock, answer.read(length)


def subscribe(sock: socket.socket) -> None:
    payload = b'{"action":"subscribe","quotes":["*"],"trades":["*"]}'
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    sock.sendall(bytes([0x81, 0x80 | len(payload)]) + mask + masked)


def test_whoever_gets_a_broken_ones_descriptor_is_greeted_first():
    with server("--feed", "sim?rate=20000", "--coalesce-ms", "0.1") as address:
        for _ in range(200):
            sock, greeting = connect(address)
            message = json.loads(greeting)[0]
            assert (message["T"], message["msg"]) == ("success", "connected")
            subscribe(sock)
            sock.recv(4096)
            # Ticks are under way to it when it breaks, with a reset.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
