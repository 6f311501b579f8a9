"""Every part of a server, made and joined as the settings say; nothing runs yet."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from tornado.web import Application

from marketfeed.bars import BarStage
from marketfeed.feed import FeedError
from marketfeed.ingest import FeedRunner
from marketfeed.model.bars import DEFAULT_SECONDS
from marketfeed.model.clock import Clock, SystemClock
from marketfeed.model.shared import SharedStore, ShareError
from marketfeed.model.store import TickStore
from marketfeed.server import admin
from marketfeed.server.alarm import Alarm, LoopTimer, best_alarm
from marketfeed.server.app import make_app
from marketfeed.server.auth import authenticator
from marketfeed.server.bar_driver import BarDriver
from marketfeed.server.config import Config, ConfigError
from marketfeed.server.driver import Driver
from marketfeed.server.history.handlers import History
from marketfeed.server.history.handlers import routes as history_routes
from marketfeed.server.open_files import client_limits
from marketfeed.stream.hub import Hub
from marketfeed.stream.session import Authenticate
from marketfeed.transports import optional
from marketfeed.transports.base import Gate
from marketfeed.transports.senders import best_sender

if TYPE_CHECKING:
    from marketfeed.recording.recorder import Recorder

log = logging.getLogger("marketfeed.server")


class Parts:
    """What a server consists of.

    Attributes:
        shared: the store's file, where other processes may read it.
        recorder: where everything is recorded.
        most_sockets: how many may be accepted.

    Raises:
        ConfigError, FeedError: it cannot be; the message is one line that a user can act on.
    """

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.clock = SystemClock()
        self.shared = _shared(config)
        self._alarms: list[Alarm | LoopTimer] = []
        try:
            self._make(config, loop)
        except BaseException:
            self.close()
            raise

    def _make(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self._optional = optional.load(config["without"])  # before there are feeds, whose time would run meanwhile
        self.store = store = self.shared.store if self.shared is not None else _on_heap(config)
        self.recorder = _recorder(store, config["record"], self.clock) if config["record"] else None
        self.hub = Hub(store, config["coalesce_ms"] / 1000, sender=best_sender())
        self.driver = Driver(self.hub, loop)
        self.bars = _bars(config, self.hub, self.driver, self.clock, loop)
        self.runners = self._runners(config, loop)
        self.hosts = _hosts(config)
        limits, self.most_sockets = client_limits(config, len(self.hosts))
        driver = self.driver
        self.gate = Gate(self.hub, driver.wake, driver.clock, version("marketfeed"), limits, _authenticate(config))
        self.history = History(
            store, self.gate, monotonic, config["max_requests"], config["request_timeout"], config["write_timeout"]
        )
        self._origins = config["origin"]
        self.tls = _tls(config)

    def _published(self) -> None:
        self.driver.published()
        self.bars.published()

    def _runners(self, config: Config, loop: asyncio.AbstractEventLoop) -> list[FeedRunner]:
        runners = []
        for spec in config.feeds:
            alarm = best_alarm(loop)
            self._alarms.append(alarm)
            try:
                feed = spec.build()
                runners.append(
                    FeedRunner(
                        spec.name, feed, self.store, self.clock, self._published, on_end=self.bars.ended, later=alarm
                    )
                )
            except FeedError as error:
                raise FeedError(f"feed {spec.name}: {error}") from None
        return runners

    def application(self) -> Application:
        """All that is served over HTTP."""
        feeds = {runner.name: runner for runner in self.runners}
        more = [*optional.routes(self._optional, self.gate), *history_routes(self.history), *admin.routes(feeds)]
        return make_app(self.gate, self.status, self._origins, self.hosts, more)

    def announce(self) -> None:
        """From now on other processes find the store, where they may read it."""
        try:
            if self.shared is not None:
                self.shared.announce(self.clock.now_ns())
        except ShareError as error:
            raise ConfigError(f"share: {error}") from None

    def close(self) -> None:
        """Nothing more is published: let go of feeds and of the store's file. May be called twice."""
        if hasattr(self, "bars"):
            self.bars.close()
        for runner in getattr(self, "runners", ()):
            runner.close()
        for alarm in self._alarms:
            alarm.close()
        if self.shared is not None:
            self.shared.close()

    def status(self) -> dict[str, Any]:
        """Counters since the start; every loss is in here."""
        told = {
            "epoch": self.store.epoch,
            "seq": self.store.ring.head,
            "oldest_seq": self.store.ring.oldest,
            "instruments": len(self.store.directory),
            "connections": len(self.gate),
            "delivered": vars(self.hub.stats),
            "bars": vars(self.bars.stage.stats),
            "history": vars(self.history.pace.stats),
            "feeds": {runner.name: _feed_status(runner) for runner in self.runners},
        }
        return told if self.recorder is None else {**told, "recording": self.recorder.status()}


def _feed_status(runner: FeedRunner) -> dict[str, Any]:
    told = {**vars(runner.stats), "refused": dict(runner.stats.refused)}
    return {**told, "progress": runner.progress()} if runner.controls else told


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


def _on_heap(config: Config) -> TickStore:
    try:
        return TickStore.create(config["ring_ticks"], config["instruments"])
    except MemoryError:
        raise ConfigError(f"not enough memory for ring_ticks = {config['ring_ticks']:,}") from None


def _recorder(store: TickStore, folder: str, clock: Clock) -> Recorder:
    """What records the store, not started yet; pyarrow is imported only where it is wanted."""
    try:
        from marketfeed.recording.folder import FolderBusy, RecordingFolder
        from marketfeed.recording.hour import reason
        from marketfeed.recording.recorder import Recorder
    except ModuleNotFoundError:
        raise ConfigError("record needs pyarrow: pip install marketfeed[parquet]") from None
    try:
        return Recorder(store, RecordingFolder(Path(folder).expanduser(), clock), clock)
    except (OSError, FolderBusy) as error:
        raise ConfigError(f"cannot record into {folder}: {reason(error)}") from None


def _bars(config: Config, hub: Hub, driver: Driver, clock: Clock, loop: asyncio.AbstractEventLoop) -> BarDriver:
    always = (DEFAULT_SECONDS,) if config["minute_bars"] == "always" else ()
    stage = BarStage(hub.store, clock, hub.bar_lengths, always)
    return BarDriver(stage, hub.store.ring.capacity, loop, driver.published)


def _authenticate(config: Config) -> Authenticate | None:
    try:
        return authenticator(config["key"])
    except ValueError as error:
        raise ConfigError(str(error)) from None


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
