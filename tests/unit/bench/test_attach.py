"""The bench of shared memory measures what it says: all ticks arrive, by each way of waiting, and all scans run."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.attach import WAYS, latency, speeds
from bench.load.shared import SCANS
from tests.shm import memory_directory


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_directory() as path:
        yield path


@pytest.mark.parametrize("way", WAYS.values())
def test_every_tick_is_seen_and_has_its_delay(folder: Path, way: str) -> None:
    found = latency(str(folder), way, rate=100, seconds=0.3)
    assert found["ticks"] == 30
    assert 0 < found["p50_us"] <= found["p99_us"] <= found["max_us"]
    assert found["cpu"] > 0
    assert found["publish_us"] > 0


def test_every_scan_is_measured(folder: Path) -> None:
    found = speeds(str(folder), ticks=1 << 12, rate=1_000, seconds=0.1)
    assert set(found) == set(SCANS)
    assert all(speed > 0 and math.isfinite(speed) for speed in found.values())
