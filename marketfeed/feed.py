"""The contract a feed implements, and how one is named on a command line.

A feed knows its venue or its files; it knows no loop, no store and no clock. :mod:`marketfeed.ingest` asks it, tells
it the time, and publishes what it gives. Feeds are found through the entry-point group ``marketfeed.feeds``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable
from urllib.parse import parse_qsl

from marketfeed.model.tick import Ticks

ENTRY_POINT_GROUP = "marketfeed.feeds"


class FeedError(Exception):
    """A feed that cannot be started: the message is one line that a user can act on."""


@dataclass(frozen=True)
class Option:
    """One setting of a feed."""

    name: str
    #: text -> value; raises ValueError, whose message says what is wanted.
    parse: Callable[[str], Any]
    default: Any
    help: str


class Control(NamedTuple):
    """One thing that a running feed can be told to do."""

    name: str
    #: text -> value, as in :class:`Option`; None = it takes no value.
    parse: Callable[[str], Any] | None
    help: str


class Poll(NamedTuple):
    """What a feed gives when it is asked."""

    #: shape (n,), TICK, n >= 0, writable: what is due now; a few thousand rows at the most. ``ts_recv`` and ``feed``
    #: are filled in by ingest. Ingest does not keep it: the feed may reuse the memory at the next poll.
    batch: Ticks
    #: when to ask again, ns since the Unix epoch (in the past = at once); None = the feed has ended.
    due_ns: int | None


class FeedContext(Protocol):
    """What ingest lends to a feed."""

    def instrument(self, symbol: str) -> int | None:
        """The id to put into ``instrument``; None = refused (bad name, or the directory is full), counted and logged.

        A feed leaves out the ticks of a refused symbol, and may ask again for it later.
        """

    def refuse(self, reason: str, count: int = 1, example: str = "") -> None:
        """Count rows that cannot be ticks; the first of each reason is logged with its example."""

    def rewound(self) -> None:
        """What is given from now on is of another time than what was given so far: a recording plays again."""


class Feed(Protocol):
    """A source of ticks.

    Constructed with its target and its options (parsed: every name of OPTIONS is there). The constructor and
    :meth:`open` raise :class:`FeedError` for what can never work: a file that is not there, a value out of range.
    Any other exception from :meth:`poll` is logged, and the feed is closed and opened again after a pause.
    """

    OPTIONS: ClassVar[tuple[Option, ...]]
    #: one line for `marketfeed feeds`.
    SUMMARY: ClassVar[str]

    def __init__(self, target: str, options: Mapping[str, Any]) -> None: ...

    def open(self, context: FeedContext, now_ns: int) -> None:
        """Begin, at this time."""

    def poll(self, now_ns: int) -> Poll:
        """What is due at this time. Takes milliseconds, not more: it runs on the server's loop."""

    def close(self) -> None:
        """Let go of files. May be called twice, or before open."""


@runtime_checkable
class ControllableFeed(Feed, Protocol):
    """A feed that can be told what to do while it runs; optional.

    Its end is no end for good: ingest does not close it, and polls it again after each control.
    """

    CONTROLS: ClassVar[tuple[Control, ...]]

    def control(self, name: str, value: Any, now_ns: int) -> None:
        """Do it: a name of CONTROLS, its parsed value (None where it takes none), at this time. The next poll follows.

        Raises:
            FeedError: that is not possible now.
        """

    def progress(self, now_ns: int) -> Mapping[str, Any]:
        """How it stands at this time: text, numbers, truth values and None by name, fit for JSON."""


_SPEC = re.compile(
    r"(?:(?P<name>[^=:?/]+)=)?(?P<type>[A-Za-z0-9_-]+)(?::(?P<target>[^?]*))?(?:\?(?P<query>.*))?", re.DOTALL
)


@dataclass(frozen=True)
class FeedSpec:
    """One feed as a user names it: ``[NAME=]TYPE:TARGET?key=value&...``."""

    name: str
    type: str
    target: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> FeedSpec:
        """Read the command line's form.

        Raises:
            FeedError: it has another form, or a key twice.
        """
        match = _SPEC.fullmatch(text)
        if not match:
            raise FeedError(f"{text!r} is not [NAME=]TYPE:TARGET?key=value&...")
        options: dict[str, str] = {}
        for key, value in parse_qsl(match["query"] or "", keep_blank_values=True):
            if key in options:
                raise FeedError(f"{text!r} gives {key!r} twice")
            options[key] = value
        return cls(match["name"] or match["type"], match["type"], match["target"] or "", options)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> FeedSpec:
        """Read the configuration file's form: a table with ``type``, and if wanted ``name``, ``target`` and options.

        Raises:
            FeedError: no type, or a value that is neither text, number nor truth value.
        """
        options = {}
        for key, value in table.items():
            if isinstance(value, bool):
                options[key] = "true" if value else "false"
            elif isinstance(value, str | int | float):
                options[key] = str(value)
            else:
                raise FeedError(f"a feed's {key!r} is text, a number or true/false, not {value!r}")
        kind = options.pop("type", "")
        if not kind:
            raise FeedError(f"a feed's table needs a type: {dict(table)!r}")
        return cls(options.pop("name", kind), kind, options.pop("target", ""), options)

    def build(self) -> Feed:
        """Make the feed.

        Raises:
            FeedError: no such type, an unknown option, a value that is not possible.
        """
        # Only this type is loaded: another one that lacks its extra is no hindrance.
        types = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
        if self.type not in types:
            raise FeedError(f"no feed type {self.type!r}; there are: {', '.join(sorted(types))}")
        cls: type[Feed] = types[self.type].load()
        return cls(self.target, parse_options(self.type, cls.OPTIONS, self.options))


def feed_types() -> dict[str, type[Feed]]:
    """Every feed type that is installed, by name."""
    return {entry.name: entry.load() for entry in entry_points(group=ENTRY_POINT_GROUP)}


def parse_options(feed_type: str, options: Sequence[Option], given: Mapping[str, str]) -> dict[str, Any]:
    """Every option's value, the default where none is given.

    Raises:
        FeedError: an unknown name (the message names the known ones), or a value that does not parse.
    """
    known = {option.name: option for option in options}
    for name in given:
        if name not in known:
            raise FeedError(f"feed {feed_type!r} has no option {name!r}; it has: {', '.join(known) or 'none'}")
    values = {}
    for option in options:
        if option.name not in given:
            values[option.name] = option.default
            continue
        try:
            values[option.name] = option.parse(given[option.name])
        except ValueError as error:
            raise FeedError(f"feed {feed_type!r}: {option.name}={given[option.name]}: {error}") from None
    return values


def run_control(feed: Feed, name: str, text: str | None, now_ns: int) -> None:
    """Have a feed do what a user asks for.

    Raises:
        FeedError: it takes no controls, or none of that name (the message names those it takes); a value that does not
            parse, is missing, or is too much; or it is not possible now.
    """
    if not isinstance(feed, ControllableFeed):
        raise FeedError("this feed takes no controls")
    known = {control.name: control for control in feed.CONTROLS}
    if name not in known:
        raise FeedError(f"no control {name!r}; there are: {', '.join(known)}")
    parse = known[name].parse
    if (parse is None) != (text is None):
        raise FeedError(f"{name} takes {'no' if parse is None else 'a'} value")
    try:
        value = None if parse is None or text is None else parse(text)
    except ValueError as error:
        raise FeedError(f"{name} {text}: {error}") from None
    feed.control(name, value, now_ns)
