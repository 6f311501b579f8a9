"""``python -m bench.history``: requests for history a second, and what they cost those who are streamed to."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click
import numpy as np
from websockets.asyncio.client import connect

from bench.load.process import cpu_ns, free_port, server, waited_ns
from marketfeed.client.messages import parse_time

_RING = 1 << 20
_FILL_S = 300.0
_ARROW = "application/vnd.apache.arrow.stream"

#: What is asked, and with which `Accept`.
_REQUESTS = {
    "nothing": ("", ""),
    "latest quote of one symbol": ("/v2/sim/quotes/latest?symbols=SIM-0001", ""),
    "latest quotes of 500 symbols": ("/v2/sim/quotes/latest?symbols=*", ""),
    "the last 100 trades of one symbol": ("/v2/sim/trades?symbols=SIM-0001&limit=100&sort=desc", ""),
    "10,000 quotes": ("/v2/sim/quotes?symbols=*&limit=10000", ""),
    "10,000 quotes, Arrow": ("/v2/sim/quotes?symbols=*&limit=10000", _ARROW),
    "full scan, nothing found": ("/v2/sim/quotes?symbols=*&start=2100-01-01", ""),
    "snapshots of 500 symbols": ("/v2/sim/snapshots?symbols=*", ""),
}


class Result(NamedTuple):
    """Of one kind of request."""

    requests: int
    bytes_each: float
    cpu_ms_each: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    waited: float


async def ask(host: str, port: int, path: str, accept: str, until: float) -> list[int]:
    """Ask again and again on one connection; the length of each answer."""
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 22)
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{f'Accept: {accept}' if accept else 'X-None: 1'}\r\n\r\n".encode()
    lengths = []
    while time.monotonic() < until:
        writer.write(head)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise click.ClickException(f"{path}: {answer[:60]!r}")
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        lengths.append(length)
    writer.close()
    return lengths


async def listen(url: str, late: list[float]) -> None:
    """How late each frame's last tick is when it comes, ms."""
    async with connect(url, max_size=None, compression=None) as ws:
        await ws.send(json.dumps({"action": "subscribe", "quotes": ["SIM-0001"], "trades": ["SIM-0001"]}))
        async for frame in ws:
            now = time.time_ns()
            message = json.loads(frame)[-1]
            if message["T"] in "qt":
                late.append((now - parse_time(message["t"])) / 1e6)


async def measure(pid: int, port: int, path: str, accept: str, clients: int, seconds: float) -> Result:
    """One kind of request, beside one that is streamed to."""
    late: list[float] = []
    streaming = asyncio.create_task(listen(f"ws://127.0.0.1:{port}/v2/sim", late))
    await asyncio.sleep(1.0)
    late.clear()
    cpu, waited, begun = cpu_ns(pid), waited_ns(pid), time.monotonic()
    until = begun + seconds
    lengths: list[int] = []
    if path:
        for each in await asyncio.gather(*(ask("127.0.0.1", port, path, accept, until) for _ in range(clients))):
            lengths += each
    else:
        await asyncio.sleep(seconds)
    took = time.monotonic() - begun
    cpu, waited = cpu_ns(pid) - cpu, waited_ns(pid) - waited
    streaming.cancel()
    await asyncio.gather(streaming, return_exceptions=True)
    p50, p99, worst = np.percentile(late, [50, 99, 100]).tolist()
    n = len(lengths)
    return Result(n, sum(lengths) / max(1, n), cpu / 1e6 / max(1, n), p50, p99, worst, waited / 1e9 / took)


def status(port: int) -> Any:
    """What the server says of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=10) as answer:
        return json.load(answer)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=5.0, type=click.FloatRange(1, 60), show_default=True, help="For each kind.")
@click.option("--clients", default=4, type=click.IntRange(1, 64), show_default=True, help="That ask at a time.")
@click.option("--rate", default=20_000, type=click.IntRange(5_000, 200_000), show_default=True, help="Ticks a second.")
def main(seconds: float, clients: int, rate: int) -> None:
    """A market of 500 symbols, a full ring of 1,048,576 ticks. See bench/README.md."""
    port = free_port()
    command = [
        sys.executable, "-m", "marketfeed", "serve", "--port", str(port), "--ring-ticks", str(_RING),
        "--feed", f"sim?symbols=500&rate={rate}&seed=1",
    ]  # fmt: skip
    with (
        TemporaryDirectory(prefix="marketfeed-history-") as name,
        server(command, port, 0, Path.cwd(), Path(name) / "log", {}) as pid,
    ):
        give_up = time.monotonic() + _FILL_S
        while status(port)["oldest_seq"] == 1:
            if time.monotonic() > give_up:
                raise click.ClickException("the ring does not fill")
            time.sleep(0.5)
        print(
            f"{'':36}{'requests/s':>11}{'bytes':>11}{'CPU ms':>8}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}{'waited':>8}"
        )
        for title, (path, accept) in _REQUESTS.items():
            got = asyncio.run(measure(pid, port, path, accept, clients, seconds))
            cells = f"{got.requests / seconds:11,.1f}{got.bytes_each:11,.0f}{got.cpu_ms_each:8.2f}"
            times = f"{got.p50_ms:8.1f}{got.p99_ms:8.1f}{got.max_ms:8.1f}{got.waited:8.0%}"
            print(f"{title:36}{cells if path else '':30}{times}")
        print(f"longest step: {status(port)['history']['longest_step_ms']:.1f} ms")


if __name__ == "__main__":
    main()
