"""The load client, a process of its own: ``python -m bench.load.client``, its :class:`Order` as JSON on standard input.

It connects, verifies, warms up, and measures one window; it reads the server's CPU time itself, at the very moments at
which the window begins and ends. One line of JSON on standard output is the result, or ``{"error": ...}``.
"""

from __future__ import annotations

import array
import fcntl
import gc
import json
import os
import select
import socket
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]  # it has no types

from bench.load.process import cpu_ns, memory_bytes, raise_file_limit, waited_ns
from bench.load.pump import Pump
from bench.load.verify import Problem, check
from bench.load.wire import DIALECTS, WebSocketDialect, accepted

_CONNECT_S = 10.0
_SUBSCRIBED_S = 60.0
#: No idle timeout that a server may have is shorter than a few of these.
_PONG_S = 15
_VERIFIED = 3
#: How long idle connections settle before memory is read.
_SETTLE_S = 2.0
_SECOND = 1_000_000_000


class Failed(Exception):
    """The server did not do what was asked; one line says what."""


@dataclass(frozen=True)
class Order:
    """What the load client is to do."""

    port: int
    dialect: str
    path: str
    server_pid: int
    symbols: list[str]
    #: one for each connection: indices of symbols, None = all, empty = it only connects.
    subscriptions: list[list[int] | None]
    max_hz: float | None
    verify_s: float
    warmup_s: float
    #: 0 = verify only.
    seconds: float
    sample_every: int


class Client:
    """All connections to one server."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.dialect: WebSocketDialect = DIALECTS[order.dialect](order.path)
        self.pump = Pump(order.sample_every)
        self.sockets: list[socket.socket] = []

    def connect(self, n: int) -> None:
        """Open so many connections, one after the other."""
        for _ in range(n):
            sock = socket.create_connection(("127.0.0.1", self.order.port), timeout=_CONNECT_S)
            self.sockets.append(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request, accept = self.dialect.opening()
            if request:
                sock.sendall(request)
                head = _until(sock, b"\r\n\r\n")
                if not accepted(head, accept):
                    raise Failed(f"the server refused a connection: {head[:200]!r}")
            if self.dialect.greeting:
                sock.sendall(self.dialect.greeting)
                _until(sock, self.dialect.greeted)
            sock.setblocking(False)
            self.pump.add(sock)

    def subscribe(self, subscriptions: Sequence[list[int] | None]) -> None:
        """Send each connection's subscription, and read until every one is answered."""
        order = self.order
        for sock, wanted in zip(self.sockets, subscriptions, strict=True):
            _send(sock, self.dialect.subscribe(wanted, order.symbols, order.max_hz))
        waiting = {sock.fileno(): bytearray() for sock in self.sockets}
        self.pump.kept = waiting
        give_up = time.monotonic() + _SUBSCRIBED_S
        while waiting:
            self.run(0.02)
            for fd in [fd for fd, data in waiting.items() if b'"subscription"' in data]:
                del waiting[fd]
            for data in waiting.values():
                del data[:-64]
            if self.pump.closed:
                raise Failed(f"the server closed {self.pump.closed} connections while they subscribed")
            if time.monotonic() > give_up:
                raise Failed(
                    f"{len(waiting)} of {len(self.sockets)} subscriptions were not answered in {_SUBSCRIBED_S:g} s"
                )
        self.pump.kept = {}

    def run(self, seconds: float) -> None:
        """Read for so long."""
        self.pump.run(time.monotonic_ns() + int(seconds * _SECOND))

    def close(self) -> None:
        """Close all connections."""
        for sock in self.sockets:
            self.pump.remove(sock)
            sock.close()
        self.sockets.clear()
        self.pump.close()

    def pong(self) -> None:
        """Show that every connection is alive."""
        for sock in self.sockets:
            _send(sock, self.dialect.pong())

    def unread(self) -> int:
        """How many bytes lie unread in the kernel."""
        total, size = 0, array.array("i", [0])
        for sock in self.sockets:
            fcntl.ioctl(sock, termios.FIONREAD, size)
            total += size[0]
        return total


def _send(sock: socket.socket, data: bytes) -> None:
    """Send a little, to a socket that does not block."""
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            if not select.select([], [sock], [], _CONNECT_S)[1]:
                raise Failed("the server does not read what it is sent") from None


def _until(sock: socket.socket, mark: bytes) -> bytes:
    """Read up to a mark, byte by byte: what comes after it is not to be touched."""
    data = bytearray()
    while not data.endswith(mark):
        byte = sock.recv(1)
        if not byte or len(data) > 8192:
            raise Failed(f"no answer to a handshake; the server said {bytes(data[:200])!r}")
        data += byte
    return bytes(data[: -len(mark)])


