"""However often and wherever the connection is cut, the client ends with what was promised, or was told the loss."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import marketfeed.stream.catchup
import marketfeed.stream.lane
from marketfeed.client.batch import Chunk
from marketfeed.client.messages import Gap, Heartbeat, Numbered, Quote, Subscription
from marketfeed.client.request import subscribe
from marketfeed.client.session import Session as ClientSession
from tests.unit.stream.support import QUOTE, TRADE, Market

SYMBOLS = ["A", "B", "C", "D", "E", "F"]
RING = 32
#: What each user asks for: commands that have no symbol in common.
WISHES = [
    [{"quotes": ["*"]}],
    [{"quotes": ["*"], "max_hz": 50}],
    [{"quotes": ["*"], "trades": ["A", "B"]}, {"trades": ["C", "D", "E"], "max_hz": 50}],
    [{"quotes": ["A", "B", "C", "D"], "max_hz": 50}, {"trades": ["*"], "max_hz": 20}],
]
ENCODINGS = ["json", "binary"]
WHO = st.integers(0, 1)
ROWS = st.lists(st.tuples(st.sampled_from(SYMBOLS), st.sampled_from([QUOTE, QUOTE, TRADE])), min_size=1, max_size=9)
STARTS = st.sampled_from(["now", "snapshot", "snapshot", "since"])
BEATS = st.sampled_from([None, None, 0.1])


@dataclass
class Wish:
    """One command of a user."""

    command: dict
    start: str
    #: position of its answer; None = it was not answered
    after: int | None = None

    def takes(self, kind: int, symbol: str) -> bool:
        names = self.command.get("quotes" if kind == QUOTE else "trades", [])
        return "*" in names or symbol in names


@dataclass
class User:
    """One user's client, and its present connection."""

    market: Market
    encoding: str
    #: what it is still to ask for
    commands: list[dict]
    client: ClientSession = field(default_factory=ClientSession)
    wishes: list[Wish] = field(default_factory=list)
    #: (kind, symbol) -> sequence numbers that came
    got: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    #: how many frames of the link have come
    came: int = 0

    def __post_init__(self) -> None:
        self.connect()

    def connect(self) -> None:
        self.session, self.link = self.market.session(encoding=self.encoding, wired=False)
        self.came = 0
        self.client.connected()
        self.session.start("")

    def cut(self) -> None:
        self.session.closed()
        self.client.disconnected()
        self.connect()

    def subscribe(self, start: str, heartbeat: float | None) -> None:
        if not self.commands:
            return
        wish = Wish(self.commands.pop(0), start)

        def answered(reply) -> None:
            assert isinstance(reply, Subscription), reply
            wish.after = reply.seq

        how = {"snapshot": {"snapshot": True}, "since": {"since": {"seq": 0}}, "now": {}}[wish.start]
        self.wishes.append(wish)
        self.client.ask(subscribe(**wish.command, **how, heartbeat=heartbeat), answered)
        self.say()

    def say(self) -> None:
        for text in self.client.outgoing():
            self.session.receive(text, self.market.now)

    def hear(self, frames: int) -> None:
        """So many more frames come."""
        for frame in self.link.frames[self.came : self.came + frames]:
            self.came += 1
            payload = frame.partition(b" ")[2]
            for item in self.client.receive(payload if frame[:1] == b"B" else payload.decode()):
                for message in item.messages() if isinstance(item, Chunk) else [item]:
                    self.take(message)
            assert self.client.failure is None
            self.say()

    def take(self, message) -> None:
        if isinstance(message, Gap):
            assert message.last is not None
            self.gaps.append((message.first, message.last))
        elif isinstance(message, Numbered):
            kind, price = (QUOTE, message.bid) if isinstance(message, Quote) else (TRADE, message.price)
            assert price == message.seq
            self.got.setdefault((kind, message.symbol), []).append(message.seq)
        else:
            assert isinstance(message, Heartbeat)

    def settled(self, told: dict[tuple[int, str], list[int]]) -> None:
        """Everything is quiet: all that was promised has come."""
        for wish, ((kind, symbol), seqs) in itertools.product(self.wishes, told.items()):
            if not wish.takes(kind, symbol):
                continue
            assert wish.after is not None, "a command was not answered"
            got = self.got.get((kind, symbol), [])
            if seqs[-1] > wish.after or wish.start == "snapshot":
                lost = wish.start != "snapshot" and any(a <= seqs[-1] <= b for a, b in self.gaps)
                assert lost or (got and got[-1] == seqs[-1]), f"{symbol} does not end on its last value"
            if "max_hz" not in wish.command:
                live = [seq for seq in got if seq > wish.after]
                assert live == sorted(set(live)), f"a tick of {symbol} came twice, or out of order"
                missing = {seq for seq in seqs if seq > wish.after} - set(live)
                assert all(any(a <= seq <= b for a, b in self.gaps) for seq in missing), f"{symbol}: {missing}"


