"""Settings are data: each with its name, type, default, unit and help. The command line and the file have the same."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from marketfeed.feed import FeedError, FeedSpec
from marketfeed.model.shared import DIRECTORY
from marketfeed.model.store import DEFAULT_INSTRUMENTS, DEFAULT_TICKS


class ConfigError(Exception):
    """A setting that is not possible: the message is one line that a user can act on."""


@dataclass(frozen=True)
class Setting:
    """One setting."""

    name: str
    type: type[int] | type[float] | type[str]
    default: Any
    unit: str
    help: str
    #: may be given many times; the value is a tuple
    many: bool = False
    least: float = -inf
    most: float = inf
    power_of_two: bool = False
    choices: tuple[str, ...] = ()


SETTINGS: tuple[Setting, ...] = (
    Setting("host", str, "127.0.0.1", "address", "listen here"),
    Setting("port", int, 8000, "TCP port", "listen on this one; 0 = any that is free", least=0, most=65_535),
    Setting(
        "coalesce_ms",
        float,
        5.0,
        "ms",
        "while ticks keep coming, the longest that one waits for others",
        least=0.1,
        most=1000,
    ),
    Setting(
        "ring_ticks",
        int,
        DEFAULT_TICKS,
        "ticks",
        "how many the ring holds; a power of two",
        least=1024,
        most=1 << 30,
        power_of_two=True,
    ),
    Setting("instruments", int, DEFAULT_INSTRUMENTS, "instruments", "how many there may be", least=1, most=1 << 24),
    Setting(
        "minute_bars",
        str,
        "always",
        "always or wanted",
        "when bars of 60 s are made; wanted = while somebody is subscribed to them, as of other lengths",
        choices=("always", "wanted"),
    ),
    Setting("share", str, "", "name", "under which processes of this machine read the ring with `marketfeed.attach`"),
    Setting("share_dir", str, DIRECTORY, "path", "where the shared ring's file is; memory, not a disk"),
    Setting("key", str, (), "KEY:SECRET or TOKEN", "who may subscribe; none = everybody", many=True),
    Setting("origin", str, (), "URL", "pages of this origin may connect too; * = any", many=True),
    Setting("max_connections", int, 10_000, "connections", "how many there may be at a time", least=1, most=1_000_000),
    Setting("max_symbols", int, 10_000, "symbols", "how many one connection may subscribe to", least=1, most=1_000_000),
    Setting("max_globs", int, 100, "globs", "how many of them may be globs", least=0, most=1_000_000),
    Setting("max_rules", int, 100, "rules", "of how many different options they may be", least=1, most=10_000),
    Setting("max_message", int, 65_536, "bytes", "how long a client's message may be", least=1024, most=1 << 26),
    Setting("max_requests", int, 64, "requests", "how many for history there may be at a time", least=1, most=10_000),
    Setting("request_timeout", float, 10.0, "s", "how long one for history may be worked on", least=0.1, most=3600),
    Setting("write_timeout", float, 60.0, "s", "cut a client that takes nothing for so long", least=1, most=86_400),
    Setting(
        "poll_timeout", float, 60.0, "s", "end a long poll that is not asked again for so long", least=5, most=86_400
    ),
    Setting("compression", str, "off", "kind", "what WebSocket clients may ask for", choices=("off", "deflate")),
    Setting(
        "without",
        str,
        (),
        "transport",
        "do not load and serve this one, though it is installed",
        many=True,
        choices=("socketio", "webrtc"),
    ),
    Setting("record", str, "", "folder", "every quote and trade goes into Parquet files in it"),
    Setting(
        "max_peers", int, 100, "connections", "how many WebRTC connections there may be at a time", least=0, most=10_000
    ),
    Setting(
        "webrtc_host", str, (), "IP address", "tell WebRTC clients this one; none = where they reached us", many=True
    ),
    Setting("certfile", str, "", "path", "TLS certificate chain, PEM"),
    Setting("keyfile", str, "", "path", "TLS private key, PEM"),
    Setting(
        "log_level", str, "info", "level", "what is written to stderr", choices=("debug", "info", "warning", "error")
    ),
)


@dataclass(frozen=True)
class Config:
    """Every setting's value, by name, and the feeds."""

    values: Mapping[str, Any]
    feeds: tuple[FeedSpec, ...]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


_TYPES = {int: "a whole number", float: "a number", str: "text"}


def load(path: str | None, given: Mapping[str, Any], feeds: tuple[str, ...]) -> Config:
    """Defaults, then the file's, then those given on the command line (None = not given).

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or not possible.
    """
    file_values, file_feeds = _read(path) if path else ({}, [])
    values = {setting.name: setting.default for setting in SETTINGS} | file_values
    values |= {name: value for name, value in given.items() if value not in (None, ())}
    for setting in SETTINGS:
        values[setting.name] = _check(setting, values[setting.name])
    if values["keyfile"] and not values["certfile"]:
        raise ConfigError("keyfile is of no use without certfile")
    try:
        specs = [FeedSpec.parse(text) for text in feeds] or file_feeds or [FeedSpec.parse("sim")]
    except FeedError as error:
        raise ConfigError(str(error)) from None
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two feeds are named {twice[0]!r}: give one another name, as in other={twice[0]}:...")
    return Config(values, tuple(specs))


def _read(path: str) -> tuple[dict[str, Any], list[FeedSpec]]:
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # not TOML, not UTF-8, or a number too long to read
        raise ConfigError(f"{path}: {error}") from None
    known = {setting.name for setting in SETTINGS}
    server, tables = document.pop("server", {}), document.pop("feeds", [])
    if document:
        raise ConfigError(f"{path}: no table [{next(iter(document))}]; there are [server] and [[feeds]]")
    if not isinstance(server, dict) or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise ConfigError(f"{path}: [server] is a table, and [[feeds]] are tables")
    for name in server:
        if name not in known:
            raise ConfigError(f"{path}: no setting {name!r} in [server]; there are: {', '.join(sorted(known))}")
    try:
        return server, [FeedSpec.from_table(table) for table in tables]
    except FeedError as error:
        raise ConfigError(f"{path}: {error}") from None


def _check(setting: Setting, value: Any) -> Any:
    if setting.many:
        items = value if isinstance(value, list | tuple) else (value,)
        return tuple(_check_one(setting, item) for item in items)
    return _check_one(setting, value)


def _check_one(setting: Setting, value: Any) -> Any:
    kind: Any = (int, float) if setting.type is float else setting.type
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"{setting.name} is {_TYPES[setting.type]} ({setting.unit}), not {value!r}")
    if not isinstance(value, str) and not setting.least <= value <= setting.most:
        raise ConfigError(f"{setting.name} is {setting.least:,} to {setting.most:,} {setting.unit}, not {value}")
    if setting.choices and value not in setting.choices:
        raise ConfigError(f"{setting.name} is one of {', '.join(setting.choices)}, not {value}")
    if setting.power_of_two and int(value).bit_count() != 1:
        raise ConfigError(f"{setting.name} is a power of two, not {value}")
    # The range was looked at before: not every integer fits into a float.
    return setting.type(value)
