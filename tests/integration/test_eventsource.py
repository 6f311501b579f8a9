"""EventSource in a real browser: what it does by itself when a connection is cut."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

from tests.conformance.driven import driven
from tests.integration.browser import needs_chromium, page_of
from tests.integration.processes import BOUND, TICKS_ONLY, Proxy, server

_SCRIPT = """(url) => {
  window.seqs = []; window.told = null; window.gaps = 0;
  const source = new EventSource(url);
  source.onmessage = (event) => {
    for (const message of JSON.parse(event.data)) {
      if (message.T === "q" || message.T === "t") window.seqs.push(message.seq);
      if (message.T === "gap") window.gaps += 1;
    }
  };
  source.addEventListener("close", (event) => { window.told = JSON.parse(event.data); });
}"""


@needs_chromium
def test_a_browser_whose_stream_is_cut_loses_nothing_and_is_given_nothing_twice():
    async def conversation(address: str) -> None:
        async with asyncio.timeout(3 * BOUND), Proxy(urlsplit(address).port) as proxy:
            through = f"http://{urlsplit(proxy.url).netloc}"
            async with page_of(through) as page:
                await page.evaluate(_SCRIPT, f"{through}/sse?quotes=*&trades=*")
                for _ in range(3):
                    had, connections = await page.evaluate("window.seqs.length"), proxy.connections
                    await page.wait_for_function(f"window.seqs.length > {had + 300}", timeout=BOUND * 1000)
                    proxy.cut()
                    while proxy.connections == connections:
                        await asyncio.sleep(0.01)
                had = await page.evaluate("window.seqs.length")
                await page.wait_for_function(f"window.seqs.length > {had + 300}", timeout=BOUND * 1000)
                seqs = await page.evaluate("window.seqs")
                assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
                assert await page.evaluate("window.gaps") == 0

    with server(*TICKS_ONLY, "--feed", "sim?symbols=20&rate=500&seed=3") as address:
        asyncio.run(conversation(address))


@needs_chromium
def test_a_browser_comes_to_the_servers_next_life_and_is_told_what_it_lost():
    async def conversation() -> None:
        async with contextlib.AsyncExitStack() as stack:
            with driven() as first:
                address = first.address
                page = await stack.enter_async_context(page_of(address))
                await page.evaluate(_SCRIPT, f"{address}/sse?quotes=*&since=0")
                first.publish(("A", "q", 1.0))
                await page.wait_for_function("window.seqs.length === 1", timeout=BOUND * 1000)
                first.terminate()
                await asyncio.to_thread(first.running.wait, BOUND)
            await page.wait_for_function("window.told !== null", timeout=BOUND * 1000)
            assert await page.evaluate("window.told") == {"code": 3000, "reason": "shutdown"}
            with driven(str(urlsplit(address).port)) as second:
                second.publish(("A", "q", 2.0), ("B", "q", 3.0))
                await page.wait_for_function("window.seqs.length === 3", timeout=BOUND * 1000)
                assert await page.evaluate("window.gaps") == 1
                assert await page.evaluate("window.seqs") == [1, 1, 2]

    asyncio.run(asyncio.wait_for(conversation(), 3 * BOUND))
