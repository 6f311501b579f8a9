"""What every peer in Python does alike: play the market on time, and sort ticks by who wants them.

A peer is started with one argument, JSON: ``port``, ``ticks`` (a file, see bench/load/ticks.py), ``period_ns``,
``symbols``, ``interval_ms`` (how long a tick may be held back), ``conflate`` (only the latest of each symbol an
interval), ``batch`` (an interval's ticks go to a subscriber in one message, else each tick is one message, sent to all
that want its symbol). It serves on 127.0.0.1 until it is ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np


class Config:
    """The argument, parsed."""

    def __init__(self, text: str) -> None:
        given = json.loads(text)
        self.port: int = given["port"]
        self.ticks: str = given["ticks"]
        self.period_ns: int = given["period_ns"]
        self.symbols: list[str] = given["symbols"]
        self.interval_s: float = given["interval_ms"] / 1000
        self.conflate: bool = given["conflate"]
        self.batch: bool = given["batch"]


class Market:
    """The ticks of the file, round and round, each at its time: open loop, whatever the server gets done."""

    def __init__(self, config: Config) -> None:
        #: A server that is too slow gets no more ticks than this at once, so that it still answers its clients.
        self.limit = 50_000 if config.conflate else 1_000
        self._rows = np.fromfile(config.ticks, "<f8").reshape(-1, 7).tolist()
        self._symbols = config.symbols
        self._period = config.period_ns
        self._start = time.time_ns()
        self._next = 0
        self._round = 0
        self._seq = 0
        self._second = -1
        self._prefix = ""

    def due(self) -> list[tuple[int, int, bytes]]:
        """Ticks created until now and not given before: index of the symbol, kind, JSON."""
        found: list[tuple[int, int, bytes]] = []
        now = time.time_ns()
        begin = self._start + self._round * self._period
        while len(found) < self.limit:
            offset, symbol, kind, a, b, c, d = self._rows[self._next]
            created = begin + int(offset)
            if created > now:
                break
            second, ns = divmod(created, 1_000_000_000)
            if second != self._second:
                self._second = second
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            seq = self._seq = self._seq + 1
            name = self._symbols[int(symbol)]
            tail = f'"t":"{self._prefix}{ns:09d}Z","seq":{seq}}}'
            if kind == 1:
                text = f'{{"T":"q","S":"{name}","bp":{a},"bs":{b},"ap":{c},"as":{d},{tail}'
            else:
                text = f'{{"T":"t","S":"{name}","p":{a},"s":{b},{tail}'
            found.append((int(symbol), int(kind), text.encode()))
            self._next += 1
            if self._next == len(self._rows):
                self._next = 0
                self._round += 1
                begin += self._period
        return found


class Group:
    """Subscribers that get the same payloads."""

    def __init__(self) -> None:
        self.members: list[Any] = []
        self.parts: list[bytes] = []


class Audience:
    """Who wants what. A group is those that subscribe to the same, or without ``batch`` those that want one symbol."""

    def __init__(self, config: Config) -> None:
        self._number = {symbol: i for i, symbol in enumerate(config.symbols)}
        self._by_symbol: list[list[Group]] = [[] for _ in config.symbols]
        self._groups: dict[tuple[int, ...], Group] = {}
        self._config = config

    def subscribe(self, member: Any, command: str | bytes) -> bytes:
        """Take a subscribe command; returns the answer to send."""
        names = json.loads(command)["quotes"]
        wanted = tuple(self._number.values()) if names == ["*"] else tuple(self._number[name] for name in names)
        for key in [wanted] if self._config.batch else [(symbol,) for symbol in wanted]:
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = Group()
                for symbol in key:
                    self._by_symbol[symbol].append(group)
            group.members.append(member)
        return json.dumps([{"T": "subscription", "quotes": names, "trades": names}]).encode()

    def members_with(self, member: Any) -> list[list[Any]]:
        """The members of each group that it is in."""
        return [group.members for group in self._groups.values() if member in group.members]

    def leave(self, member: Any) -> None:
        """A connection is gone."""
        for group in self._groups.values():
            if member in group.members:
                group.members.remove(member)

    def payloads(self, ticks: list[tuple[int, int, bytes]]) -> list[tuple[bytes, list[Any]]]:
        """Each payload once, with those that it is for."""
        if self._config.conflate:
            latest: dict[tuple[int, int], tuple[int, int, bytes]] = {}
            for tick in reversed(ticks):
                latest.setdefault(tick[:2], tick)
            ticks = list(reversed(latest.values()))
        if not self._config.batch:
            return [(b"[%b]" % text, group.members) for symbol, _, text in ticks for group in self._by_symbol[symbol]]
        touched = []
        for symbol, _, text in ticks:
            for group in self._by_symbol[symbol]:
                if not group.parts:
                    touched.append(group)
                group.parts.append(text)
        found = []
        for group in touched:
            found.append((b"[" + b",".join(group.parts) + b"]", group.members))
            group.parts.clear()
        return found


async def play(config: Config, audience: Audience, send: Callable[[bytes, list[Any]], None]) -> None:
    """Give every interval's payloads to ``send``, for ever."""
    loop = asyncio.get_running_loop()
    market = Market(config)
    due = loop.time()
    while True:
        ticks = market.due()
        for payload, members in audience.payloads(ticks):
            if members:
                send(payload, members)
        # An interval that was missed is not made up for: its ticks go out with the next.
        due = max(due + config.interval_s, loop.time())
        await asyncio.sleep(0 if len(ticks) >= market.limit else due - loop.time())


def main(serve: Callable[[Config], Coroutine[Any, Any, None]]) -> None:
    """Run a peer, on uvloop where it is installed."""
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(serve(Config(sys.argv[1])))
