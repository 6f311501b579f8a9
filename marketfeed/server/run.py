"""Runs a server: makes its parts, lets clients in, and takes all down in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable

from tornado.netutil import bind_sockets

from marketfeed.server.config import Config, ConfigError
from marketfeed.server.limited import LimitedServer
from marketfeed.server.parts import Parts
from marketfeed.transports.base import Gate

log = logging.getLogger("marketfeed.server")

#: Idle HTTP connections, and those that are slow with their headers, are closed after so long.
_IDLE_SECONDS = 10.0
_DRAIN_SECONDS = 5.0
_CHECK_SECONDS = 1.0
#: So long may the last file of a recording take to end.
_RECORDER_SECONDS = 30.0
#: A flush makes thousands of short-lived lists: the collector looks at them less often than by default.
_GC_THRESHOLD = (20_000, 20, 20)
_BACKLOG = 4096


def serve(config: Config, on_ready: Callable[[str], None]) -> None:
    """Run until SIGINT or SIGTERM.

    Args:
        on_ready: told the server's URL once it listens and the feeds are open.

    Raises:
        ConfigError, FeedError: it cannot start; the message is one line that a user can act on.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config, on_ready))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (the extra `fast`), else asyncio's own."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


async def _serve(config: Config, on_ready: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    parts = Parts(config, loop)
    with contextlib.closing(parts):
        server = LimitedServer(
            parts.most_sockets,
            parts.application(),
            idle_connection_timeout=_IDLE_SECONDS,
            body_timeout=_IDLE_SECONDS,
            max_body_size=config["max_message"],
            ssl_options=parts.tls,
        )
        at = f"{config['host']}:{config['port']}"
        try:
            sockets = bind_sockets(config["port"], config["host"], backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(f"cannot listen on {at}: {error.strerror or error}") from None
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        # Only now: a signal that came between would end the process and leave the shared store's file behind.
        parts.announce()
        server.add_sockets(sockets)
        _tune_collector()
        host, port = sockets[0].getsockname()[:2]
        scheme = "https" if parts.tls else "http"
        await _run(parts, server, stop, lambda: on_ready(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"))


async def _run(parts: Parts, server: LimitedServer, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
    """Until it is to stop; then everything ends, feeds first."""
    if parts.recorder is not None:
        parts.recorder.start()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(runner.run()) for runner in parts.runners]
        running.append(tasks.create_task(_check(parts)))
        on_ready()
        try:
            await stop.wait()
        finally:
            log.info("closing")
            for task in running:
                task.cancel()
            parts.close()  # before the drain: nothing more is published
            server.stop()
            parts.gate.close()
            await _drained(parts.gate)
            parts.driver.close()
            await server.close_all_connections()
            if parts.recorder is not None:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(None, parts.recorder.stop, _RECORDER_SECONDS)


def _tune_collector() -> None:
    # What is there now stays for good; the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)


async def _check(parts: Parts) -> None:
    while True:
        parts.store.beat(parts.clock.now_ns())
        await asyncio.sleep(_CHECK_SECONDS)
        parts.gate.check()
        parts.bars.run()


async def _drained(gate: Gate) -> None:
    """All clients have gone, or their time is up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            await gate.emptied()
