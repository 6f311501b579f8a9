"""How fast one client takes ticks from a local server, as records and as JSON: `python -m bench.binary`.

A server replays a recording into its ring, as fast as it can, and is then idle. One client process asks for all of it
(`since` 0) over a real socket, and takes it in one of four ways; one after the other, round by round. Rows/s are ticks
by the time from the command to the last tick. CPU is each process's own, over that time, user and system.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import marketfeed
from bench.load.measure import two_cpus
from bench.load.process import StartFailed, cpu_ns, free_port, pinned, server
from bench.load.report import machine
from feeds.sim import SimMarket
from marketfeed.client import Feed, Gap
from marketfeed.client.batch import Batch

ROOT = Path(__file__).resolve().parents[1]
#: Seconds for the server to take in the recording, and for a client to take all of it.
_BOUND_S = 300.0


async def _batches(feed: Feed, ticks: int) -> int:
    """Takes every batch; looks at each column that says whether all has come."""
    seen = 0
    async for batch in feed.batches(max_rows=ticks):
        _check(batch, seen)
        seen += len(batch)
    return seen


def _check(batch: Batch, seen: int) -> None:
    seqs = batch.ticks["seq"]
    if batch.gaps or seqs[0] != seen + 1 or seqs[-1] != seen + len(seqs):
        raise click.ClickException(f"ticks are missing after {seen:,}")


async def _messages(feed: Feed, ticks: int) -> int:
    """Takes messages as cheaply as they may be had."""
    seen = 0
    while seen < ticks:
        messages = await feed.take()
        if any(isinstance(message, Gap) for message in messages):
            raise click.ClickException(f"ticks are missing after {seen:,}")
        seen += len(messages)
    return seen


#: Name -> encoding, and how the client takes what comes.
WAYS: dict[str, tuple[str, Callable[[Feed, int], Awaitable[int]]]] = {
    "binary, batches": ("binary", _batches),
    "json, messages": ("json", _messages),
    "json, batches": ("json", _batches),
    "binary, messages": ("binary", _messages),
}


async def _take(url: str, way: str, ticks: int) -> dict[str, float]:
    encoding, take = WAYS[way]
    async with marketfeed.connect(url, encoding=encoding, reconnect=False) as feed:
        cpu, begun = time.process_time(), time.perf_counter()
        await feed.subscribe(quotes=["*"], trades=["*"], since={"seq": 0})
        seen = await take(feed, ticks)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    if seen != ticks:
        raise click.ClickException(f"{way}: {seen:,} ticks instead of {ticks:,}")
    return {"seconds": seconds, "client_cpu": cpu}


def _record(path: Path, ticks: int, symbols: int) -> None:
    """Write a recording of the simulated market, one ms a tick."""
    import pyarrow
    import pyarrow.parquet

    market = SimMarket(symbols, 1)
    blocks, made = [], 0
    while made < ticks:
        block, symbol = market.block()
        block["instrument"] = symbol
        blocks.append(block.copy())
        made += len(blocks[-1])
    rows = np.concatenate(blocks)[:ticks]
    names = pyarrow.array([f"SIM-{n:04d}" for n in range(symbols)])
    columns: dict[str, Any] = {
        "ts_event": pyarrow.array(
            1_700_000_000_000_000_000 + np.arange(ticks) * 1_000_000, pyarrow.timestamp("ns", tz="UTC")
        ),
        "symbol": pyarrow.DictionaryArray.from_arrays(rows["instrument"].astype(np.int32), names).cast("string"),
    }
    for name in ("bid", "bid_size", "ask", "ask_size", "price", "size"):
        columns[name] = pyarrow.array(rows[name].copy(), from_pandas=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@contextmanager
def _serving(ticks: int, symbols: int, cpu: int) -> Iterator[tuple[str, int]]:
    """A server that holds the ticks and is idle: its WebSocket address and pid."""
    with TemporaryDirectory(prefix="marketfeed-binary-") as name:
        recording = Path(name) / "market.parquet"
        _record(recording, ticks, symbols)
        port = free_port()
        ring = 1 << (ticks - 1).bit_length()
        command = [
            sys.executable,
            "-m",
            "marketfeed",
            "serve",
            "--port",
            str(port),
            "--ring-ticks",
            str(ring),
            "--minute-bars",
            "wanted",
        ]
        command += ["--feed", f"sim=replay:{recording}?speed=max"]
        with server(command, port, cpu, ROOT, Path(name) / "log", {}) as pid:
            give_up = time.monotonic() + _BOUND_S
            while True:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=_BOUND_S) as answer:
                    if json.load(answer)["seq"] == ticks:
                        break
                if time.monotonic() > give_up:
                    raise StartFailed("the recording was not taken in")
                time.sleep(0.1)
            yield f"ws://127.0.0.1:{port}/stream", pid


def _run(url: str, pid: int, way: str, ticks: int, cpu: int) -> dict[str, float]:
    """One client process."""
    before = cpu_ns(pid)
    with pinned(cpu):
        done = subprocess.run(
            [sys.executable, "-m", "bench.binary", "--client", way, "--url", url, "--ticks", str(ticks)],
            cwd=ROOT,
            env=os.environ,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_BOUND_S,
            check=False,
        )
    if done.returncode:
        raise click.ClickException(f"{way}: the client ended with status {done.returncode}")
    result: dict[str, float] = json.loads(done.stdout)
    return {**result, "server_cpu": (cpu_ns(pid) - before) / 1e9}


def _show(console: Console, rounds: list[dict[str, dict[str, float]]], ticks: int) -> None:
    table = Table(
        "one client takes", "ticks/s", "x json", "client CPU us", "x json", "server CPU us", title_justify="left"
    )
    for way in WAYS:
        runs = [each[way] for each in rounds]
        rate = statistics.median(ticks / run["seconds"] for run in runs)
        faster = statistics.median(r["json, messages"]["seconds"] / r[way]["seconds"] for r in rounds)
        cheaper = statistics.median(r["json, messages"]["client_cpu"] / r[way]["client_cpu"] for r in rounds)
        client, serves = (
            statistics.median(run[name] / ticks * 1e6 for run in runs) for name in ("client_cpu", "server_cpu")
        )
        table.add_row(way, f"{rate:,.0f}", f"{faster:.1f}", f"{client:.3f}", f"{cheaper:.1f}", f"{serves:.3f}")
    console.print(table)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--ticks", default=2_000_000, type=click.IntRange(10_000, 1 << 24), show_default=True, help="In the ring."
)
@click.option("--symbols", default=500, type=click.IntRange(1, 10_000), show_default=True, help="In the recording.")
@click.option("--rounds", default=3, type=click.IntRange(1, 100), show_default=True, help="The median counts.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the result here.")
@click.option("--client", type=click.Choice(list(WAYS)), hidden=True)
@click.option("--url", default="", hidden=True)
def main(ticks: int, symbols: int, rounds: int, json_path: Path | None, client: str | None, url: str) -> None:
    """Measure how fast one client takes ticks from a local server. See bench/README.md."""
    if client is not None:
        print(json.dumps(asyncio.run(_take(url, client, ticks))))
        return
    server_cpu, client_cpu = two_cpus()
    try:
        with _serving(ticks, symbols, server_cpu) as (address, pid):
            results = [{way: _run(address, pid, way, ticks, client_cpu) for way in WAYS} for _ in range(rounds)]
    except StartFailed as error:
        raise click.ClickException(str(error)) from None
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"{ticks:,} ticks of {symbols} symbols, {rounds} rounds", highlight=False)
    _show(console, results, ticks)
    console.print(", ".join(f"{key} {value}" for key, value in machine().items()), highlight=False)
    if json_path is not None:
        settings = {"ticks": ticks, "symbols": symbols}
        json_path.write_text(
            json.dumps({"machine": machine(), "settings": settings, "rounds": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
