"""`marketfeed tail`: a live table on a terminal, JSON lines in a pipe."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from marketfeed.client.aio import Feed, connect
from marketfeed.client.errors import ClientError
from marketfeed.client.messages import Message, Numbered, Position, encode_message
from marketfeed.client.options import login, place
from marketfeed.client.state import State, StateChange

if TYPE_CHECKING:
    from marketfeed.client.board import Board

#: Seconds between two pictures of the table.
_PICTURE_S = 0.125


def _symbols(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> list[str]:
    return [symbol.strip() for text in value for symbol in text.split(",") if symbol.strip()]


@click.command()
@click.argument("url", default="ws://127.0.0.1:8000/stream")
@click.option("--quotes", multiple=True, callback=_symbols, metavar="SYMBOLS", help="quotes of these: A,B-*")
@click.option("--trades", multiple=True, callback=_symbols, metavar="SYMBOLS", help="trades of these: A,B-*")
@click.option("--bars", multiple=True, callback=_symbols, metavar="SYMBOLS", help="bars of these: A,B-*")
@click.option("--bar-seconds", type=int, metavar="SECONDS", help="how long a bar is  [default: 60]")
@click.option("--max-hz", type=float, metavar="HZ", help="only the latest of each, so often  [default: every tick]")
@click.option("--where", metavar="CONDITION", help="only ticks for which it holds: 'spread_bps < 5 and bid >= 10'")
@click.option("--snapshot/--no-snapshot", default=None, help="the latest of each symbol first  [default: yes]")
@click.option("--since", callback=place, metavar="PLACE", help="first what came after: a time, EPOCH:SEQ, 0 = all")
@click.option("--heartbeat", type=float, metavar="SECONDS", help="a sign of life so often, and again if there is none")
@login
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="end after so many ticks")
@click.option("--json", "lines", is_flag=True, help="JSON lines on a terminal too")
def tail(
    url: str,
    quotes: list[str],
    trades: list[str],
    bars: list[str],
    bar_seconds: int | None,
    max_hz: float | None,
    where: str | None,
    snapshot: bool | None,
    since: Position | str | None,
    heartbeat: float | None,
    key: str,
    secret: str,
    token: str,
    count: int | None,
    lines: bool,
) -> None:
    """Show what a server streams: a live table on a terminal, JSON lines in a pipe.

    URL is ws://HOST:PORT/stream for every feed, or ws://HOST:PORT/v2/FEED for one. With none of --quotes, --trades and
    --bars, all quotes and trades.
    """
    if not quotes and not trades and not bars:
        quotes = trades = ["*"]
    wanted = {
        "quotes": quotes,
        "trades": trades,
        "bars": bars,
        "updated_bars": bars,
        "bar_seconds": bar_seconds,
        "max_hz": max_hz,
        "where": where,
        # Of bars that are not a minute long there is none.
        "snapshot": since is None and bar_seconds in (None, 60) if snapshot is None else snapshot,
        "since": since,
        "heartbeat": heartbeat,
    }
    credentials = {"key": key, "secret": secret, "token": token}
    show = _show_lines if lines or not sys.stdout.isatty() else _show_table
    try:
        asyncio.run(show(url, credentials, wanted, count))
    except (ClientError, ValueError, TypeError) as error:
        raise click.ClickException(str(error)) from None
    except BrokenPipeError:
        # Whoever read has seen enough. Nothing is left to be flushed into the pipe when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)


class _Count:
    """Counts ticks down to the end."""

    def __init__(self, count: int | None) -> None:
        self._left = count

    def cut(self, messages: list[Message]) -> list[Message]:
        """The messages up to the last tick that is still wanted."""
        if self._left is None:
            return messages
        for i, message in enumerate(messages):
            if isinstance(message, Numbered):
                self._left -= 1
                if not self._left:
                    return messages[: i + 1]
        return messages

    @property
    def over(self) -> bool:
        """Whether that was the last."""
        return self._left == 0


async def _show_lines(url: str, credentials: dict[str, Any], wanted: dict[str, Any], count: int | None) -> None:
    lost = False

    def tell(change: StateChange) -> None:
        nonlocal lost
        if change.state is State.WAITING:
            lost = True
            click.echo(f"{change.reason}; connecting again in {change.delay:.1f} s", err=True)
        elif change.state is State.CONNECTED and lost:
            lost = False
            click.echo("connected again", err=True)

    left = _Count(count)
    out = sys.stdout.buffer
    async with connect(url, on_state=tell, **credentials) as feed:
        await feed.subscribe(**wanted)
        while not left.over and (messages := left.cut(await feed.take())):
            # A reader that is slow makes this wait, and this the server.
            out.write(b"".join([encode_message(message) + b"\n" for message in messages]))
            out.flush()


async def _show_table(url: str, credentials: dict[str, Any], wanted: dict[str, Any], count: int | None) -> None:
    from rich.console import Console
    from rich.live import Live

    from marketfeed.client.board import Board

    board = Board(url, time.monotonic())
    console = Console()
    task = asyncio.current_task()
    assert task is not None
    # Else the terminal would be left in its second screen.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with connect(url, on_state=board.state, **credentials) as feed:
        await feed.subscribe(**wanted)
        try:
            with Live(board, console=console, screen=True, auto_refresh=False) as live:
                await _watch(feed, board, live.refresh, _Count(count))
        finally:
            # What was seen last stays, with a line left for the prompt.
            console.print(board, height=console.height - 1)


async def _watch(feed: Feed, board: Board, refresh: Callable[[], None], left: _Count) -> None:
    loop = asyncio.get_running_loop()
    picture = loop.time()
    while not left.over:
        messages: list[Message] = []
        try:
            async with asyncio.timeout_at(picture):
                messages = left.cut(await feed.take())
        except TimeoutError:
            pass  # nothing new: the colours of what changed before still fade
        board.add(messages, time.monotonic())
        if loop.time() >= picture:
            refresh()
            picture = loop.time() + _PICTURE_S
