"""Any interleaving of subscribe, unsubscribe, publish, flush, stall and resume gives what a list and a loop say."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import marketfeed.stream.frames as made_here
from marketfeed.model import BAR, empty_ticks
from marketfeed.model.bars import BAR_RECORD, DEFAULT_SECONDS
from marketfeed.stream.session import Session
from tests.unit.stream.support import QUOTE, TRADE, ListLink, Market

SYMBOLS = ["A", "AB", "ABC", "B"]
PATTERNS = [*SYMBOLS, "*", "A*", "?", "s:A", "s:A*"]
KINDS = {"quotes": QUOTE, "trades": TRADE, "bars": BAR}
TICK_CHANNELS = ["quotes", "trades"]
#: Key of the price in a message of each type, and the kind of what it tells.
TYPES = {"q": ("bp", QUOTE), "t": ("p", TRADE), "b": ("c", BAR)}
HZ = 50.0
RING = 32
LARGE = "size >= 50 or bid_size >= 50"
#: How symbols may be wanted: the options of a command.
TICK_MODES = {
    "every": {},
    "throttled": {"max_hz": HZ},
    "large": {"where": LARGE},
    "large throttled": {"where": LARGE, "max_hz": HZ},
    "prices": {"fields": [key for key, _ in TYPES.values()]},
}
BAR_MODES = {
    "every": {},
    "prices": TICK_MODES["prices"],
    "short bars": {"bar_seconds": 5},
}
MODES = TICK_MODES | BAR_MODES
#: encoding, and whether there is a wire
CLIENTS = [
    ("json", True),
    ("json", True),
    ("json", False),
    ("msgpack", True),
    ("msgpack", False),
    ("binary", True),
    ("binary", False),
]
WHO = st.integers(0, len(CLIENTS) - 1)


class Told(NamedTuple):
    """Something that was published."""

    seq: int
    kind: int
    symbol: str
    large: bool
    seconds: int

    def wanted(self, mode: str) -> bool:
        """Whether it is meant by who wants its symbol so."""
        if self.kind == BAR:
            return self.seconds == (5 if mode == "short bars" else DEFAULT_SECONDS)
        return self.large or not mode.startswith("large")


def patterns_of(channels: list[str]) -> st.SearchStrategy[list[tuple[str, str]]]:
    return st.lists(st.tuples(st.sampled_from(channels), st.sampled_from(PATTERNS)), min_size=1, max_size=3)


def specificity(pattern: str, symbol: str) -> tuple | None:
    """How specific a pattern is for a symbol of feed s; None = it does not match. Written out by hand."""
    matches = {
        "*": True,
        "A*": symbol.startswith("A"),
        "?": len(symbol) == 1,
        "s:A": symbol == "A",
        "s:A*": symbol.startswith("A"),
    }.get(pattern, pattern == symbol)
    order = ["s:A", *SYMBOLS, "s:A*", "A*", "*", "?"]
    return order.index(pattern) if matches else None


@dataclass
class Wish:
    """What one client wants of one (kind, symbol) now."""

    mode: str
    #: every tick after this, or a gap that covers it
    after: int
    #: sequence numbers that came since the wish began
    got: list[int] = field(default_factory=list)

    @property
    def every(self) -> bool:
        return "throttled" not in self.mode


class Client:
    """One client, and what the model says of it."""

    def __init__(self, market: Market, told: list[Told], encoding: str, wired: bool) -> None:
        self.market = market
        self.told = told
        self.encoding = encoding
        self.session: Session
        self.link: ListLink
        self.session, self.link = market.session(encoding=encoding, wired=wired)
        #: how each (kind, pattern) is wanted
        self.state: dict[tuple[int, str], str] = {}
        self.wishes: dict[tuple[int, str], Wish] = {}
        self.gaps: list[tuple[int, int]] = []
        self.read = 0
        #: sent and not answered yet: (keys, one of MODES or None, start)
        self.commands: deque[tuple[set[tuple[int, str]], str | None, str]] = deque()

    def owner(self, kind: int, symbol: str) -> tuple[int, str] | None:
        ranked = [(rank, (k, p)) for k, p in self.state if k == kind and (rank := specificity(p, symbol)) is not None]
        return min(ranked)[1] if ranked else None

    def answered(self, position: int) -> None:
        """The oldest command has been carried out: what does the model want of each symbol now?"""
        keys, mode, start = self.commands.popleft()
        for key in keys:
            if mode is None:
                self.state.pop(key, None)
            else:
                self.state[key] = mode
        for kind in KINDS.values():
            for symbol in SYMBOLS:
                key, owner = (kind, symbol), self.owner(kind, symbol)
                if owner is None:
                    self.wishes.pop(key, None)
                    continue
                wish = Wish(self.state[owner], position)
                old = self.wishes.get(key)
                if owner in keys and start != "now":
                    self.wishes[key] = wish
                    if "snapshot" in start and not wish.every:
                        # A snapshot of a throttled symbol is its latest, whenever that was.
                        wish.after = 0
                elif old is None or old.mode != wish.mode:
                    self.wishes[key] = wish

    def take_in(self) -> None:
        """Look at what has newly come."""
        messages = self.link.messages()
        for message in messages[self.read :]:
            if message["T"] == "subscription":
                self.answered(message["seq"])
            elif message["T"] == "gap":
                self.gaps.append((message["from"], message["to"]))
            else:
                price, kind = TYPES[message["T"]]
                key = (kind, message["S"])
                told = self.told[message["seq"] - 1]
                assert (told.kind, told.symbol) == key, "a tick that was never published"
                assert message[price] == float(message["seq"]), "another tick's price"
                wish = self.wishes.get(key)
                assert wish is not None, "a tick that nobody asked for"
                assert told.wanted(wish.mode), "a tick that was not meant"
                assert (message.keys() <= {"T", "S", "f", "seq", "sec", price}) == (wish.mode == "prices")
                last = wish.got[-1] if wish.got else 0
                # What a throttled symbol's latest is may be told again; nothing else may.
                assert message["seq"] > last or (message["seq"] == last and not wish.every), "twice, or out of order"
                wish.got.append(message["seq"])
        self.read = len(messages)

    def settled(self) -> None:
        """Everything is quiet: all that was promised has come."""
        for (kind, symbol), wish in self.wishes.items():
            mine = [told for told in self.told if (told.kind, told.symbol) == (kind, symbol) and told.seq > wish.after]
            if wish.every:
                for told in mine:
                    if told.wanted(wish.mode) and not any(a <= told.seq <= b for a, b in self.gaps):
                        assert told.seq in wish.got, f"tick {told.seq} of {symbol} never came and no gap tells of it"
            elif mine and mine[-1].wanted(wish.mode):
                assert wish.got, f"{symbol} changed and nothing came"
                assert wish.got[-1] == mine[-1].seq, f"{symbol} does not end on its last value"


class Delivery(RuleBasedStateMachine):
    @initialize(buffer_bytes=st.sampled_from([1, 700, 4 << 20]), subscribed=st.booleans())
    def begin(self, buffer_bytes, subscribed) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(made_here, "_BUFFER_BYTES", buffer_bytes)
        self.market = Market(ticks=RING, instruments=8)
        self.market.store.directory.add_feed("s")
        self.told: list[Told] = []
        self.clients = [Client(self.market, self.told, *how) for how in CLIENTS]
        #: those who have left, and how many frames they had by then
        self.left: list[tuple[ListLink, int]] = []
        for who in range(len(CLIENTS) if subscribed else 0):
            # Each of them alone in its group, and all in one flush.
            self.subscribe(who, ([("quotes", PATTERNS[who]), ("trades", "*")], "every"), "now", 0)

    @rule(
        who=WHO,
        what=st.tuples(patterns_of(TICK_CHANNELS), st.sampled_from(list(TICK_MODES)))
        | st.tuples(patterns_of(["bars", *KINDS]), st.sampled_from(list(BAR_MODES))),
        start=st.sampled_from(["now", "snapshot", "since", "snapshot since"]),
        back=st.integers(0, 50),
    )
    def subscribe(self, who, what, start, back) -> None:
        client, (patterns, mode) = self.clients[who], what
        if mode == "prices" and client.encoding == "binary":
            mode = "every"  # its records are whole
        if mode == "short bars":
            # There is no snapshot of these, and no command for them without one.
            start = {"snapshot": "now", "snapshot since": "since"}.get(start, start)
            patterns = [*patterns, ("bars", "A")]
        command = {"action": "subscribe", **MODES[mode]}
        for channel, pattern in patterns:
            command.setdefault(channel, []).append(pattern)
        if "snapshot" in start:
            command["snapshot"] = True
        if "since" in start:
            command["since"] = {"epoch": self.market.store.epoch, "seq": max(0, self.market.store.ring.head - back)}
        keys = {(KINDS[channel], pattern) for channel, pattern in patterns}
        client.commands.append((keys, mode, start))
        self.market.command(client.session, **command)

    @rule(who=WHO, channel=st.sampled_from(list(KINDS)), pattern=st.sampled_from(PATTERNS))
    def unsubscribe(self, who, channel, pattern) -> None:
        client = self.clients[who]
        client.commands.append(({(KINDS[channel], pattern)}, None, "now"))
        self.market.command(client.session, action="unsubscribe", **{channel: [pattern]})

    @rule(
        rows=st.lists(
            st.tuples(st.sampled_from(SYMBOLS), st.sampled_from([QUOTE, TRADE, QUOTE, TRADE, BAR]), st.booleans()),
            min_size=1,
            max_size=9,
        )
    )
    def publish(self, rows) -> None:
        head = self.market.store.ring.head
        batch = empty_ticks(len(rows))
        bars = batch.view(BAR_RECORD)
        batch["ts_event"] = 1_700_000_000_000_000_000
        for n, (symbol, kind, large) in enumerate(rows):
            seconds = DEFAULT_SECONDS if large else 5
            batch["instrument"][n], batch["kind"][n] = self.market.instrument(symbol, "s"), kind
            price, size = float(head + n + 1), 100.0 if large else 1.0
            if kind == QUOTE:
                batch["bid"][n], batch["bid_size"][n] = price, size
            elif kind == TRADE:
                batch["price"][n], batch["size"][n] = price, size
            else:
                bars["seconds"][n], bars["close"][n] = seconds, price
            self.told.append(Told(head + n + 1, kind, symbol, large, seconds))
        self.market.store.publish(batch)

    @rule(who=WHO)
    def come_again(self, who) -> None:
        """A client leaves, and another one has its wire at once."""
        old = self.clients[who]
        old.take_in()
        wire = old.link.wire
        old.session.closed()
        self.left.append((old.link, len(old.link.frames)))
        self.clients[who] = client = Client(self.market, self.told, *CLIENTS[who])
        if wire >= 0:
            client.link.wire = wire
            self.market._wired[wire] = client.link

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.005, 0.02]))
    def run(self, seconds) -> None:
        self.market.run(seconds)

    @rule(who=WHO, room=st.integers(0, 3))
    def stall(self, who, room) -> None:
        if not self.clients[who].link.full:
            self.clients[who].link.room = room

    @rule(who=WHO, room=st.sampled_from([1, 2, 1 << 60]))
    def drain(self, who, room) -> None:
        self.clients[who].link.drain(self.clients[who].session, room)

    @rule()
    def settle(self) -> None:
        for client in self.clients:
            client.link.drain(client.session)
        for _ in range(4):
            self.market.run(1.0)
        for client in self.clients:
            client.take_in()
            assert not client.commands, "a command was not answered"
            client.settled()

    @invariant()
    def nothing_is_queued(self) -> None:
        for client in getattr(self, "clients", []):
            assert not client.link.closed
            client.take_in()
        for link, frames in getattr(self, "left", []):
            assert len(link.frames) == frames, "something came for who has left"

    def teardown(self) -> None:
        if hasattr(self, "clients"):
            try:
                self.settle()
            finally:
                self.patch.undo()


# The same examples every time: a change is judged by what it does, not by luck. `make soak` looks at new ones.
SOAK = int(os.environ.get("MARKETFEED_SOAK", "0"))
Delivery.TestCase.settings = settings(
    max_examples=SOAK or 100, stateful_step_count=40 if SOAK else 30, deadline=None, derandomize=not SOAK, database=None
)
TestDelivery = Delivery.TestCase
