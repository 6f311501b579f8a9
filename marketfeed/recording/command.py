"""`marketfeed record`: a server's stream, or feeds, into a folder of Parquet files."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from marketfeed.client.errors import ClientError
from marketfeed.client.messages import Position
from marketfeed.client.options import login, place
from marketfeed.feed import FeedError, FeedSpec

if TYPE_CHECKING:
    from rich.live import Live

    from marketfeed.ingest import FeedRunner
    from marketfeed.recording.folder import RecordingFolder

log = logging.getLogger("marketfeed.recording")

#: Seconds between two pictures of the progress.
_PICTURE_S = 0.25
_CLOSE_S = 60.0


class _Failed(Exception):
    """The recording could not go on; the message is one line."""


@click.command()
@click.argument("url", required=False)
@click.option("--feed", "feeds", multiple=True, metavar="SPEC", help="[NAME=]TYPE:TARGET?key=value&...; without URL")
@click.option(
    "-o", "--output", "path", required=True, type=click.Path(file_okay=False, path_type=Path), help="into this folder"
)
@click.option(
    "--since", callback=place, metavar="PLACE", help="of URL: first what came after: a time, EPOCH:SEQ, 0 = all"
)
@click.option(
    "--encoding", type=click.Choice(["binary", "json"]), default="binary", show_default=True,
    help="of URL: json for a server that has no records",
)  # fmt: skip
@login
def record(
    url: str | None,
    feeds: tuple[str, ...],
    path: Path,
    since: Position | str | None,
    encoding: str,
    key: str,
    secret: str,
    token: str,
) -> None:
    """Record quotes and trades into Parquet files, one an hour, until interrupted or until all feeds have ended.

    URL is ws://HOST:PORT/stream for every feed of a server, or ws://HOST:PORT/v2/FEED for one. A recording that is
    continued begins where it ended, as far as the server still holds that.
    """
    if (url is None) == (not feeds):
        raise click.UsageError("say either the URL of a server, or --feed")
    if since is not None and url is None:
        raise click.UsageError("--since is of a server")
    try:
        from marketfeed.recording.folder import FolderBusy, RecordingFolder
        from marketfeed.recording.hour import reason
    except ModuleNotFoundError:
        raise click.ClickException("recording needs pyarrow: pip install marketfeed[parquet]") from None
    from marketfeed.model.clock import SystemClock

    clock = SystemClock()
    live = _picture()
    try:
        folder = RecordingFolder(path, clock)
        with live or nullcontext():
            if url is not None:
                how = {"key": key, "secret": secret, "token": token, "encoding": encoding}
                asyncio.run(_from_server(url, how, folder, since, live))
            else:
                asyncio.run(_from_feeds([FeedSpec.parse(feed) for feed in feeds], folder, live))
    except (FolderBusy, FeedError, ClientError, ValueError, _Failed) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{path}: {reason(error)}") from None
    click.echo(_summary(folder))


def _picture() -> Live | None:
    """The line on a terminal; None = stdout is none."""
    if not sys.stdout.isatty():
        logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
        return None
    from rich.console import Console
    from rich.live import Live
    from rich.logging import RichHandler

    console = Console()
    # Through the same console, so that lines of the log stand above the progress.
    logging.basicConfig(level="INFO", format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    return Live(console=console, auto_refresh=False, transient=True)


async def _from_server(
    url: str, how: dict[str, Any], folder: RecordingFolder, since: Position | str | None, live: Live | None
) -> None:
    from marketfeed.client.aio import connect
    from marketfeed.model.clock import SystemClock
    from marketfeed.recording.remote import record_server

    stop = _stop_on_signals()
    showing = asyncio.create_task(_show(folder, live))
    name = urlsplit(url).path.rstrip("/").rpartition("/")[2]
    try:
        async with connect(url, **how) as feed:
            refused = await record_server(feed, folder, SystemClock(), name, since, stop)
    except OSError:
        folder.abandon()
        raise
    except BaseException:
        folder.close()
        raise
    finally:
        showing.cancel()
    folder.close()
    if refused:
        raise _Failed(f"{refused:,} ticks have a symbol or feed that cannot be recorded; see the log")


async def _from_feeds(specs: list[FeedSpec], folder: RecordingFolder, live: Live | None) -> None:
    from marketfeed.ingest import FeedRunner
    from marketfeed.model.clock import SystemClock
    from marketfeed.model.store import TickStore
    from marketfeed.recording.recorder import Recorder

    clock, store = SystemClock(), TickStore.create()
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    recorder = Recorder(store, folder, clock, lambda: loop.call_soon_threadsafe(stopped.set))

    def later(seconds: float, step: Callable[[], None]) -> asyncio.Handle:
        return loop.call_later(seconds, step_if_recorded, step)

    def step_if_recorded(step: Callable[[], None]) -> None:
        # Nobody but the recorder takes these ticks: a feed that can wait is not to lap it.
        if store.ring.head - recorder.cursor > store.ring.capacity // 2 and not recorder.error:
            later(0.005, step)
        else:
            step()

    stop = _stop_on_signals()
    runners = []
    for spec in specs:
        try:
            runners.append(FeedRunner(spec.name, spec.build(), store, clock, lambda: None, later=later))
        except FeedError as error:
            raise FeedError(f"feed {spec.name}: {error}") from None
    recorder.start()
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    showing = asyncio.create_task(_show(folder, live))
    ends = {asyncio.create_task(end) for end in (_all_ended(runners), stop.wait(), stopped.wait())}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, *ends):
        task.cancel()
    for runner in runners:
        runner.close()
    await asyncio.to_thread(recorder.stop, _CLOSE_S)
    showing.cancel()
    if recorder.error:
        raise _Failed(f"the recording has stopped: {recorder.error}")
    refused = sum(sum(runner.stats.refused.values()) for runner in runners)
    if refused:
        log.warning("the feeds had %d rows that cannot be ticks", refused)


async def _all_ended(runners: list[FeedRunner]) -> bool:
    return all([await runner.ended.wait() for runner in runners])


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _show(folder: RecordingFolder, live: Live | None) -> None:
    if live is None:
        return
    from rich.text import Text

    begun = then = time.monotonic()
    before = 0
    rate = 0.0
    while True:
        now, rows = time.monotonic(), folder.rows
        if now > then:
            # A mean over some two seconds: what comes in pieces is still a rate that can be read.
            share = min(1.0, (now - then) / 2.0)
            rate += share * ((rows - before) / (now - then) - rate)
        then, before = now, rows
        stats, file = folder.stats, folder.file
        lost = f"{stats.gaps:,} gaps, {stats.lost:,} lost" if stats.gaps else "no gaps"
        live.update(
            Text.assemble(
                ("● ", "bold red"), f"{rows:,} ticks  ", (f"{rate:,.0f}/s", "bold"), f"  {_size(folder.bytes)}  ",
                (lost, "yellow" if stats.gaps else "green"), f"  {_elapsed(now - begun)}  ",
                (file.path.name if file else "waiting for ticks", "dim"),
            ),
            refresh=True,
        )  # fmt: skip
        await asyncio.sleep(_PICTURE_S)


def _elapsed(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _summary(folder: RecordingFolder) -> str:
    stats = folder.stats
    each = f", {stats.bytes / stats.rows:.1f} bytes a tick" if stats.rows else ""
    more = f"; {stats.salvaged:,} ticks of an earlier recording were salvaged" if stats.salvaged else ""
    gaps = f"{stats.gaps:,} gaps with {stats.lost:,} ticks" if stats.gaps else "no gaps"
    files = f"{stats.files:,} file{'' if stats.files == 1 else 's'}"
    return f"recorded {stats.rows:,} ticks in {files} in {folder.path} ({_size(stats.bytes)}{each}), {gaps}{more}"
