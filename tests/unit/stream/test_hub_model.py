"""Any interleaving of subscribe, unsubscribe, publish, flush, stall and resume gives what a list and a loop say."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from marketfeed.stream.session import Session
from tests.unit.stream.support import QUOTE, TRADE, ListLink, Market

SYMBOLS = ["A", "AB", "ABC", "B"]
PATTERNS = [*SYMBOLS, "*", "A*", "?", "s:A", "s:A*"]
KINDS = {"quotes": QUOTE, "trades": TRADE}
HZ = 50.0
RING = 32


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

    every: bool
    #: every tick after this, or a gap that covers it
    after: int
    #: sequence numbers that came since the wish began
    got: list[int] = field(default_factory=list)


class Client:
    """One client, and what the model says of it."""

    def __init__(self, market: Market, encoding: str, wired: bool) -> None:
        self.market = market
        self.session: Session
        self.link: ListLink
        self.session, self.link = market.session(encoding=encoding, wired=wired)
        self.state: dict[tuple[int, str], bool] = {}
        self.wishes: dict[tuple[int, str], Wish] = {}
        self.gaps: list[tuple[int, int]] = []
        self.read = 0
        #: sent and not answered yet: (keys, "every" or "throttled" or None, start)
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
                self.state[key] = mode == "every"
        for kind in KINDS.values():
            for symbol in SYMBOLS:
                key, owner = (kind, symbol), self.owner(kind, symbol)
                if owner is None:
                    self.wishes.pop(key, None)
                    continue
                every = self.state[owner]
                old = self.wishes.get(key)
                if owner in keys and start != "now":
                    # A snapshot of a throttled symbol is its latest, whenever that was.
                    self.wishes[key] = Wish(every, 0 if start == "snapshot" and not every else position)
                elif old is None or old.every != every:
                    self.wishes[key] = Wish(every, position)

    def take_in(self) -> None:
        """Look at what has newly come."""
        messages = self.link.messages()
        for message in messages[self.read :]:
            if message["T"] == "subscription":
                self.answered(message["seq"])
            elif message["T"] == "gap":
                self.gaps.append((message["from"], message["to"]))
            else:
                key = (QUOTE if message["T"] == "q" else TRADE, message["S"])
                price = message["bp"] if message["T"] == "q" else message["p"]
                assert price == float(message["seq"]), "a tick that was never published"
                wish = self.wishes.get(key)
                assert wish is not None, "a tick that nobody asked for"
                last = wish.got[-1] if wish.got else 0
                # What a throttled symbol's latest is may be told again; nothing else may.
                assert message["seq"] > last or (message["seq"] == last and not wish.every), "twice, or out of order"
                wish.got.append(message["seq"])
        self.read = len(messages)

    def settled(self, ticks: list[tuple[int, int, str]]) -> None:
        """Everything is quiet: all that was promised has come."""
        for (kind, symbol), wish in self.wishes.items():
            mine = [seq for seq, k, s in ticks if (k, s) == (kind, symbol)]
            if wish.every:
                for seq in mine:
                    if seq > wish.after and not any(a <= seq <= b for a, b in self.gaps):
                        assert seq in wish.got, f"tick {seq} of {symbol} never came and no gap tells of it"
            elif mine and mine[-1] > wish.after:
                assert wish.got, f"{symbol} changed and nothing came"
                assert wish.got[-1] == mine[-1], f"{symbol} does not end on its last value"


class Delivery(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.market = Market(ticks=RING, instruments=8)
        self.market.store.directory.add_feed("s")
        self.ticks: list[tuple[int, int, str]] = []
        kinds = [("json", True), ("json", False), ("binary", True), ("binary", False)]
        self.clients = [Client(self.market, encoding, wired) for encoding, wired in kinds]

    @rule(
        who=st.integers(0, 3),
        patterns=st.lists(st.tuples(st.sampled_from(list(KINDS)), st.sampled_from(PATTERNS)), min_size=1, max_size=3),
        every=st.booleans(),
        start=st.sampled_from(["now", "snapshot", "since"]),
        back=st.integers(0, 50),
    )
    def subscribe(self, who, patterns, every, start, back) -> None:
        client = self.clients[who]
        command = {"action": "subscribe"}
        for channel, pattern in patterns:
            command.setdefault(channel, []).append(pattern)
        if not every:
            command["max_hz"] = HZ
        if start == "snapshot":
            command["snapshot"] = True
        elif start == "since":
            command["since"] = {"epoch": self.market.store.epoch, "seq": max(0, self.market.store.ring.head - back)}
        keys = {(KINDS[channel], pattern) for channel, pattern in patterns}
        client.commands.append((keys, "every" if every else "throttled", start))
        self.market.command(client.session, **command)

    @rule(who=st.integers(0, 3), channel=st.sampled_from(list(KINDS)), pattern=st.sampled_from(PATTERNS))
    def unsubscribe(self, who, channel, pattern) -> None:
        client = self.clients[who]
        client.commands.append(({(KINDS[channel], pattern)}, None, "now"))
        self.market.command(client.session, action="unsubscribe", **{channel: [pattern]})

    @rule(ticks=st.lists(st.tuples(st.sampled_from(SYMBOLS), st.sampled_from([QUOTE, TRADE])), min_size=1, max_size=9))
    def publish(self, ticks) -> None:
        head = self.market.store.ring.head
        rows = [(symbol, kind, float(head + n)) for n, (symbol, kind) in enumerate(ticks, 1)]
        self.market.publish(*rows, feed="s")
        self.ticks += [(head + n, kind, symbol) for n, (symbol, kind) in enumerate(ticks, 1)]

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.005, 0.02]))
    def run(self, seconds) -> None:
        self.market.run(seconds)

    @rule(who=st.integers(0, 3), room=st.integers(0, 3))
    def stall(self, who, room) -> None:
        if not self.clients[who].link.full:
            self.clients[who].link.room = room

    @rule(who=st.integers(0, 3), room=st.sampled_from([1, 2, 1 << 60]))
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
            client.settled(self.ticks)

    @invariant()
    def nothing_is_queued(self) -> None:
        for client in getattr(self, "clients", []):
            assert not client.link.closed
            client.take_in()

    def teardown(self) -> None:
        if hasattr(self, "clients"):
            self.settle()


# The same examples every time: a change is judged by what it does, not by luck. `make soak` looks at new ones.
SOAK = int(os.environ.get("MARKETFEED_SOAK", "0"))
Delivery.TestCase.settings = settings(
    max_examples=SOAK or 100, stateful_step_count=40 if SOAK else 30, deadline=None, derandomize=not SOAK, database=None
)
TestDelivery = Delivery.TestCase
