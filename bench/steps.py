"""What work that is done in steps costs: all of it, and the longest step, for so long nobody else has the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from marketfeed.model.steps import Steps


def cpu_ms(steps: Steps[Any]) -> tuple[float, float]:
    """CPU time of all steps, and of the longest."""
    total = longest = 0.0
    going = True
    while going:
        begun = time.thread_time()
        going = next(steps, _END) is not _END
        took = (time.thread_time() - begun) * 1000
        total, longest = total + took, max(longest, took)
    return total, longest


def cost(make: Callable[[], Steps[Any]], rounds: int = 11) -> dict[str, float]:
    """``cpu_ms`` and ``longest_step_ms``: medians, for whatever else the machine did is in the longest of many."""
    totals, longest = zip(*(cpu_ms(make()) for _ in range(rounds)), strict=True)
    return {"cpu_ms": round(median(totals), 2), "longest_step_ms": round(median(longest), 2)}


_END = object()