class Resume(RuleBasedStateMachine):
    @initialize(
        most=st.sampled_from([1, 2, 3, 2048]),
        users=st.lists(st.tuples(st.sampled_from(WISHES), st.sampled_from(ENCODINGS), STARTS), min_size=2, max_size=2),
        rows=ROWS,
    )
    def begin(self, most, users, rows) -> None:
        self.patch = pytest.MonkeyPatch()
        for module in (marketfeed.stream.catchup, marketfeed.stream.lane):
            self.patch.setattr(module, "FRAME_TICKS", most)
        self.market = Market(ticks=RING, instruments=8)
        #: (kind, symbol) -> the sequence numbers of its ticks
        self.told: dict[tuple[int, str], list[int]] = {}
        self.users = [User(self.market, encoding, list(commands)) for commands, encoding, _ in users]
        self.publish(rows)
        for user, (_, _, start) in zip(self.users, users, strict=True):
            user.hear(1)
            user.subscribe(start, None)

    @rule(who=WHO, start=STARTS, beat=BEATS)
    def subscribe(self, who, start, beat) -> None:
        self.users[who].subscribe(start, beat)

    @rule(rows=ROWS)
    def publish(self, rows) -> None:
        head = self.market.store.ring.head
        self.market.publish(*((symbol, kind, float(head + n)) for n, (symbol, kind) in enumerate(rows, 1)))
        for n, (symbol, kind) in enumerate(rows, 1):
            self.told.setdefault((kind, symbol), []).append(head + n)

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.02, 0.1]))
    def run(self, seconds) -> None:
        self.market.run(seconds)

    @rule(who=WHO, frames=st.integers(1, 4))
    def hear(self, who, frames) -> None:
        self.users[who].hear(frames)

    @rule(who=WHO, seconds=st.sampled_from([0.0, 0.02]), frames=st.integers(0, 8))
    def cut(self, who, seconds, frames) -> None:
        """The connection breaks, when the next few frames have still come; the greeting of the new one comes."""
        self.market.run(seconds)
        self.users[who].hear(frames)
        self.users[who].cut()
        self.users[who].hear(1)

    @rule(who=WHO, rows=ROWS, frames=st.integers(0, 8))
    def cut_while_it_catches_up(self, who, rows, frames) -> None:
        user = self.users[who]
        self.stall(who, 0)
        self.publish(rows)
        self.market.run(0.1)
        user.hear(len(user.link.frames))
        user.link.drain(user.session)
        self.cut(who, 0.0, frames)

    @rule(who=WHO, room=st.integers(0, 3))
    def stall(self, who, room) -> None:
        if not self.users[who].link.full:
            self.users[who].link.room = room

    @rule(who=WHO, room=st.sampled_from([1, 2, 3]))
    def drain(self, who, room) -> None:
        self.users[who].link.drain(self.users[who].session, room)

    @rule()
    def settle(self) -> None:
        for _ in range(3):
            for user in self.users:
                user.link.drain(user.session)
                user.hear(len(user.link.frames))
            for _ in range(3):
                self.market.run(1.0)
        for user in self.users:
            user.hear(len(user.link.frames))
            assert not user.client.waiting, "a command was not answered"
            user.settled(self.told)

    @invariant()
    def nobody_is_ended(self) -> None:
        for user in getattr(self, "users", []):
            assert user.link.closed is None

    def teardown(self) -> None:
        if hasattr(self, "users"):
            try:
                self.settle()
            finally:
                self.patch.undo()


# As in tests/unit/stream/test_hub_model.py.
SOAK = int(os.environ.get("MARKETFEED_SOAK", "0"))
Resume.TestCase.settings = settings(
    max_examples=SOAK or 100, stateful_step_count=50 if SOAK else 30, deadline=None, derandomize=not SOAK, database=None
)
TestResume = Resume.TestCase
