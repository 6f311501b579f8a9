"""``python -m bench.attach``: how soon another process sees what was published, and how fast it reads the ring."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.load.measure import two_cpus
from bench.load.process import pinned
from bench.load.programs import ROOT
from bench.load.report import machine
from bench.load.shared import PIPE
from marketfeed.model.shared import DIRECTORY

#: Way of waiting -> the ``nap`` of :meth:`Attached.follow`, s.
WAYS = {
    "never sleep (nap=0)": "0",
    "nap=0.00005": "0.00005",
    "nap=0.001, the default": "0.001",
    "nap=0.01": "0.01",
    "a byte through a pipe": PIPE,
}
_BOUND_S = 60.0


class _Process:
    """One of bench.load.shared, on a CPU; ready when it is made."""

    def __init__(self, cpu: int, *arguments: str, keep: Sequence[int] = ()) -> None:
        with pinned(cpu):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.load.shared", *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=keep,
            )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self.kill()
            raise click.ClickException(f"bench.load.shared {' '.join(arguments)} did not start")

    def go(self) -> None:
        """Let a writer begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What it measured; waits until it has."""
        output, _ = self._process.communicate(timeout=_BOUND_S)
        found: dict[str, Any] = json.loads(output)
        return found

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def latency(directory: str, way: str, rate: float, seconds: float) -> dict[str, Any]:
    """One writer and one follower, a tick at a time, so many a second."""
    writer_cpu, reader_cpu = two_cpus()
    out, into = os.pipe()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(os.close, out)
        with os.fdopen(into, "wb"):
            told = str(into) if way == PIPE else "-1"
            writer = _Process(
                writer_cpu, "write", directory, str(1 << 16), str(rate), str(seconds), "1", told, keep=[into]
            )
            cleanup.callback(writer.kill)
        reader = _Process(reader_cpu, "follow", directory, way, str(out), keep=[out])
        cleanup.callback(reader.kill)
        writer.go()
        return writer.result() | reader.result()


def speeds(directory: str, ticks: int, rate: float, seconds: float) -> dict[str, float]:
    """Rows a second of each scan of a full ring, while its writer publishes so many ticks a second."""
    writer_cpu, reader_cpu = two_cpus()
    with contextlib.ExitStack() as cleanup:
        # Long enough for the reader to begin and to end; it is ended when the reader has.
        rows = max(1, int(rate / 1_000))
        batches = (str(rate / rows), str(seconds + _BOUND_S), str(rows), "-1")
        writer = _Process(writer_cpu, "write", directory, str(ticks), *batches)
        cleanup.callback(writer.kill)
        writer.go()
        reader = _Process(reader_cpu, "scan", directory, str(seconds))
        cleanup.callback(reader.kill)
        return reader.result()


def show(console: Console, result: dict[str, Any]) -> None:
    """The tables."""
    for rate, ways in result["latency"].items():
        headings = ("p50 us", "p99 us", "max us", "CPU", "waited", "publish us")
        table = Table(f"{rate} ticks/s", *headings, box=box.SIMPLE_HEAD)
        for way, found in ways.items():
            numbers = [f"{found[name]:,.0f}" for name in ("p50_us", "p99_us", "max_us")]
            parts = [f"{found[name]:.1%}" for name in ("cpu", "waited")]
            table.add_row(way, *numbers, *parts, f"{found['publish_us']:.1f}")
        console.print(table)
    for rate, scans in result["rows_per_s"].items():
        table = Table(f"writer at {rate} ticks/s", "million rows/s", box=box.SIMPLE_HEAD)
        for name, speed in scans.items():
            table.add_row(name, f"{speed / 1e6:,.1f}")
        console.print(table)
    console.print("waited: ready to run, and without a CPU; above 5 % the machine was not quiet", highlight=False)
    console.print(", ".join(f"{key} {value}" for key, value in machine().items()), highlight=False)


@click.command()
@click.option("--seconds", type=click.FloatRange(0.1), default=5.0, show_default=True, help="of each measurement")
@click.option("--rate", "rates", type=click.FloatRange(1), multiple=True, default=(10.0, 1_000.0), show_default=True)
@click.option("--ring-ticks", type=int, default=1 << 20, show_default=True, help="that are scanned; a power of two")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="write all numbers there")
def main(seconds: float, rates: tuple[float, ...], ring_ticks: int, path: Path | None) -> None:
    """Publish-to-seen latency in another process, by way of waiting; and rows/s scanned, of a full ring."""
    with TemporaryDirectory(dir=DIRECTORY) as directory:
        result = {
            "latency": {
                f"{rate:,.0f}": {name: latency(directory, way, rate, seconds) for name, way in WAYS.items()}
                for rate in rates
            },
            "rows_per_s": {f"{rate:,.0f}": speeds(directory, ring_ticks, rate, seconds) for rate in (1, 100_000)},
            "machine": machine(),
        }
    show(Console(), result)
    if path is not None:
        path.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
