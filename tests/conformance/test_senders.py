"""Every sender puts the same bytes on real sockets, and says the same of those that are full or gone."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from marketfeed.stream.link import Sender
from marketfeed.transports.senders import PlainSender, UringSender, best_sender

SENDERS: dict[str, type[Sender]] = {"plain": PlainSender, "io_uring": UringSender}
every_sender = pytest.mark.parametrize("kind", list(SENDERS))


@contextmanager
def wires(n: int) -> Iterator[tuple[np.ndarray, list[socket.socket], list[socket.socket]]]:
    """So many connections: the descriptors that are sent to, their sockets, and the other ends."""
    near, far = [], []
    try:
        with socket.create_server(("127.0.0.1", 0), backlog=n) as listening:
            for _ in range(n):
                far.append(socket.create_connection(listening.getsockname()))
                near.append(listening.accept()[0])
                near[-1].setblocking(False)
        yield np.array([sock.fileno() for sock in near]), near, far
    finally:
        for sock in (*near, *far):
            sock.close()


def read(sock: socket.socket, n: int) -> bytes:
    """Exactly so many bytes, and no more is there."""
    sock.settimeout(10)
    data = b""
    while len(data) < n:
        data += sock.recv(n - len(data))
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    return data


@every_sender
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_each_wire_gets_its_part_of_the_buffer(kind, data):
    sender = SENDERS[kind]()
    with wires(data.draw(st.integers(1, 9))) as (fds, _, far):
        for _ in range(data.draw(st.integers(1, 4))):
            buffer = data.draw(st.binary(min_size=1, max_size=4000))
            begins = np.array([data.draw(st.integers(0, len(buffer) - 1)) for _ in fds])
            lengths = np.array([data.draw(st.integers(1, len(buffer) - begin)) for begin in begins.tolist()])
            assert sender(buffer, begins, lengths, fds) is None
            for sock, begin, n in zip(far, begins.tolist(), lengths.tolist(), strict=True):
                assert read(sock, n) == buffer[begin : begin + n]


@every_sender
def test_one_frame_for_all_is_named_by_two_numbers(kind):
    with wires(3) as (fds, _, far):
        assert SENDERS[kind]()(b"-frame-", 1, 5, fds) is None
        assert [read(sock, 5) for sock in far] == [b"frame"] * 3


@every_sender
def test_a_full_wire_takes_a_part_or_nothing_and_the_others_all(kind):
    sender = SENDERS[kind]()
    frame = bytes(range(256)) * 1024
    with wires(3) as (fds, near, far):
        # The middle one is sent to until nothing more fits.
        taken = 0
        while (sent := sender(frame, 0, len(frame), fds[1:2])) is None or sent[0]:
            taken += len(frame) if sent is None else int(sent[0])
        small = b"abc"
        sent = sender(small, 0, 3, fds)
        assert sent is not None
        assert sent.tolist() == [3, 0, 3]
        assert read(far[0], 3) == read(far[2], 3) == small
        assert taken > 0
        near[1].close()
        got = b""
        far[1].settimeout(10)
        while more := far[1].recv(1 << 20):
            got += more
        # What is said to have been taken came whole, each part from the begin of a frame.
        assert len(got) == taken
        assert got[: len(frame)] == frame


@every_sender
def test_a_broken_wire_is_told_and_the_others_get_theirs(kind):
    sender = SENDERS[kind]()
    with wires(3) as (fds, near, far):
        far[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far[1].close()  # with a reset
        near[1].settimeout(10)
        with pytest.raises(ConnectionResetError):
            near[1].recv(1)
        sent = sender(b"xy", 0, 2, fds)
        assert sent is not None
        assert sent[1] < 0
        assert sent[[0, 2]].tolist() == [2, 2]
        assert read(far[0], 2) == read(far[2], 2) == b"xy"


@every_sender
def test_more_wires_than_fit_at_once_and_again_and_again(kind):
    n = 1100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * n)), hard))
    sender = SENDERS[kind]()
    with wires(n) as (fds, _, far):
        for turn in range(3):
            buffer = b"".join(b"%06d" % (k + turn) for k in range(n))
            begins = 6 * np.arange(n)
            assert sender(buffer, begins, np.full(n, 6), fds) is None
            assert [read(sock, 6) for sock in far] == [b"%06d" % (k + turn) for k in range(n)]
        far[7].close()
        far[7] = socket.socket()
        sent = sender(b"x", 0, 1, fds)
        while sent is None:  # the peer's reset may take a moment
            sent = sender(b"x", 0, 1, fds)
        assert sent[7] < 0
        assert np.delete(sent, 7).tolist() == [1] * (n - 1)


def test_when_io_uring_fails_all_are_cut_and_it_goes_on_without_it():
    sender = UringSender()
    with wires(2) as (fds, _, far):
        assert sender(b"abc", 0, 3, fds) is None
        sender.close()  # as if the kernel had taken it away
        assert sender(b"def", 0, 3, fds).tolist() == [-1, -1]
        assert sender(b"ghi", 0, 3, fds) is None
        assert [read(sock, 6) for sock in far] == [b"abcghi"] * 2


def test_the_best_sender_is_one_of_them():
    assert type(best_sender()) in SENDERS.values()
