"""The load client's inner loop, over real sockets."""

import random
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.pump import Clock, Pump


def rfc3339(ns: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ns // 1_000_000_000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + f".{ns % 1_000_000_000:09d}Z"


def message(updates: int, created_ns: int = 0) -> bytes:
    one = f'{{"T":"q","S":"A","bp":1.0,"bs":1.0,"ap":1.0,"as":1.0,"t":"{rfc3339(created_ns)}","seq":1}}'
    body = ("[" + ",".join([one] * updates) + "]").encode()
    return b"\x81\x7e" + len(body).to_bytes(2, "big") + body


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def run(pump: Pump, seconds: float = 0.02) -> None:
    pump.run(time.monotonic_ns() + int(seconds * 1e9))


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_the_clock_reads_every_nanosecond(ns: int) -> None:
    assert Clock().ns(rfc3339(ns).encode()) == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (b"1970-01-01T00:00:01Z", 1_000_000_000),
        (b"1970-01-01T00:00:01.5Z", 1_500_000_000),
        (b"1970-01-01T00:00:01.000001Z", 1_000_001_000),
    ],
)
def test_the_clock_reads_fewer_digits(text: bytes, ns: int) -> None:
    assert Clock().ns(text) == ns


@pytest.mark.parametrize(
    "text", [b"1970-01-01T00:00:01", b"1970-01-01T00:00:01+01:00", b"now", b"1970-01-01T00:00:01.Z"]
)
def test_the_clock_refuses_what_is_no_time_in_utc(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Clock().ns(text)


@pytest.mark.parametrize("seed", range(5))
def test_updates_are_counted_once_wherever_the_stream_is_cut(
    pair: tuple[socket.socket, socket.socket], seed: int
) -> None:
    ours, theirs = pair
    choose = random.Random(seed)
    data = b"".join(message(choose.randint(1, 4)) for _ in range(40))
    expected = data.count(b'"t":"')
    cuts = sorted({0, len(data), *(choose.randrange(len(data)) for _ in range(150))})
    with closing(Pump()) as pump:
        pump.add(ours)
        for begin, end in pairwise(cuts):
            theirs.sendall(data[begin:end])
            read = pump.bytes
            while pump.bytes < read + end - begin:
                run(pump, 0.001)
        assert pump.updates == expected
        assert pump.bytes == len(data)
        assert pump.reads >= len(cuts) - 1


def test_every_read_is_a_sample_that_stands_for_its_updates(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    late_ns = 50_000_000
    with closing(Pump()) as pump:
        pump.add(ours)
        pump.sampling = True
        for updates in (1, 7, 3):
            theirs.sendall(message(updates, time.time_ns() - late_ns))
            run(pump)
        assert list(pump.weight) == [1, 7, 3]
        assert all(late_ns <= ns < late_ns + 1_000_000_000 for ns in pump.latency)


def test_a_sample_is_any_update_of_its_read_and_not_always_the_last(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    now = time.time_ns()
    old, new = now - 3_000_000_000_000, now
    body = message(1, old)[4:-1] + b"," + message(1, new)[5:]
    seen = set()
    with closing(Pump()) as pump:
        pump.add(ours)
        pump.sampling = True
        for _ in range(200):
            theirs.sendall(b"\x81\x7e" + len(body).to_bytes(2, "big") + body)
            while len(pump.latency) == 0:
                run(pump, 0.001)
            seen.add(pump.latency.pop() > 1_000_000_000_000)
    assert seen == {True, False}


def test_a_connection_that_the_server_ends_is_counted_and_left(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    with closing(Pump()) as pump:
        pump.add(ours)
        theirs.close()
        run(pump)
        run(pump)
        assert pump.closed == 1


def test_what_is_to_be_kept_is_kept_byte_for_byte(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    data = message(3) + message(2)
    with closing(Pump()) as pump:
        pump.add(ours)
        kept = pump.kept[ours.fileno()] = bytearray()
        for part in (data[:100], data[100:]):
            theirs.sendall(part)
            run(pump)
        assert kept == data
        assert pump.updates == 5
