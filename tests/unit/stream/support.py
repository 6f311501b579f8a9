"""What the tests of the stream share: a link that is a list, and ways to make ticks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import orjson

from marketfeed.model import BAR, QUOTE, TICK, TRADE, TickStore, empty_ticks
from marketfeed.model.bars import BAR_ROW
from marketfeed.model.tick import Records
from marketfeed.stream.encoding.binary import read_frame
from marketfeed.stream.encoding.fields import BAR_FIELDS, QUOTE_FIELDS, TRADE_FIELDS
from marketfeed.stream.hub import Hub
from marketfeed.stream.link import Numbers, Took
from marketfeed.stream.session import Session
from marketfeed.transports.base import EachLink


class ListLink(EachLink):
    """A link whose network is a list. ``room`` frames fit; then it is full until :meth:`drain`."""

    def __init__(self) -> None:
        #: whether what is binary is msgpack, and not records
        self.msgpack = False
        self.frames: list[bytes] = []
        self._messages: list[dict[str, Any]] = []
        self._read = 0
        #: by id, as a session with records was told
        self.instruments: dict[int, dict[str, Any]] = {}
        self.room = 1 << 60
        self.full = False
        self.closed: tuple[int, str] | None = None

    @staticmethod
    def wrap(payload: bytes, binary: bool, seq: int | None) -> bytes:
        return b"%b%b %b" % (b"B" if binary else b"T", b"" if seq is None else b"%d" % seq, payload)

    def send(self, frame: bytes) -> Took:
        assert not self.full, "sent to a link that had said it is full"
        if self.closed is not None:
            self.full = True
            return Took.NOTHING
        self.room -= 1
        if self.room < 0:
            self.full = True
            return Took.NOTHING
        self.frames.append(frame)
        self.full = self.room == 0
        return Took.LAST if self.full else Took.MORE

    def drain(self, session: Session, room: int = 1 << 60) -> None:
        """The network took all; so many frames fit again."""
        self.room = room
        if self.full:
            self.full = False
            session.writable()

    def take(self, frame: bytes) -> int:
        """As a socket takes it: how many bytes of it."""
        assert not self.full, "sent to a link that had said it is full"
        if self.closed is not None:
            return -1
        self.room -= 1
        if self.room < 0:
            return 0
        if self.room == 0:
            return len(frame) - 1
        self.frames.append(frame)
        return len(frame)

    def finish(self, frame: bytes, sent: int) -> bool:
        self.full = True
        if sent > 0:
            self.frames.append(frame)
        return sent > 0

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def messages(self) -> list[dict[str, Any]]:
        """Everything that came, in order."""
        for frame in self.frames[self._read :]:
            head, _, payload = frame.partition(b" ")
            assert head[:1] in (b"B", b"T"), "more than a frame, or less"
            if self.msgpack:
                self._messages += msgspec.msgpack.decode(payload)
                continue
            if frame[:1] == b"B":
                self._messages += self._records(read_frame(payload))
                continue
            for message in orjson.loads(payload):
                if message["T"] == "instruments":
                    assert message["instruments"], "told nothing"
                    for told in message["instruments"]:
                        assert told["id"] not in self.instruments, "told twice"
                        self.instruments[told["id"]] = told
                else:
                    self._messages.append(message)
        self._read = len(self.frames)
        return self._messages

    def _records(self, records: Records) -> Iterator[dict[str, Any]]:
        """As the JSON messages are; a KeyError = the instrument was not told before."""
        for record, bar in zip(records, records.view(BAR_ROW), strict=True):
            told = self.instruments[int(record["instrument"])]
            message = {"T": "qtbu"[record["kind"] - QUOTE], **{k: v for k, v in told.items() if k != "id"}}
            if record["kind"] >= BAR:
                values = {key: float(bar[column]) for key, column in BAR_FIELDS.items()}
            else:
                columns = QUOTE_FIELDS if record["kind"] == QUOTE else TRADE_FIELDS
                values = {key: float(record[column]) for key, column in columns.items()}
            yield {**message, **values, "seq": int(record["seq"])}

    def positions(self) -> list[int | None]:
        """Of each frame, where it says that its subscriber is then."""
        heads = [frame.partition(b" ")[0][1:] for frame in self.frames]
        return [int(head) if head else None for head in heads]

    def ticks(self) -> list[dict[str, Any]]:
        return [message for message in self.messages() if message["T"] in "qt"]

    def seqs(self) -> list[int]:
        """Their sequence numbers."""
        return [tick["seq"] for tick in self.ticks()]


class WiredLink(ListLink):
    """One with a wire: its frames are put together by the hub, and come by its sender."""

    def __init__(self, wire: int) -> None:
        super().__init__()
        self.wire = wire

    @staticmethod
    def head(length: int, binary: bool) -> bytes:
        return b"B " if binary else b"T "

    @staticmethod
    def wrap(payload: bytes, binary: bool, seq: int | None) -> bytes:
        return WiredLink.head(len(payload), binary) + payload


class Market:
    """A store with a hub before it, a few instruments, and a clock."""

    def __init__(self, ticks: int = 1024, instruments: int = 64, coalesce: float = 0.005) -> None:
        self.store = TickStore.create(ticks, instruments)
        self.hub = Hub(self.store, coalesce, sender=self._send)
        self.now = 1000.0
        self._wired: list[WiredLink] = []

    def _send(self, buffer: bytes, begins: Numbers, lengths: Numbers, wires: np.ndarray) -> np.ndarray | None:
        assert len(set(wires.tolist())) == len(wires) > 0
        begins, lengths = np.broadcast_to(begins, wires.shape), np.broadcast_to(lengths, wires.shape)
        parts = zip(begins.tolist(), lengths.tolist(), wires.tolist(), strict=True)
        sent = np.array([self._wired[wire].take(buffer[begin : begin + n]) for begin, n, wire in parts])
        return None if (sent == lengths).all() else sent

    def instrument(self, name: str, feed: str = "sim") -> int:
        return self.store.directory.add(self.store.directory.add_feed(feed), name)

    def session(
        self, feed: str | None = None, encoding: str = "json", wired: bool = True, **more: Any
    ) -> tuple[Session, ListLink]:
        link = ListLink()
        if wired:
            link = WiredLink(len(self._wired))
            self._wired.append(link)
        link.msgpack = encoding == "msgpack"
        session = Session(self.hub, link, self.hub.encoding(encoding, feed is None), "test", feed, **more)
        return session, link

    def command(self, session: Session, **command: Any) -> None:
        session.receive(orjson.dumps(command).decode(), self.now)

    def publish(self, *ticks: tuple[str, int, float], feed: str = "sim") -> int:
        """(symbol, kind, price) each. Returns the head."""
        batch = empty_ticks(len(ticks))
        for row, (symbol, kind, price) in zip(batch, ticks, strict=True):
            row["instrument"], row["kind"] = self.instrument(symbol, feed), kind
            row["feed"] = self.store.directory.add_feed(feed)
            row["ts_event"] = 1_700_000_000_000_000_000 + self.store.ring.head
            if kind == QUOTE:
                row["bid"], row["ask"], row["bid_size"], row["ask_size"] = price, price + 1, 10, 20
            else:
                row["price"], row["size"] = price, 5
        return self.store.publish(batch)

    def run(self, seconds: float = 0.0) -> float:
        """Let time pass and run the hub until it has nothing more to do at that time."""
        self.now += seconds
        for _ in range(100_000):
            again = self.hub.run(self.now)
            if again > self.now:
                return again
        raise AssertionError("the hub does not come to rest")


__all__ = ["QUOTE", "TICK", "TRADE", "ListLink", "Market", "np"]
