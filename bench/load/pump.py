"""The load client's inner loop: read sockets, count updates, take samples of the latency.

Nothing is parsed on this path. A read costs one system call, one ``bytearray.count``, and now and then one ``find``, so
that the client is less busy than any server it measures; :mod:`bench.load.verify` holds the count against a full parse.
"""

from __future__ import annotations

import random
import select
import socket
import time
from array import array
from collections.abc import Callable
from datetime import datetime

#: What every quote and every trade has once, and nothing else has: its time.
UPDATE = b'"t":"'
_KEEP = len(UPDATE) - 1
_READ = 1 << 18
#: len of '2026-11-22T19:33:00'
_SECOND = 19


class Clock:
    """Reads RFC 3339 times in UTC, at any number of digits; remembers the last few seconds it saw."""

    def __init__(self) -> None:
        self._seconds: dict[bytes, int] = {}

    def ns(self, text: bytes) -> int:
        """ns since the Unix epoch of ``2026-11-22T19:33:00.123456789Z``.

        Raises:
            ValueError: it has another form.
        """
        second, rest = text[:_SECOND], text[_SECOND:]
        seconds = self._seconds.get(second)
        if seconds is None:
            if len(self._seconds) > 1000:
                self._seconds.clear()
            seconds = self._seconds[second] = int(datetime.fromisoformat(second.decode() + "+00:00").timestamp())
        if rest == b"Z":
            return seconds * 1_000_000_000
        if rest[:1] != b"." or rest[-1:] != b"Z" or not 3 <= len(rest) <= 11:
            raise ValueError(f"not a time in UTC: {text!r}")
        return seconds * 1_000_000_000 + int(rest[1:-1].ljust(9, b"0"))


class Pump:
    """Reads every registered socket whenever it has something.

    ``sample_every``: one read in so many is asked for its latency: an update at a random place in it stands for all
    updates of that read. (The last one of a read would always be the freshest of its frame.)
    """

    def __init__(self, sample_every: int = 1) -> None:
        self.updates = 0
        self.reads = 0
        self.bytes = 0
        #: connections that the server ended.
        self.closed = 0
        #: ns, and how many updates each sample stands for.
        self.latency = array("q")
        self.weight = array("q")
        self.sampling = False
        #: fd -> everything read from it, for those whose bytes are to be kept.
        self.kept: dict[int, bytearray] = {}
        self._every = sample_every
        self._clock = Clock()
        self._epoll = select.epoll()
        self._buffer = bytearray(_KEEP + _READ)
        self._into = memoryview(self._buffer)[_KEEP:]
        self._recv: dict[int, Callable[[memoryview], int]] = {}
        self._tails: dict[int, bytes] = {}

    def add(self, sock: socket.socket) -> None:
        """Read this socket from now on. It must not block."""
        self._recv[sock.fileno()] = sock.recv_into
        self._epoll.register(sock, select.EPOLLIN)

    def remove(self, sock: socket.socket) -> None:
        """Read it no more; before it is closed."""
        self._drop(sock.fileno())

    def close(self) -> None:
        """Let go of the epoll instance."""
        self._epoll.close()

    def run(self, until_ns: int) -> None:
        """Read until ``time.monotonic_ns()`` is there. The hot loop: everything it touches is a local name."""
        poll, recvs, tails, kept = self._epoll.poll, self._recv, self._tails, self.kept
        buffer, into, count, find = self._buffer, self._into, self._buffer.count, self._buffer.find
        monotonic_ns, time_ns, rand = time.monotonic_ns, time.time_ns, random.random
        every, sampling, clock_ns = self._every, self.sampling, self._clock.ns
        skip = 1
        while (left := until_ns - monotonic_ns()) > 0:
            for fd, _ in poll(left / 1e9):
                try:
                    n = recvs[fd](into)
                except BlockingIOError:
                    continue
                except ConnectionError:
                    n = 0
                if not n:
                    self.closed += 1
                    self._drop(fd)
                    continue
                begin, end = _KEEP, _KEEP + n
                if tails:
                    tail = tails.pop(fd, b"")
                    begin -= len(tail)
                    buffer[begin:_KEEP] = tail
                updates = count(UPDATE, begin, end)
                # A read that ends with ']' ends no update in its middle.
                if buffer[end - 1] != 0x5D:
                    tails[fd] = bytes(buffer[max(begin, end - _KEEP) : end])
                if kept and fd in kept:
                    kept[fd] += buffer[_KEEP:end]
                self.reads += 1
                self.bytes += n
                self.updates += updates
                if not (sampling and updates):
                    continue
                skip -= 1
                if skip:
                    continue
                skip = every
                now = time_ns()
                at = find(UPDATE, begin + int(rand() * n), end)
                if at < 0:
                    at = find(UPDATE, begin, end)
                stop = find(b'"', at + 5, end)
                if at >= 0 and stop >= 0:
                    self.latency.append(now - clock_ns(bytes(buffer[at + 5 : stop])))
                    self.weight.append(updates)

    def _drop(self, fd: int) -> None:
        if self._recv.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            self._tails.pop(fd, None)
