"""Clients in JavaScript, as processes of Node that a test drives line by line (tests/js)."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.processes import BOUND, ROOT

JS = ROOT / "tests" / "js"

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules").is_dir(),
    reason="needs Node.js, and npm packages in tests/js (`make test` installs them)",
)


class Script:
    """A running script: JSON lines in, JSON lines out, each an array that begins with its kind."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def tell(self, what: Any) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")

    async def next(self, *kinds: str) -> list[Any]:
        """The next line of one of these kinds; others are passed over."""
        assert self._process.stdout is not None
        async with asyncio.timeout(BOUND):
            while line := await self._process.stdout.readline():
                said: list[Any] = json.loads(line)
                if said[0] in kinds:
                    return said
        raise AssertionError(f"it ended before any of {kinds}")

    async def ticks(self, count: int) -> list[dict[str, Any]]:
        """At least so many ticks, those of whole events."""
        ticks: list[dict[str, Any]] = []
        while len(ticks) < count:
            ticks += (await self.next("ticks"))[1]
        return ticks


@contextlib.asynccontextmanager
async def node(script: str, *arguments: str) -> AsyncIterator[Script]:
    """A script of tests/js; it is killed in the end."""
    process = await asyncio.create_subprocess_exec(
        "node", JS / script, *arguments,
        cwd=JS, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
    )  # fmt: skip
    try:
        yield Script(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
