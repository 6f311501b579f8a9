"""Every program under test: how it is started, what it speaks, and what it needs to be there."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.load.ticks import Market
from bench.load.workloads import Workload

BENCH = Path(__file__).resolve().parents[1]
ROOT = BENCH.parent

OURS = "marketfeed"
_SOCKET_IO = "/socket.io/?EIO=4&transport=websocket"
FLOOR = "floor"
#: A peer that puts all that is due for a subscriber into one message, as ours does.
BATCHED = "/batched"


@dataclass(frozen=True)
class Job:
    """What a program is told when it is started."""

    workload: Workload
    market: Market
    #: the file that ``market`` was written to.
    ticks: Path
    port: int
    #: where a program may write.
    directory: Path


@dataclass(frozen=True)
class Program:
    """One line of the result."""

    name: str
    #: job -> command line.
    command: Callable[[Job], list[str]]
    #: what is missing and how to get it; None = it can run.
    missing: Callable[[], str | None]
    #: of bench.load.wire.DIALECTS
    dialect: str = "websocket"
    path: str = "/stream"
    environment: Mapping[str, str] = field(default_factory=dict)


def _settings(job: Job, batch: bool) -> str:
    """See bench/peers/common.py."""
    return json.dumps(
        {
            "port": job.port,
            "ticks": str(job.ticks),
            "period_ns": job.market.period_ns,
            "symbols": job.market.symbols,
            "interval_ms": job.workload.interval_ms,
            "conflate": job.workload.max_hz is not None,
            "batch": batch,
        }
    )


def _marketfeed(job: Job) -> list[str]:
    return [sys.executable, "-m", "marketfeed", "serve", "--feed", job.workload.feed, "--port", str(job.port)]


def _both(name: str, prefix: list[str], missing: Callable[[], str | None], **more: Any) -> Iterator[Program]:
    """A peer as its documentation has it, and the same with the batching of ours written around it."""
    for batch in (False, True):

        def command(job: Job, batch: bool = batch) -> list[str]:
            return [*prefix, _settings(job, batch)]

        yield Program(name + BATCHED * batch, command, missing, **more)


def _node(name: str, file: str, package: str, **more: Any) -> Iterator[Program]:
    def missing() -> str | None:
        if not shutil.which("node"):
            return "needs Node.js"
        # Loaded, not only found: a compiled package may have no build for this Node.js.
        probe = subprocess.run(
            ["node", "-e", f"require({package!r})"], cwd=BENCH, capture_output=True, text=True, timeout=30
        )
        return None if probe.returncode == 0 else f"npm package {package} does not load: make bench-peers installs it"

    return _both(name, ["node", str(BENCH / "peers" / file)], missing, environment={"NODE_ENV": "production"}, **more)


def _has(package: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        found = importlib.util.find_spec(package)
        return None if found else f"Python package {package} is not installed: pip install -e '.[bench]'"

    return missing


def _python(name: str, module: str, package: str, **more: Any) -> Iterator[Program]:
    return _both(name, [sys.executable, "-m", f"bench.peers.{module}"], _has(package), **more)


def _floor(job: Job) -> list[str]:
    binary = job.directory / "floor"
    if not binary.exists():
        subprocess.run(["cc", "-O2", "-o", str(binary), str(BENCH / "peers" / "floor.c")], check=True, timeout=60)
    conflate = job.workload.max_hz is not None
    interval = int(job.workload.interval_ms * 1e6)
    numbers = (job.port, job.ticks, job.market.period_ns, len(job.market.symbols), interval, int(conflate))
    return [str(binary), *map(str, numbers), typical(job.market)]


def typical(market: Market) -> str:
    """One update of the mean length of this market's."""
    symbols = market.symbols
    tail = '"t":"2026-01-01T00:00:00.123456789Z","seq":1234567}'
    texts = [
        f'{{"T":"q","S":"{symbols[int(symbol)]}","bp":{a},"bs":{b},"ap":{c},"as":{d},{tail}'
        if kind == 1
        else f'{{"T":"t","S":"{symbols[int(symbol)]}","p":{a},"s":{b},{tail}'
        for _, symbol, kind, a, b, c, d in market.rows[:10_000].tolist()
    ]
    mean = sum(map(len, texts)) / len(texts)
    quote = next(text for text in texts if '"T":"q"' in text)
    # The longest key takes up the difference; a text that is too short already stays as it is.
    return min((quote, *texts), key=lambda text: abs(len(text) - mean))


PROGRAMS = {
    program.name: program
    for program in (
        # The path of one feed: there messages do not name it, and so are what the peers send, byte for byte.
        Program(OURS, _marketfeed, lambda: None, path="/v2/sim"),
        Program(f"{OURS} over socket.io", _marketfeed, _has("socketio"), dialect="socket.io", path=_SOCKET_IO),
        Program(FLOOR, _floor, lambda: None if shutil.which("cc") else "needs a C compiler (cc)", dialect="plain"),
        *_node("uwebsockets", "uwebsockets.mjs", "uwebsockets"),
        *_node("ws", "ws.mjs", "ws"),
        *_node(
            *("socket.io", "socketio.mjs", "socket.io"),
            dialect="socket.io",
            path=_SOCKET_IO,
        ),
        *_python("python-socketio", "python_socketio", "socketio", dialect="socket.io", path=_SOCKET_IO),
        *_python("picows", "picows_peer", "picows"),
        *_python("websockets", "websockets_broadcast", "websockets"),
        *_python("tornado", "tornado_plain", "tornado"),
    )
}
