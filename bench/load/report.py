"""What a run looks like: a table a workload, and everything as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.load.measure import Result
from bench.load.programs import OURS
from bench.load.workloads import Workload


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "marketfeed": version("marketfeed"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def ratio(results: Sequence[Result], program: str, key: str = "cpu_us", base: str = OURS) -> float | None:
    """How many times that of ``base`` (ours) a program's value is.

    The median over the rounds in which both count, one after the other.
    ``results`` are one workload's, in the order in which they ran; each round has each program once.
    """
    ours = [result for result in results if result.program == base]
    its = [result for result in results if result.program == program]
    pairs = [
        that.values[key] / this.values[key]
        for this, that in zip(ours, its, strict=False)
        if this.counts and that.counts and this.values.get(key) and key in that.values
    ]
    return statistics.median(pairs) if pairs else None


def middle(results: Iterable[Result]) -> Result:
    """One program's rounds as one: the median of each number over those that count."""
    results = list(results)
    counting = [result for result in results if result.counts]
    if not counting:
        return results[-1]
    values: dict[str, Any] = {}
    for key, first in counting[0].values.items():
        if isinstance(first, dict):
            values[key] = {name: statistics.median(result.values[key][name] for result in counting) for name in first}
        else:
            values[key] = None if first is None else statistics.median(result.values[key] for result in counting)
    return Result(results[0].workload, results[0].program, values)


def programs(results: Iterable[Result]) -> list[str]:
    """The names, each once, in the order in which they first ran."""
    return list(dict.fromkeys(result.program for result in results))


def table(workload: Workload, results: Sequence[Result]) -> tuple[Table, list[str]]:
    """One workload's table, and what must be known beside it."""
    idle = workload.each == 0
    shown = Table(
        title=title(workload, results), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    shown.add_column("program", no_wrap=True)
    headings = (
        ("KiB a connection", "x ours", "MiB")
        if idle
        else (
            *("updates/s", "CPU us", "x ours", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms"),
            *("reads/s", "bytes", "MiB", "CPU", "load CPU"),
        )
    )
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    notes = []
    for program in programs(results):
        result = middle(result for result in results if result.program == program)
        times = ratio(results, program, "connection_bytes" if idle else "cpu_us")
        cells = _idle(result, times) if idle else _cells(result, times)
        shown.add_row(program, *cells, style="bold" if program == OURS else "" if result.counts else "dim")
        if result.note:
            notes.append(f"{program}: {result.note}")
    return shown, notes


def title(workload: Workload, results: Iterable[Result]) -> str:
    """What the workload is, in a line."""
    symbols = (
        f"all of {workload.symbols}" if workload.each is None else f"{workload.each} of {workload.symbols:,} symbols"
    )
    if workload.each == 0:
        return f"{workload.name}: {workload.subscribers:,} idle connections"
    at_most = f", at most {workload.max_hz:g} a second of each" if workload.max_hz else ""
    offered = next(
        (f": {result.values['offered']:,.0f} updates/s" for result in results if "offered" in result.values), ""
    )
    return (
        f"{workload.name}: {workload.subscribers:,} subscribers, {symbols}, {workload.rate:,} ticks/s{at_most}{offered}"
    )


def _cells(result: Result, times: float | None) -> list[str]:
    values = result.values
    if "delivered" not in values:
        return ["-"] * 12
    latency = values["latency_ms"] or {}
    return [
        f"{values['delivered']:,.0f}",
        f"{values['cpu_us']:.3f}",
        _times(times),
        *(_ms(latency[name]) if name in latency else "-" for name in ("p50", "p90", "p99", "p99.9")),
        f"{values['reads']:,.0f}",
        f"{values['bytes']:.0f}",
        f"{values['memory'] / 2**20:.0f}",
        f"{values['server_cpu']:.0%}",
        f"{values['client_cpu']:.0%}",
    ]


def _idle(result: Result, times: float | None) -> list[str]:
    if "connection_bytes" not in result.values:
        return ["-"] * 3
    return [
        f"{result.values['connection_bytes'] / 1024:.1f}",
        _times(times),
        f"{result.values['memory'] / 2**20:.0f}",
    ]


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _times(times: float | None) -> str:
    return "-" if times is None else f"{times:.2f}x"


def show(console: Console, workloads: Iterable[Workload], results: Sequence[Result]) -> None:
    """Every workload's table, and what they were taken on."""
    for workload in workloads:
        mine = [result for result in results if result.workload == workload.name]
        if mine:
            shown, notes = table(workload, mine)
            console.print(shown)
            for note in notes:
                console.print(note, highlight=False, markup=False)
    console.print(", ".join(f"{key} {value}" for key, value in machine().items()), highlight=False)


def as_json(results: Sequence[Result], skipped: dict[str, str], settings: dict[str, Any]) -> str:
    """Every run, one by one."""
    return json.dumps(
        {
            "machine": machine(),
            "settings": settings,
            "skipped": skipped,
            "runs": [
                {
                    "workload": result.workload,
                    "program": result.program,
                    "counts": result.counts,
                    "note": result.note,
                    **result.values,
                }
                for result in results
            ],
        },
        indent=1,
    )
