"""The composition root: makes every part, runs them, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import resource
import signal
import ssl
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from tornado.netutil import bind_sockets

from marketfeed.feed import FeedError
from marketfeed.ingest import FeedRunner
from marketfeed.model.clock import SystemClock
from marketfeed.model.store import TickStore
from marketfeed.server.app import make_app
from marketfeed.server.auth import authenticator
from marketfeed.server.config import Config, ConfigError
from marketfeed.server.driver import Driver
from marketfeed.server.limited import LimitedServer
from marketfeed.stream.hub import Hub
from marketfeed.transports.base import Gate, Limits

log = logging.getLogger("marketfeed.server")

#: Descriptors kept free for files, the listening socket and libraries.
_SPARE_DESCRIPTORS = 64
#: Idle HTTP connections, and those that are slow with their headers, are closed after so long.
_IDLE_SECONDS = 10.0
_DRAIN_SECONDS = 5.0
_CHECK_SECONDS = 1.0
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
    try:
        store = TickStore.create(config["ring_ticks"], config["instruments"])
    except MemoryError:
        raise ConfigError(f"not enough memory for ring_ticks = {config['ring_ticks']:,}") from None
    hub = Hub(store, config["coalesce_ms"] / 1000)
    driver = Driver(hub, loop)
    runners = []
    for spec in config.feeds:
        try:
            runners.append(FeedRunner(spec.name, spec.build(), store, SystemClock(), driver.published))
        except FeedError as error:
            raise FeedError(f"feed {spec.name}: {error}") from None
    try:
        keys = authenticator(config["key"])
    except ValueError as error:
        raise ConfigError(str(error)) from None
    hosts = _hosts(config)
    limits, sockets_at_most = _limits(config, len(hosts))
    gate = Gate(hub, driver.wake, driver.clock, version("marketfeed"), limits, keys)
    app = make_app(gate, lambda: _status(store, hub, gate, runners), config["origin"], hosts)
    tls = _tls(config)
    server = LimitedServer(
        sockets_at_most,
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
    server.add_sockets(sockets)

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # What is there now stays for good; the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(runner.run()) for runner in runners]
        running.append(tasks.create_task(_check(gate)))
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
            server.stop()
            gate.close()
            await _drained(gate)
            driver.close()
            await server.close_all_connections()


async def _check(gate: Gate) -> None:
    while True:
        await asyncio.sleep(_CHECK_SECONDS)
        gate.check()


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


def _limits(config: Config, hosts: int) -> tuple[Limits, int]:
    """What clients may use, and how many connections may be accepted.

    Args:
        hosts: addresses at which each WebRTC connection has a socket of its own; 0 = one.
    """
    sockets_each = max(1, hosts)
    peers = min(config["max_peers"], _descriptors() // 4 // sockets_each)
    spare = _SPARE_DESCRIPTORS + peers * sockets_each
    limits = Limits(
        connections=_connections(config["max_connections"], spare),
        symbols=config["max_symbols"],
        globs=config["max_globs"],
        message_bytes=config["max_message"],
        write_seconds=config["write_timeout"],
        poll_seconds=config["poll_timeout"],
        peers=peers,
    )
    return limits, _descriptors() - spare


def _connections(wanted: int, spare: int) -> int:
    """How many sessions there may be, so that there is room to turn others away in order."""
    possible = _descriptors() - spare - _SPARE_DESCRIPTORS
    if possible < wanted:
        log.warning("at most %d connections instead of %d: the limit of open files", possible, wanted)
        return max(1, possible)
    return wanted


def _hosts(config: Config) -> tuple[str, ...]:
    for host in config["webrtc_host"]:
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise ConfigError(f"webrtc_host: {error}") from None
    hosts: tuple[str, ...] = config["webrtc_host"]
    return hosts


def _tls(config: Config) -> ssl.SSLContext | None:
    if not config["certfile"]:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config["certfile"], config["keyfile"] or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use certificate {config['certfile']}: {error}") from None
    return context


def _status(store: TickStore, hub: Hub, gate: Gate, runners: Sequence[FeedRunner]) -> dict[str, Any]:
    """Counters since the start; every loss is in here."""
    return {
        "epoch": store.epoch,
        "seq": store.ring.head,
        "oldest_seq": store.ring.oldest,
        "instruments": len(store.directory),
        "connections": len(gate),
        "delivered": vars(hub.stats),
        "feeds": {runner.name: {**vars(runner.stats), "refused": dict(runner.stats.refused)} for runner in runners},
    }
