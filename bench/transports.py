"""``python -m bench.transports``: what an update costs over each transport, beside each other in one run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.load.measure import Result, two_cpus
from bench.load.process import StartFailed, free_port, last_words, pinned, raise_file_limit, server
from bench.load.programs import ROOT
from bench.load.receivers import RECEIVERS, Order
from bench.load.report import machine, middle, ratio

SYMBOLS = 100
#: All others are told as so many times this one.
FIRST = "websocket"
WORKLOADS: dict[str, dict[str, Any]] = {
    "every tick": {"quotes": ["*"], "trades": ["*"]},
    "4 a second": {"quotes": ["*"], "trades": ["*"], "max_hz": 4},
}


def run_one(order: dict[str, Any], rate: int, cpus: tuple[int, int], directory: Path) -> dict[str, Any]:
    """A server of its own, and the clients of one transport."""
    port, log = free_port(), directory / "server.log"
    feed = f"sim?symbols={SYMBOLS}&rate={rate}&seed=7"
    command = [sys.executable, "-m", "marketfeed", "serve", "--feed", feed, "--port", str(port)]
    try:
        with server(command, port, cpus[0], ROOT, log, {}) as pid, pinned(cpus[1]):
            whole = Order(port=port, server_pid=pid, **order)
            done = subprocess.run(
                [sys.executable, "-m", "bench.load.receivers"],
                cwd=ROOT, input=json.dumps(asdict(whole)), capture_output=True, text=True, check=False,
                timeout=120 + whole.seconds,
            )  # fmt: skip
    except (StartFailed, subprocess.SubprocessError) as error:
        return {"error": str(error)}
    if done.returncode:
        return {"error": done.stderr.strip()[-500:] + last_words(log)}
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def show(console: Console, workload: str, results: list[Result]) -> None:
    """One workload as a table."""
    table = Table("", "updates/s", "CPU us/update", f"x {FIRST}", "bytes/update", "p50 ms", "p99 ms", "note",
                  title=workload, box=box.MARKDOWN, title_justify="left")  # fmt: skip
    for column in table.columns[1:-1]:
        column.justify = "right"
    for name in dict.fromkeys(result.program for result in results):
        result = middle(each for each in results if each.program == name)
        values = result.values
        if result.error:
            table.add_row(name, *[""] * 6, result.error)
            continue
        times = ratio(results, name, base=FIRST)
        table.add_row(
            name,
            f"{values['delivered']:,.0f}",
            f"{values['cpu_us']:.2f}",
            "" if times is None else f"{times:.2f}",
            f"{values['bytes']:.0f}",
            f"{values['latency_ms']['p50']:.1f}",
            f"{values['latency_ms']['p99']:.1f}",
            f"server CPU {values['server_cpu']:.0%}" + (f"; {result.note}" if result.note else ""),
        )
    console.print(table)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--transports", default=",".join(RECEIVERS), show_default=True, help="Names with commas.")
@click.option("--subscribers", default=50, type=click.IntRange(1, 5000), show_default=True)
@click.option("--rate", default=1000, type=click.IntRange(1, 1_000_000), show_default=True, help="Ticks a second.")
@click.option("--seconds", default=5.0, type=click.FloatRange(0.5, 15), show_default=True, help="The measured window.")
@click.option("--warmup", default=2.0, type=click.FloatRange(0, 10), show_default=True, help="Seconds before it.")
@click.option("--repeat", default=3, type=click.IntRange(1, 100), show_default=True, help="Rounds; medians are shown.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write every run here.")
def main(
    transports: str, subscribers: int, rate: int, seconds: float, warmup: float, repeat: int, json_path: Path | None
) -> None:
    """Measure CPU, latency and bytes of an update over each transport; every subscriber takes all of 100 symbols.

    CPU is the server's, per update that reached a client, the sending in the kernel included. An update's time is that
    of its tick, so latency is from the market to the client's read; throttled, it includes the wait for the next pass.
    """
    names = [name.strip() for name in transports.split(",") if name.strip()]
    for name in names:
        if name not in RECEIVERS:
            raise click.BadParameter(f"no {name!r}; there are: {', '.join(RECEIVERS)}")
    console = Console() if sys.stdout.isatty() else Console(width=140)
    cpus = two_cpus()
    raise_file_limit()
    results: list[Result] = []
    with TemporaryDirectory(prefix="marketfeed-bench-") as directory:
        for workload, subscribe in WORKLOADS.items():
            for turn in range(repeat):
                # Another one begins each round, so that none always runs first.
                first = turn % len(names)
                for name in names[first:] + names[:first]:
                    order = {
                        "transport": name,
                        "subscribers": subscribers,
                        "subscribe": subscribe,
                        "warmup_s": warmup,
                        "seconds": seconds,
                    }
                    values = run_one(order, rate, cpus, Path(directory))
                    # With max_hz what is offered depends on how many symbols move.
                    offered = 0.0 if "max_hz" in subscribe else float(rate * subscribers)
                    results.append(Result(workload, name, values | {"offered": offered}, values.pop("error", "")))
    about = machine()
    console.print(f"{about['date']}, {about['cpu']}, {about['cpus']} CPUs, Python {about['python']}", highlight=False)
    console.print(f"{subscribers} subscribers, {rate:,} ticks/s, {repeat} rounds of {seconds:g} s", highlight=False)
    for workload in WORKLOADS:
        show(console, workload, [result for result in results if result.workload == workload])
    if json_path is not None:
        whole = {"machine": about, "runs": [asdict(result) for result in results]}
        json_path.write_text(json.dumps(whole, indent=1) + "\n")
    if any(result.error for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
