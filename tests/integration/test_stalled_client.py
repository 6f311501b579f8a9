"""A client that stops reading must cost the others nothing, and the server nearly nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

from websockets.asyncio.client import connect

from tests.integration.processes import TICKS_ONLY, process, serve, stream_of

HEALTHY = 3
TICKS = 10_000
SECONDS = 6.0
#: of it 16,384 ticks are 1.6 s: whoever stalls longer is lapped
RING = 16_384
BOUND = 30.0
SUBSCRIBE = json.dumps({"action": "subscribe", "quotes": ["*"], "trades": ["*"]})


def memory_of(pid: int) -> int:
    """Resident bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no memory in the status of {pid}")


def spans_of(frame: str) -> list[tuple[int, int]]:
    """What a frame accounts for: (first, last) of each tick and each gap."""
    spans = []
    for message in json.loads(frame):
        if message["T"] == "gap":
            assert message["reason"] == "lapped"
            spans.append((message["from"], message["to"]))
        elif message["T"] in "qt":
            spans.append((message["seq"], message["seq"]))
    return spans


class Reader:
    """Reads one client and holds that what it is given follows on without a seam."""

    def __init__(self, ws) -> None:
        self.ws = ws
        self.ticks = 0
        self.gaps: list[tuple[int, int]] = []
        self.last = 0

    async def read_until(self, enough) -> None:
        while not enough(self):
            for first, last in spans_of(await self.ws.recv()):
                assert self.last in (0, first - 1), "a tick is missing, and no gap tells of it"
                self.last = last
                if first == last:
                    self.ticks += 1
                else:
                    self.gaps.append((first, last))


def test_a_stalled_client_costs_the_others_nothing_and_is_told_what_it_lost():
    arguments = [
        *TICKS_ONLY,
        "--feed",
        f"sim?symbols=50&rate={TICKS}",
        "--ring-ticks",
        str(RING),
        "--log-level",
        "warning",
    ]
    with process(*serve(), "--port", "0", *arguments) as running:
        url = stream_of(running.stdout.readline().split()[-1])

        async def conversation():
            async with contextlib.AsyncExitStack() as stack:
                enter = stack.enter_async_context
                healthy = [Reader(await enter(connect(url, max_size=None))) for _ in range(HEALTHY)]
                stalled = Reader(await enter(connect(url, max_size=None, max_queue=1)))
                for reader in (*healthy, stalled):
                    await reader.ws.send(SUBSCRIBE)
                stalled.ws.transport.pause_reading()

                def read(seconds: float):
                    end = asyncio.get_running_loop().time() + seconds
                    return [r.read_until(lambda r: asyncio.get_running_loop().time() > end) for r in healthy]

                await asyncio.gather(*read(1.0))
                before, begin = memory_of(running.pid), healthy[0].last
                await asyncio.gather(*read(SECONDS))
                grown, end = memory_of(running.pid) - before, healthy[0].last

                stalled.ws.transport.resume_reading()
                await asyncio.gather(stalled.read_until(lambda r: r.last > end + TICKS // 10), *read(1.0))
                for reader in (*healthy, stalled):
                    reader.ws.transport.abort()  # a polite end would have to read all that is on its way
            assert grown < 20 << 20
            assert stalled.gaps
            for reader in healthy:
                assert not reader.gaps
                assert end - begin > TICKS * SECONDS / 2

        asyncio.run(asyncio.wait_for(conversation(), BOUND))
