"""The composition root: makes every part, runs them, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import ssl
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from tornado.netutil import bind_sockets

from marketfeed.bars import BarStage
from marketfeed.feed import FeedError
from marketfeed.ingest import FeedRunner
from marketfeed.model.bars import DEFAULT_SECONDS
from marketfeed.model.clock import Clock, SystemClock
from marketfeed.model.shared import SharedStore, ShareError
from marketfeed.model.store import TickStore
from marketfeed.server import admin
from marketfeed.server.app import make_app
from marketfeed.server.auth import authenticator
from marketfeed.server.bar_driver import BarDriver
from marketfeed.server.config import Config, ConfigError
from marketfeed.server.driver import Driver
from marketfeed.server.history.handlers import History
from marketfeed.server.history.handlers import routes as history_routes
from marketfeed.server.limited import LimitedServer
from marketfeed.stream.hub import Hub
from marketfeed.stream.session import Authenticate
from marketfeed.transports.base import Gate, Limits
from marketfeed.transports.senders import best_sender

if TYPE_CHECKING:
    from marketfeed.recording.recorder import Recorder

log = logging.getLogger("marketfeed.server")

#: Descriptors kept free for files, the listening socket and libraries.
_SPARE_DESCRIPTORS = 64
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
    with contextlib.ExitStack() as cleanup:
        shared = _shared(config)
        if shared is not None:
            cleanup.callback(shared.close)
        await _serve_from(shared.store if shared else _on_heap(config), shared, config, on_ready)


def _shared(config: Config) -> SharedStore | None:
    """The store that other processes may read, where that was asked for."""
    if not config["share"]:
        return None
    try:
        shared = SharedStore(config["share"], config["ring_ticks"], config["instruments"], config["share_dir"])
    except ShareError as error:
        raise ConfigError(f"share: {error}") from None
    for path in shared.removed:
        log.warning("removed %s: its server ended without doing so", path)
    return shared


def _announce(shared: SharedStore | None, clock: Clock) -> None:
    try:
        if shared is not None:
            shared.announce(clock.now_ns())
    except ShareError as error:
        raise ConfigError(f"share: {error}") from None


def _on_heap(config: Config) -> TickStore:
    try:
        return TickStore.create(config["ring_ticks"], config["instruments"])
    except MemoryError:
        raise ConfigError(f"not enough memory for ring_ticks = {config['ring_ticks']:,}") from None


async def _serve_from(
    store: TickStore, shared: SharedStore | None, config: Config, on_ready: Callable[[str], None]
) -> None:
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    recorder = _recorder(store, config["record"]) if config["record"] else None
    hub = Hub(store, config["coalesce_ms"] / 1000, sender=best_sender())
    driver = Driver(hub, loop)
    bars = _bars(config, hub, driver, clock, loop)

    def published() -> None:
        driver.published()
        bars.published()

    runners = _runners(config, store, clock, published, bars.ended)
    limits = Limits(
        connections=_connections(config["max_connections"]),
        symbols=config["max_symbols"],
        globs=config["max_globs"],
        message_bytes=config["max_message"],
        write_seconds=config["write_timeout"],
        poll_seconds=config["poll_timeout"],
        compression=config["compression"] == "deflate",
    )
    gate = Gate(hub, driver.wake, driver.clock, version("marketfeed"), limits, _authenticate(config))
    history = History(
        store, gate, monotonic, config["max_requests"], config["request_timeout"], config["write_timeout"]
    )
    feeds = {runner.name: runner for runner in runners}
    app = make_app(
        gate,
        lambda: _status(store, hub, bars.stage, gate, history, runners, recorder),
        config["origin"],
        [*history_routes(history), *admin.routes(feeds)],
    )
    tls = _tls(config)
    server = LimitedServer(
        _descriptors() - _SPARE_DESCRIPTORS,
        app,
        idle_connection_timeout=_IDLE_SECONDS,
        body_timeout=_IDLE_SECONDS,
        max_body_size=config["max_message"],
        ssl_options=tls,
    )
    try:
        sockets = bind_sockets(config["port"], config["host"], backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {config['host']}:{config['port']}: {error.strerror or error}") from None
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # Only now: a signal that came between would end the process and leave the file behind.
    _announce(shared, clock)
    server.add_sockets(sockets)
    _tune_collector()
    if recorder is not None:
        recorder.start()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(runner.run()) for runner in runners]
        running.append(tasks.create_task(_check(gate, store, bars, clock)))
        host, port = sockets[0].getsockname()[:2]
        on_ready(f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}")
        try:
            await stop.wait()
        finally:
            log.info("closing")
            for task in running:
                task.cancel()
            for runner in runners:
                runner.close()
            if shared is not None:
                shared.close()  # before the drain: nothing more is published
            server.stop()
            gate.close()
            await _drained(gate)
            bars.close()
            driver.close()
            await server.close_all_connections()
            if recorder is not None:
                await loop.run_in_executor(None, recorder.stop, _RECORDER_SECONDS)


def _recorder(store: TickStore, folder: str) -> Recorder:
    """What records the store, not started yet; pyarrow is imported only where it is wanted."""
    try:
        from marketfeed.recording.folder import FolderBusy, RecordingFolder
        from marketfeed.recording.hour import reason
        from marketfeed.recording.recorder import Recorder
    except ModuleNotFoundError:
        raise ConfigError("record needs pyarrow: pip install marketfeed[parquet]") from None
    clock = SystemClock()
    try:
        return Recorder(store, RecordingFolder(Path(folder).expanduser(), clock), clock)
    except (OSError, FolderBusy) as error:
        raise ConfigError(f"cannot record into {folder}: {reason(error)}") from None


def _tune_collector() -> None:
    # What is there now stays for good; the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)


def _bars(config: Config, hub: Hub, driver: Driver, clock: Clock, loop: asyncio.AbstractEventLoop) -> BarDriver:
    always = (DEFAULT_SECONDS,) if config["minute_bars"] == "always" else ()
    stage = BarStage(hub.store, clock, hub.bar_lengths, always)
    return BarDriver(stage, hub.store.ring.capacity, loop, driver.published)


def _runners(
    config: Config, store: TickStore, clock: Clock, on_publish: Callable[[], None], on_end: Callable[[int], None]
) -> list[FeedRunner]:
    runners = []
    for spec in config.feeds:
        try:
            runners.append(FeedRunner(spec.name, spec.build(), store, clock, on_publish, on_end=on_end))
        except FeedError as error:
            raise FeedError(f"feed {spec.name}: {error}") from None
    return runners


async def _check(gate: Gate, store: TickStore, bars: BarDriver, clock: Clock) -> None:
    while True:
        store.beat(clock.now_ns())
        await asyncio.sleep(_CHECK_SECONDS)
        gate.check()
        bars.run()


async def _drained(gate: Gate) -> None:
    """All clients have gone, or their time is up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            await gate.emptied()


