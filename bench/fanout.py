"""``python -m bench.fanout``: marketfeed beside what one would otherwise pick, on this machine, over real sockets."""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from bench.load import report
from bench.load.measure import Result, Settings, desk, two_cpus
from bench.load.process import raise_file_limit
from bench.load.programs import BATCHED, FLOOR, OURS, PROGRAMS, Program
from bench.load.workloads import WORKLOADS, Workload


def _workloads(_context: click.Context, _parameter: click.Parameter, text: str) -> list[Workload]:
    return [WORKLOADS[name] for name in _named(text, list(WORKLOADS))]


def _programs(_context: click.Context, _parameter: click.Parameter, text: str) -> list[Program]:
    names = _named(text, list(PROGRAMS))
    # Ours is what all is compared with.
    return [PROGRAMS[name] for name in PROGRAMS if name in names or name == OURS]


def _named(text: str, known: list[str]) -> list[str]:
    if text == "all":
        return known
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise click.BadParameter(f"no {name!r}; there are: {', '.join(known)}")
    return names


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workload", "workloads", default="all", callback=_workloads, help="A,B,... or all.")
@click.option("--peers", "programs", default="all", callback=_programs, help="Names with commas, or all.")
@click.option(
    "--seconds", default=10.0, type=click.FloatRange(0.5, 600), show_default=True, help="The measured window."
)
@click.option("--warmup", default=3.0, type=click.FloatRange(0, 600), show_default=True, help="Seconds before it.")
@click.option("--repeat", default=1, type=click.IntRange(1, 100), show_default=True, help="Rounds; medians are shown.")
@click.option("--verify", is_flag=True, help="Only hold the count against a full parse, for longer; measure nothing.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write every run here.")
@click.option("--plot", "plot_path", type=click.Path(dir_okay=False, path_type=Path), help="Write a picture here.")
def main(
    workloads: list[Workload],
    programs: list[Program],
    seconds: float,
    warmup: float,
    repeat: int,
    verify: bool,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Measure how much CPU a delivered update costs, and how late it comes: marketfeed and its peers, side by side.

    See bench/README.md for the workloads, the method, and how to read the result.
    """
    # A table in a pipe or a file is not cut to a screen that is not there.
    console, errors = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=140)
    if plot_path is not None:
        try:
            from bench.load.plot import plot
        except ImportError as error:
            raise click.UsageError(f"--plot needs matplotlib: pip install -e '.[bench]' ({error})") from None
    skipped = {program.name: reason for program in programs if (reason := program.missing())}
    for name, reason in skipped.items():
        errors.print(f"skipped: {name}: {reason}", highlight=False, markup=False)
    programs = [program for program in programs if program.name not in skipped]
    server_cpu, client_cpu = two_cpus()
    if server_cpu == client_cpu:
        errors.print("one CPU alone: server and load client share it, so the numbers say little")
    settings = Settings(
        seconds=0.0 if verify else seconds,
        warmup_s=warmup,
        verify_s=5.0 if verify else 1.0,
        server_cpu=server_cpu,
        client_cpu=client_cpu,
    )
    raise_file_limit()
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = _run(errors, workloads, programs, settings, repeat)
    if verify:
        for result in results:
            said = result.error or f"{result.values['verified']:,} updates parsed, the count is the same"
            console.print(f"{result.workload} {result.program}: {said}", highlight=False, markup=False)
    else:
        report.show(console, workloads, results)
    if json_path is not None:
        json_path.write_text(report.as_json(results, skipped, dataclasses.asdict(settings)) + "\n")
    if plot_path is not None:
        plot(results, plot_path)
    if any(result.error for result in results):
        raise SystemExit(1)


def _tells_something_idle(program: Program) -> bool:
    """Nothing is sent to idle connections, so there is nothing to batch, and the floor has no sessions."""
    return program.name != FLOOR and not program.name.endswith(BATCHED)


def _run(
    console: Console, workloads: list[Workload], programs: list[Program], settings: Settings, repeat: int
) -> list[Result]:
    """Every round of every workload, programs one after the other: what the machine does meanwhile hits all alike."""
    results: list[Result] = []
    with (
        desk(settings) as bench,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("", total=None)
        for workload in workloads:
            able = [program for program in programs if workload.each != 0 or _tells_something_idle(program)]
            for turn in range(repeat):
                # Another one begins each round, so that no program always runs first.
                first = turn % len(able)
                for program in able[first:] + able[:first]:
                    progress.update(task, description=f"{workload.name} {program.name}")
                    results.append(bench.run(program, workload))
                    progress.advance(task)
    return results


if __name__ == "__main__":
    main()
