"""The table as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.load.measure import Result
from bench.load.programs import OURS
from bench.load.report import machine, middle, programs

_PANELS = (("cpu_us", "server CPU us per delivered update"), ("p99", "latency p99, ms"))


def plot(results: Sequence[Result], path: Path) -> None:
    """CPU an update and p99 latency, a group of bars for each workload, on logarithmic axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = programs(results)
    workloads = list(dict.fromkeys(result.workload for result in results if "delivered" in result.values))
    figure, axes = plt.subplots(len(_PANELS), 1, figsize=(10, 8), layout="constrained")
    colours = plt.get_cmap("tab10")
    for axis, (key, label) in zip(axes, _PANELS, strict=True):
        for i, name in enumerate(names):
            heights = [_value(results, workload, name, key) for workload in workloads]
            at = [x + (i - (len(names) - 1) / 2) * 0.8 / len(names) for x in range(len(workloads))]
            bars = axis.bar(
                at, heights, 0.8 / len(names), label=name, color="black" if name == OURS else colours(i % 10)
            )
            axis.bar_label(
                bars, [f"{height:.2g}" if height else "" for height in heights], fontsize=6, rotation=90, padding=2
            )
        axis.set_xticks(range(len(workloads)), workloads)
        axis.set_yscale("log")
        axis.margins(y=0.2)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(ncols=4, fontsize=8, frameon=False)
    on = machine()
    figure.suptitle(f"Fan-out on one core: {on['cpu']}, {on['date']} (less is better)", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _value(results: Sequence[Result], workload: str, program: str, key: str) -> float:
    """0 where there is none: no bar."""
    mine = [result for result in results if result.workload == workload and result.program == program]
    if not mine:
        return 0.0
    result = middle(mine)
    if not result.counts:
        return 0.0
    return float(result.values.get(key) or (result.values.get("latency_ms") or {}).get(key) or 0.0)