def _descriptors() -> int:
    """How many files and sockets this process may have open: as many as it may be allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def _connections(wanted: int) -> int:
    """How many sessions there may be, so that there is room to turn others away in order."""
    possible = _descriptors() - 2 * _SPARE_DESCRIPTORS
    if possible < wanted:
        log.warning("at most %d connections instead of %d: the limit of open files", possible, wanted)
        return max(1, possible)
    return wanted


def _authenticate(config: Config) -> Authenticate | None:
    try:
        return authenticator(config["key"])
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _tls(config: Config) -> ssl.SSLContext | None:
    if not config["certfile"]:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config["certfile"], config["keyfile"] or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use certificate {config['certfile']}: {error}") from None
    return context


def _status(
    store: TickStore,
    hub: Hub,
    stage: BarStage,
    gate: Gate,
    history: History,
    runners: Sequence[FeedRunner],
    recorder: Recorder | None,
) -> dict[str, Any]:
    """Counters since the start; every loss is in here."""
    told = {
        "epoch": store.epoch,
        "seq": store.ring.head,
        "oldest_seq": store.ring.oldest,
        "instruments": len(store.directory),
        "connections": len(gate),
        "delivered": vars(hub.stats),
        "bars": vars(stage.stats),
        "history": vars(history.pace.stats),
        "feeds": {runner.name: _feed_status(runner) for runner in runners},
    }
    return told if recorder is None else {**told, "recording": recorder.status()}


def _feed_status(runner: FeedRunner) -> dict[str, Any]:
    told = {**vars(runner.stats), "refused": dict(runner.stats.refused)}
    return {**told, "progress": runner.progress()} if runner.controls else told
