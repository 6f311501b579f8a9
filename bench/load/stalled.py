"""The four phases of :mod:`bench.stall`. What each promises is a line of text and whether it was held.

::

    1. healthy clients alone           latency, memory
    2. and two that stop reading       the same again
    3. these two read again            gaps, seams, the present
    4. on another server: the market   every tick, gap and last value, held against the recording
       ends while two read nothing
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench.load.client import Client, Failed, Order, latency
from bench.load.process import cpu_ns, free_port, server, waited_ns
from bench.load.programs import OURS, PROGRAMS, ROOT
from bench.load.pump import UPDATE, Clock
from bench.load.story import Story, ticks_of
from bench.load.ticks import Market
from bench.load.wire import TEXT, frame, subscription
from bench.load.workloads import Workload

MAX_GROWTH = 20_000_000
#: Of the throttled client, while the market goes on.
MAX_HZ = 10.0
#: And while it ends: more, so that a recording of some seconds fills all buffers on its way.
MAX_HZ_ENDING = 100.0
_NARROW_BYTES, _WIDE_BYTES = 1 << 14, 1 << 20
_WARMUP_S = 2.0
#: Whose last tick is no older than this reads the present.
_LIVE_S = 0.3
#: No pong is sent meanwhile, so it must be less than a server waits for one.
_CATCH_UP_S = 30.0
#: All go on so long after that.
_AFTER_S = 2.0
_PONG_S = 10.0

Promise = tuple[str, bool]


@contextmanager
def serving(feed: str, ring: int, cpu: int, market: Market, directory: Path) -> Iterator[Order]:
    """A server of this feed, named as the path of ours says; gives what its clients need to know."""
    port, ours = free_port(), PROGRAMS[OURS]
    command = [sys.executable, "-m", "marketfeed", "serve", "--feed", feed, "--port", str(port)]
    # Without bars among them, each sequence number is a tick that the clients asked for.
    command += ["--ring-ticks", str(ring), "--minute-bars", "wanted", "--log-level", "warning"]
    with server(command, port, cpu, ROOT, directory / "server.log", {}) as pid:
        yield Order(port, ours.dialect, ours.path, pid, market.symbols, [], None, 0.0, 0.0, 0.0, sample_every=7)


def phases_1_to_3(order: Order, workload: Workload, seconds: float) -> dict[str, Any]:
    """Both windows, and the promises. The stall is as long as a window."""
    pid, rate, wanted = order.server_pid, workload.rate, list(workload.subscriptions())
    with closing(Client(order)) as healthy, closing(Client(order)) as stalled:
        healthy.connect(len(wanted))
        healthy.subscribe(wanted)
        _run(healthy, _WARMUP_S)
        gc.collect()
        gc.freeze()
        # The ring's first lap ends within it: from then on all of its memory is in use.
        alone = _window(healthy, seconds, pid)
        _forget_peak(pid)

        every, throttled = _subscribed(stalled, {"max_hz": MAX_HZ})
        beside = _window(healthy, seconds, pid)

        kept = healthy.pump.kept = {every.fileno(): bytearray(), throttled.fileno(): bytearray()}
        healthy.pump.add(every)
        healthy.pump.add(throttled)
        healthy.pong()
        took = _catch_up(healthy, kept, _is_live)
        _run(healthy, _AFTER_S)
        peak, closed, status = _memory(pid, "VmHWM"), healthy.pump.closed, _status(order)
    one, two = (Story(data, every=not n) for n, data in enumerate(kept.values()))

    def present(story: Story, live: float | None) -> Promise:
        lag = (status["seq"] - story.seq) / rate
        when = f"not live in {_CATCH_UP_S:g} s" if live is None else f"live after {live:.1f} s"
        text = f"{when}, {lag:.2f} s old later on; {story.problem or 'no seam'} in {story.ticks:,} updates"
        return text, not story.problem and live is not None and lag < _LIVE_S

    told, others = f"told {len(one.gaps)} gap(s), {one.lost / rate:.1f} s", status["delivered"]["gaps"] - len(one.gaps)
    spared, grown = two.widest / rate, peak - alone["rss"]
    promises = {
        "memory": (f"at most {grown / 1e6:.1f} MB more, of {MAX_GROWTH / 1e6:.0f} allowed", grown < MAX_GROWTH),
        "every tick, gap": (told, bool(one.gaps)),
        "every tick, present": present(one, took[0]),
        "throttled, gap": (f"told {len(two.gaps)}, spared {spared:.1f} s at one go", not two.gaps and spared > 1),
        "throttled, present": present(two, took[1]),
        "the others": (f"told {others} gaps, {closed} connections closed", not others and not closed),
    }
    return {"alone": alone, "beside": beside, "grown": grown, "gaps": one.gaps, "promises": promises}


def phase_4(order: Order, market: Market, ring: int) -> dict[str, Promise]:
    """The market ends while two clients read nothing; then they do."""
    ticks = ticks_of(market)
    last = b'"seq":%d}' % len(ticks)
    with closing(Client(order)) as client:
        # The market has begun already: what it knows by then comes as a snapshot.
        every, throttled = _subscribed(client, {"max_hz": MAX_HZ_ENDING, "snapshot": True}, _NARROW_BYTES)
        give_up = time.monotonic() + _CATCH_UP_S
        while (state := _status(order)["feeds"]["sim"]["state"]) != "ended":
            if time.monotonic() > give_up:
                raise Failed(f"the recording has not ended in {_CATCH_UP_S:g} s: it is {state}")
            time.sleep(0.1)
        stories = []
        # Then what a client does that was told a gap.
        for socks in ((every, throttled), (every,)):
            kept = client.pump.kept = {sock.fileno(): bytearray() for sock in socks}
            for sock in socks:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WIDE_BYTES)
            if stories:
                _subscribe(every, snapshot=True)
            if None in _catch_up(client, kept, lambda tail: last in tail):
                raise Failed(f"a stalled client did not get the last tick of all in {_CATCH_UP_S:g} s")
            stories += [
                Story(data, sock is every and not stories, ticks)
                for sock, data in zip(socks, kept.values(), strict=True)
            ]
    one, two, anew = stories
    wrong, stale = f"of {len(anew.state):,} last values wrong", two.wrong()
    return {
        "market ended, every tick": (
            f"{one.begin:,} before it, {one.ticks:,} as recorded, {one.lost:,} in {len(one.gaps)} gap(s) {one.problem}",
            not one.problem and one.begin + one.ticks + one.lost == len(ticks) and bool(one.gaps),
        ),
        "market ended, snapshot after the gap": (
            f"{anew.wrong()} {wrong} {anew.problem}",
            not (anew.wrong() or anew.problem),
        ),
        "market ended, throttled": (
            f"told {len(two.gaps)} gaps, spared {two.widest:,} ticks at one go, {stale} {wrong} {two.problem}",
            not (two.gaps or two.problem or stale) and two.widest > ring,
        ),
    }


def _memory(pid: int, field: str) -> int:
    """VmRSS or VmHWM (its peak since :func:`_forget_peak`), bytes: see proc_pid_status(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise Failed(f"no {field} in the status of process {pid}")


def _forget_peak(pid: int) -> None:
    """See proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _run(client: Client, seconds: float) -> None:
    """Read the healthy clients for so long, and keep them alive."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        client.pong()
        client.run(min(left, _PONG_S))


def _window(client: Client, seconds: float, pid: int) -> dict[str, Any]:
    """Measure the healthy clients for so long."""
    pump, pids = client.pump, (pid, os.getpid())
    del pump.latency[:], pump.weight[:]
    pump.sampling = True
    updates, size, waited = pump.updates, pump.bytes, [waited_ns(each) for each in pids]
    used, own, wall = cpu_ns(pid), time.process_time_ns(), time.monotonic_ns()
    _run(client, seconds)
    used, own, wall = cpu_ns(pid) - used, time.process_time_ns() - own, time.monotonic_ns() - wall
    waited = [waited_ns(each) - before for each, before in zip(pids, waited, strict=True)]
    updates, size, unread = pump.updates - updates, pump.bytes - size, client.unread()
    pump.sampling = False
    if pump.closed or not updates:
        raise Failed(f"the server closed {pump.closed} connections; {updates} updates came")
    return {
        "latency_ms": latency(pump.latency, pump.weight),
        "delivered": updates / wall * 1e9,
        "server_cpu": used / wall,
        "client_cpu": own / wall,
        "waited": max(waited) / wall,
        "behind_ms": unread / (size / wall) / 1e6,
        "rss": _memory(pid, "VmRSS"),
    }


def _catch_up(client: Client, kept: dict[int, bytearray], there: Callable[[bytes], bool]) -> list[float | None]:
    """Read until the end of what each of these read is ``there``, bounded; seconds each, None = never."""
    begin = time.monotonic()
    took: dict[int, float | None] = dict.fromkeys(kept)
    while None in took.values() and time.monotonic() - begin < _CATCH_UP_S:
        client.run(0.05)
        for fd in [fd for fd in kept if took[fd] is None and there(bytes(kept[fd][-4096:]))]:
            took[fd] = time.monotonic() - begin
    return list(took.values())


def _is_live(tail: bytes) -> bool:
    text, end, _ = tail.rpartition(UPDATE)[2].partition(b'"')
    return UPDATE in tail and bool(end) and time.time_ns() - Clock().ns(text) < _LIVE_S * 1e9


def _subscribed(client: Client, options: dict[str, Any], receive_bytes: int | None = None) -> list[socket.socket]:
    """Two connections that asked for all: every tick, and with these options. Nothing is read of the answer."""
    client.connect(2)
    for sock, wished in zip(client.sockets, ({}, options), strict=True):
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        _subscribe(sock, **wished)
    return client.sockets


def _subscribe(sock: socket.socket, **options: Any) -> None:
    sock.sendall(frame(TEXT, json.dumps(subscription(None, [], None) | options).encode()))


def _status(order: Order) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{order.port}/api/status", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
