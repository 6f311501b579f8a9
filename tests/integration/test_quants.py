"""The examples of docs/quants.md, run as they stand there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import marketfeed
from tests.integration.processes import BOUND, ROOT, server
from tests.shm import memory_directory

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quants.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where the server shares its memory: it is killed in the end, and would leave its file in /dev/shm."""
    with memory_directory() as path:
        yield path


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """A server as the document starts it, with some ticks behind it."""
    with server("--share", "us", "--share-dir", str(folder)) as at:
        # It waits in naps: asking the server on and on would keep it from its ticks.
        with marketfeed.attach("us", directory=folder) as feed:
            assert sum(map(len, feed.follow(since=0, max_rows=2_000, timeout=BOUND))) == 2_000
        yield at


@pytest.mark.parametrize("example", EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_an_example_runs_as_it_stands(address: str, folder: Path, example: str) -> None:
    script = example.replace('attach("us")', f'attach("us", directory="{folder}")')
    script = script.replace("ws://127.0.0.1:8000", address.replace("http", "ws", 1))
    script = script.replace("http://127.0.0.1:8000", address)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8
