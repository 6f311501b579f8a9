"""What the tests of the client share."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import marketfeed
from marketfeed.client import Backoff, Message, Quote, Trade
from tests.integration.processes import BOUND

HELLO = ["send", {"T": "success", "msg": "connected", "epoch": 5, "version": "9"}]


def reply(seq: int, **more: Any) -> list[Any]:
    return ["send", {"T": "subscription", "quotes": ["A"], "trades": [], "bars": [], "epoch": 5, "seq": seq, **more}]


def quickly(url: str, **options: Any) -> marketfeed.client.Feed:
    """A feed that does not wait long between attempts."""
    return marketfeed.connect(url, backoff=Backoff(random.Random(1), 0.01, 0.1), **options)


def run(main: Callable[[], Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(BOUND):
            return await main()

    return asyncio.run(bounded())


def seqs(messages: list[Message]) -> list[int]:
    return [message.seq for message in messages if isinstance(message, Quote | Trade)]


async def until(feed: marketfeed.client.Feed, seq: int) -> list[Message]:
    """Everything up to the tick with this number."""
    messages: list[Message] = []
    async for message in feed:
        messages.append(message)
        if isinstance(message, Quote | Trade) and message.seq >= seq:
            return messages
    raise AssertionError(f"the feed ended before {seq}")


@contextlib.asynccontextmanager
async def alpaca_running(stream: Any) -> AsyncIterator[None]:
    """alpaca-py's stream, while it runs."""
    running = asyncio.create_task(stream._run_forever())
    try:
        async with asyncio.timeout(BOUND):
            yield
    finally:
        await stream.stop_ws()
        await stream.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
