"""A client's session, and a server that is played by hand."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marketfeed.client import request
from marketfeed.client.errors import CommandError
from marketfeed.client.inbox import Item
from marketfeed.client.messages import Numbered, Subscription
from marketfeed.client.session import Session
from marketfeed.model import QUOTE, InstrumentDirectory, empty_ticks
from marketfeed.model.tick import Ticks
from marketfeed.stream.encoding.binary import BinaryEncoding


class User:
    """A session with a server that is played by hand."""

    def __init__(self, session: Session | None = None) -> None:
        self.session = session or Session()
        self.answers: list[Subscription | CommandError] = []

    def connect(self, epoch: int | None = 5) -> list[dict[str, Any]]:
        """Connect and be greeted; returns the commands that go out."""
        self.session.connected()
        self.hear({"T": "success", "msg": "connected", "epoch": epoch})
        return self.sent()

    def hear(self, *messages: dict[str, Any]) -> list[Item]:
        return self.session.receive(json.dumps(messages))

    def sent(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.session.outgoing()]

    def subscribe(self, **what: Any) -> list[dict[str, Any]]:
        self.session.ask(request.subscribe(**what), self.answers.append)
        return self.sent()

    def unsubscribe(self, **what: Any) -> list[dict[str, Any]]:
        self.session.ask(request.unsubscribe(**what), self.answers.append)
        return self.sent()

    def cut(self, epoch: int | None = 5) -> list[dict[str, Any]]:
        """Lose the connection and get a new one; returns the commands that go out."""
        self.session.disconnected()
        return self.connect(epoch)


def reply(seq: int, epoch: int = 5, **more: Any) -> dict[str, Any]:
    return {
        "T": "subscription",
        "quotes": [],
        "trades": [],
        "bars": [],
        "epoch": epoch,
        "seq": seq,
        "rules": [],
        **more,
    }


def quote(symbol: str, seq: int, feed: str = "") -> dict[str, Any]:
    return {
        "T": "q",
        "S": symbol,
        "bp": 1,
        "bs": 1,
        "ap": 2,
        "as": 1,
        "t": "2024-01-01T00:00:00Z",
        "seq": seq,
        "f": feed,
    }


def trade(symbol: str, seq: int) -> dict[str, Any]:
    return {"T": "t", "S": symbol, "p": 1, "s": 1, "t": "2024-01-01T00:00:00Z", "seq": seq}


def bar(symbol: str, seq: int, kind: str = "b", **more: Any) -> dict[str, Any]:
    numbers = {"o": 1, "h": 3, "l": 0.5, "c": 2, "v": 10, "n": 4, "vw": 1.5}
    return {"T": kind, "S": symbol, **numbers, "t": "2024-01-01T00:00:00Z", "seq": seq, **more}


def heartbeat(seq: int, epoch: int = 5) -> dict[str, Any]:
    return {"T": "heartbeat", "epoch": epoch, "seq": seq, "t": "2024-01-01T00:00:00.000000+00:00"}


def seqs(messages: list[Item]) -> list[int]:
    return [m.seq for m in messages if isinstance(m, Numbered)]


#: What `instruments` tells for the ids of :func:`records`.
INSTRUMENTS = ["A", "AB", "B", "C"]


def instruments(*ids: int, feed: str = "") -> dict[str, Any]:
    told = [{"id": i, "S": INSTRUMENTS[i], **({"f": feed} if feed else {})} for i in ids]
    return {"T": "instruments", "instruments": told}


def directory(feed: str = "x") -> InstrumentDirectory:
    made = InstrumentDirectory.on_heap(len(INSTRUMENTS))
    for name in INSTRUMENTS:
        made.add(made.add_feed(feed), name)
    return made


def ticks(*made: tuple[int, int, int]) -> tuple[Ticks, NDArray[np.uint64]]:
    """Rows and sequence numbers of ticks: (instrument, kind, seq)."""
    rows = empty_ticks(len(made))
    for row, (instrument, kind, seq) in zip(rows, made, strict=True):
        row["instrument"], row["kind"], row["ts_event"] = instrument, kind, 1_700_000_000_000_000_000 + seq
        row["ts_recv"], row["venue_seq"] = row["ts_event"] + 5, 1000 + seq
        if kind == QUOTE:
            row["bid"], row["bid_size"], row["ask"], row["ask_size"] = seq, 1, seq + 1, 2
        else:
            row["price"], row["size"] = seq, 3
    return rows, np.array([seq for *_, seq in made], np.uint64)


def records(*made: tuple[int, int, int]) -> bytes:
    """A frame of records: (instrument, kind, seq)."""
    return BinaryEncoding(directory(), True).ticks(*ticks(*made)).frame()