def verify(order: Order) -> int:
    """Hold the cheap count against a full parse, on a few connections of their own; returns the updates parsed.

    Raises:
        Problem: the two differ, or see :func:`bench.load.verify.check`.
    """
    subscriptions = [wanted for wanted in order.subscriptions if wanted != []][:_VERIFIED]
    if not subscriptions:
        return 0
    with closing(Client(order)) as client:
        client.connect(len(subscriptions))
        # From the first byte on, so that frames are whole.
        kept = {sock.fileno(): bytearray() for sock in client.sockets}
        client.pump.kept = kept
        for sock, wanted in zip(client.sockets, subscriptions, strict=True):
            _send(sock, client.dialect.subscribe(wanted, order.symbols, order.max_hz))
        client.run(order.verify_s)
        parsed = cut = 0
        for data, wanted in zip(kept.values(), subscriptions, strict=True):
            if b'"subscription"' not in data:
                raise Failed(f"no answer to a subscription; the server said {bytes(data[:200])!r}")
            symbols = order.symbols if wanted is None else [order.symbols[i] for i in wanted]
            whole, more = check(data, None if client.dialect.prebuilt else symbols, client.dialect.messages)
            parsed += whole
            cut += more
        if client.pump.closed:
            raise Failed("the server closed a connection")
        if client.pump.updates != parsed + cut:
            raise Problem(f"counted {client.pump.updates} updates, parsed {parsed}, and {cut} in frames not yet whole")
        if not parsed:
            raise Problem(f"no update came in {order.verify_s:g} s")
        return parsed


def idle(order: Order) -> dict[str, Any]:
    """Memory of connections that say nothing, after a few that made the server load what it needs for any."""
    with closing(Client(order)) as first:
        first.connect(_VERIFIED)
        first.run(_SETTLE_S)
    with closing(Client(order)) as client:
        before = memory_bytes(order.server_pid)
        client.connect(len(order.subscriptions))
        client.run(_SETTLE_S)
        after = memory_bytes(order.server_pid)
        if client.pump.closed:
            raise Failed(f"the server closed {client.pump.closed} idle connections")
    return {"memory": after, "connection_bytes": (after - before) / len(order.subscriptions)}


def measure(order: Order) -> dict[str, Any]:
    """Connect, subscribe, warm up, and measure one window."""
    with closing(Client(order)) as client:
        client.connect(len(order.subscriptions))
        client.subscribe(order.subscriptions)
        client.run(order.warmup_s)
        client.pong()
        client.run(0.25)
        gc.collect()
        gc.freeze()
        pump = client.pump
        pump.sampling = True
        updates, reads, size = pump.updates, pump.reads, pump.bytes
        pids = (order.server_pid, os.getpid())
        waited = [waited_ns(pid) for pid in pids]
        server, own, wall = cpu_ns(order.server_pid), time.process_time_ns(), time.monotonic_ns()
        end = wall + int(order.seconds * _SECOND)
        while (now := time.monotonic_ns()) < end:
            pump.run(min(end, now + _PONG_S * _SECOND))
            if end - time.monotonic_ns() > _SECOND:
                client.pong()
        server, own, wall = cpu_ns(order.server_pid) - server, time.process_time_ns() - own, time.monotonic_ns() - wall
        waited = [waited_ns(pid) - before for pid, before in zip(pids, waited, strict=True)]
        updates, reads, size = pump.updates - updates, pump.reads - reads, pump.bytes - size
        unread = client.unread()
        if pump.closed:
            raise Failed(f"the server closed {pump.closed} connections")
        if not updates:
            raise Failed(f"no update came in {order.seconds:g} s")
        seconds = wall / 1e9
        return {
            "seconds": seconds,
            "delivered": updates / seconds,
            "reads": reads / seconds,
            "cpu_us": server / 1000 / updates,
            "server_cpu": server / wall,
            "client_cpu": own / wall,
            # The worse of the two, for a CPU that ran something else.
            "waited": max(waited) / wall,
            "bytes": size / updates,
            "memory": memory_bytes(order.server_pid),
            # How long ago the client should have read what it has not yet read.
            "behind_ms": unread / (size / seconds) * 1000,
            "latency_ms": None if client.dialect.prebuilt else latency(pump.latency, pump.weight),
        }


def latency(ns: Sequence[int], weight: Sequence[int]) -> dict[str, float]:
    """Percentiles in ms of samples that stand for so many updates each, shape (n,) both."""
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    us, where = np.unique(np.maximum(np.asarray(ns) // 1000, 1), return_inverse=True)
    for value, count in zip(us.tolist(), np.bincount(where, weights=np.asarray(weight)).tolist(), strict=True):
        histogram.record_value(value, int(count))
    wanted = (50.0, 90.0, 99.0, 99.9)
    found = {f"p{percentile:g}": histogram.get_value_at_percentile(percentile) / 1000 for percentile in wanted}
    return found | {"max": histogram.get_max_value() / 1000, "samples": float(len(ns))}


def main() -> None:
    """Carry out one order."""
    order = Order(**json.load(sys.stdin))
    raise_file_limit()
    try:
        result: dict[str, Any] = {"verified": verify(order)}
        if all(wanted == [] for wanted in order.subscriptions):
            result |= idle(order)
        elif order.seconds:
            result |= measure(order)
    except (Failed, Problem, OSError) as error:
        result = {"error": f"{error}" or type(error).__name__}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
