"""The examples of docs/quants.md, run as they stand there."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.integration.processes import BOUND, ROOT, server, status

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quants.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server as `make run` starts it, with some ticks behind it."""
    with server() as at:
        while status(at)["seq"] < 2_000:  # the test's own timeout is the bound
            pass
        yield at


@pytest.mark.parametrize("example", EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_an_example_runs_as_it_stands(address: str, example: str) -> None:
    script = example.replace("ws://127.0.0.1:8000", address.replace("http", "ws", 1))
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
    assert len(EXAMPLES) >= 3
