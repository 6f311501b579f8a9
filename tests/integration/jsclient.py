"""The JavaScript client as a test drives it: in Node, and in a page."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

from tests.integration.browser import page_of
from tests.integration.javascript import JS
from tests.integration.processes import BOUND

Event = dict[str, Any]


class JsClient:
    """A running client: commands in, events out (see tests/js/driver.mjs)."""

    def __init__(self, send: Callable[[str], Any]) -> None:
        self._send = send
        self._news = asyncio.Event()
        #: everything that it said
        self.events: list[Event] = []
        #: its ticks, of each subscription
        self._ticks: dict[str | None, list[Event]] = defaultdict(list)
        #: what was written on its standard error, or as an error of the page
        self.errors: list[str] = []
        #: in Node
        self.process: asyncio.subprocess.Process | None = None

    def heard(self, events: list[Event]) -> None:
        self.events += events
        for event in events:
            rows = event["rows"] if event["event"] == "batch" else [event["tick"]] if event["event"] == "tick" else []
            for sub in (None, event["sub"]) if rows else ():
                self._ticks[sub] += rows
        self._news.set()

    async def do(self, action: str, **command: Any) -> None:
        sent = self._send(json.dumps({"action": action, **command}))
        if asyncio.iscoroutine(sent):
            await sent

    async def until(self, enough: Callable[[list[Event]], Any], since: int = 0) -> list[Event]:
        """What it said from event number ``since`` on, as soon as that is enough."""
        async with asyncio.timeout(BOUND):
            while not enough(self.events[since:]):
                self._news.clear()
                await self._news.wait()
        return self.events[since:]

    async def event(self, kind: str, since: int = 0, **has: Any) -> Event:
        """The first of this kind that has these values, from event number ``since`` on."""

        def found(events: list[Event]) -> list[Event]:
            return [event for event in events if event["event"] == kind and has.items() <= event.items()]

        return found(await self.until(found, since))[0]

    def ticks(self, sub: str | None = None) -> list[Event]:
        """Those of a subscription, or of all."""
        return self._ticks[sub].copy()

    def seqs(self, sub: str | None = None) -> list[int]:
        return [tick["seq"] for tick in self.ticks(sub)]

    async def has(self, count: int, sub: str | None = None) -> None:
        """Wait for so many ticks in all."""
        await self.until(lambda _: len(self._ticks[sub]) >= count)


@contextlib.asynccontextmanager
async def in_node(url: str, **options: Any) -> AsyncIterator[JsClient]:
    """A client in a Node process."""
    process = await asyncio.create_subprocess_exec(
        "node", JS / "client.mjs", url, json.dumps(options),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 24,
    )  # fmt: skip
    assert process.stdin is not None
    stdin = process.stdin
    client = JsClient(lambda text: stdin.write(f"{text}\n".encode()))
    client.process = process

    async def listen() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            if line.endswith(b"\n"):  # else it was killed in the midst of it
                client.heard([json.loads(line)])

    async def listen_to_errors() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            client.errors.append(line.decode())

    listening = [asyncio.create_task(listen()), asyncio.create_task(listen_to_errors())]
    try:
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(*listening)


@contextlib.asynccontextmanager
async def in_page(url: str, **options: Any) -> AsyncIterator[JsClient]:
    """A client in a page that the server at this URL serves, which imports what that serves."""
    driver = (JS / "driver.mjs").read_text().replace("export function", "function")
    script = f"""async ([url, options]) => {{
      {driver}
      window.obey = drive(await import("/client/marketfeed.js"), url, options, window.say);
    }}"""
    async with page_of(url) as page:
        client = JsClient(lambda text: page.evaluate("(text) => window.obey(JSON.parse(text))", text))
        await page.expose_function("say", client.heard)
        page.on("pageerror", lambda error: client.errors.append(str(error)))
        await page.evaluate(script, ["/stream", options])
        yield client
