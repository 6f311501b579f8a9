"""``python -m bench.stall``: what clients that stop reading cost the others and the server, and how they end."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.load.client import Failed
from bench.load.measure import BEHIND_MS, CLIENT_CPU, DELIVERED, WAITED, two_cpus
from bench.load.process import StartFailed, pinned
from bench.load.report import machine
from bench.load.stalled import phase_4, phases_1_to_3, serving
from bench.load.story import record
from bench.load.ticks import play
from bench.load.verify import Problem
from bench.load.workloads import Workload

#: The recording of phase 4 plays at this factor, through a ring that holds a sixth of it.
_SPEED, _SMALL_RING = 0.25, 1 << 14


def show(console: Console, title: str, offered: float, result: dict[str, Any]) -> None:
    """Both windows side by side, and each promise."""
    console.print(title, style="bold", highlight=False)
    table = Table("healthy clients", box=box.SIMPLE_HEAD, pad_edge=False)
    windows = {name: result[name] for name in ("alone", "beside")}
    for heading in ("alone", "beside the stalled"):
        table.add_column(heading, justify="right")
    for name in ("p50", "p90", "p99", "p99.9", "max"):
        table.add_row(f"{name} ms", *(f"{each['latency_ms'][name]:.2f}" for each in windows.values()))
    table.add_row("updates/s", *(f"{each['delivered']:,.0f}" for each in windows.values()))
    for name, heading in (("server_cpu", "server CPU"), ("client_cpu", "load CPU"), ("waited", "waited for its CPU")):
        table.add_row(heading, *(f"{each[name]:.0%}" for each in windows.values()))
    table.add_row("server RSS at the end, MB", *(f"{each['rss'] / 1e6:.1f}" for each in windows.values()))
    console.print(table)
    promises = Table.grid("", "", "", padding=(0, 2))
    for name, (text, held) in result["promises"].items():
        promises.add_row("ok" if held else "BROKEN", name, text)
    console.print(promises, highlight=False)
    for name, each in windows.items():
        notes = {
            "the load client was the bottleneck": each["client_cpu"] > CLIENT_CPU or each["behind_ms"] > BEHIND_MS,
            f"only {each['delivered'] / offered:.0%} was delivered": each["delivered"] < DELIVERED * offered,
            "server or load client waited for a CPU that ran something else": each["waited"] > WAITED,
        }
        for note in [note for note, holds in notes.items() if holds]:
            console.print(f"note   {name}: {note}: its latency says little", highlight=False, markup=False)
    console.print(", ".join(f"{key} {value}" for key, value in machine().items()), highlight=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
# Less, and what the kernel buffers lasts a throttled client; a server cuts one that takes nothing for 60 s.
@click.option("--seconds", default=30.0, type=click.FloatRange(8, 50), show_default=True, help="Of each window.")
@click.option("--healthy", default=50, type=click.IntRange(1, 1000), show_default=True, help="How many read on.")
@click.option("--each", default=0, type=click.IntRange(0, 500), show_default=True, help="Symbols of each; 0 = all.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the result here.")
def main(seconds: float, healthy: int, each: int, json_path: Path | None) -> None:
    """Measure what stalled clients cost; exit status 1 where a promise is broken. See bench/README.md."""
    workload = Workload("stall", subscribers=healthy, symbols=500, each=each or None, rate=50_000)
    # The default one, or the largest that a window laps.
    ring = min(1 << 20, 1 << int(seconds * workload.rate * 0.75).bit_length() - 1)
    server_cpu, client_cpu = two_cpus()
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    market = play(workload)
    try:
        with pinned(client_cpu), TemporaryDirectory(prefix="marketfeed-stall-") as name:
            directory = Path(name)
            with serving(workload.feed, ring, server_cpu, market, directory) as order:
                result = phases_1_to_3(order, workload, seconds)
            record(market, directory / "market.csv")
            feed = f"sim=replay:{directory / 'market.csv'}?speed={_SPEED}"
            with serving(feed, _SMALL_RING, server_cpu, market, directory) as order:
                result["promises"] |= phase_4(order, market, _SMALL_RING)
    except (StartFailed, Failed, Problem, ValueError, OSError) as error:
        raise click.ClickException(f"{error}" or type(error).__name__) from None
    symbols = f"{each} random" if each else "all"
    title = f"{healthy} healthy clients, {symbols} of 500 symbols each, {workload.rate:,} ticks/s, {seconds:g} s, "
    title += f"ring of {ring:,} ticks"
    console = Console(width=None if sys.stdout.isatty() else 140)
    show(console, title, market.offered(workload), result)
    if json_path is not None:
        settings = {"workload": dataclasses.asdict(workload), "seconds": seconds, "ring_ticks": ring}
        json_path.write_text(json.dumps({"machine": machine(), "settings": settings, **result}, indent=1) + "\n")
    if not all(held for _, held in result["promises"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
