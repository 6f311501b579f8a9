"""What came and was not taken yet: messages one by one and records in chunks, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from marketfeed.client.batch import Batch, Chunk
from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.messages import Gap, Heartbeat, Message, Numbered
from marketfeed.model.clock import Clock
from marketfeed.model.tick import RECORD

#: What a session makes of a frame.
Item = Message | Chunk

#: At most so many ticks are put into one batch.
BATCH_ROWS = 65_536


class BatchesAsked:
    """How many batches somebody still wants.

    Args:
        max_rows: ticks in all; None = no end.
        timeout: seconds from now; None = no end.
        batch_rows: ticks in one batch at most.

    Raises:
        ValueError: a number that makes no sense.
    """

    def __init__(self, max_rows: int | None, timeout: float | None, batch_rows: int, clock: Clock) -> None:
        if max_rows is not None and max_rows < 0:
            raise ValueError(f"max_rows is a number of ticks, not {max_rows}")
        if batch_rows < 1:
            raise ValueError(f"batch_rows is at least 1, not {batch_rows}")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is a number of seconds above 0, not {timeout}")
        self._left = max_rows
        self._batch_rows = batch_rows
        self._clock = clock
        self._until = None if timeout is None else clock.monotonic() + timeout

    def rows(self) -> int:
        """How many ticks the next batch may have; 0 = there is to be none."""
        return self._batch_rows if self._left is None else min(self._left, self._batch_rows)

    def seconds_left(self) -> float | None:
        """How long it may be waited for."""
        return None if self._until is None else self._until - self._clock.monotonic()

    def given(self, batch: Batch) -> Batch:
        """Count it."""
        if self._left is not None:
            self._left -= len(batch)
        return batch


class Inbox:
    """A queue that gives its content as messages or as batches, whichever is asked for."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._count = 0
        #: of ticks that came as messages, which have no ids
        self._named = InstrumentTable()

    def __len__(self) -> int:
        """How much there is: messages, and each record as one."""
        return self._count

    def put(self, items: Iterable[Item]) -> None:
        """Take in what came, in order."""
        for item in items:
            self._items.append(item)
            self._count += _size(item)

    def put_back(self, items: Iterable[Item]) -> None:
        """Before all else, in this order: what was taken and is to be taken again."""
        back = list(items)
        self._items.extendleft(reversed(back))
        self._count += sum(map(_size, back))

    def _next(self) -> Item:
        item = self._items.popleft()
        self._count -= _size(item)
        return item

    def clear(self) -> None:
        """Drop everything."""
        self._items.clear()
        self._count = 0

    def pop(self) -> Message | None:
        """The next message; None = there is none."""
        while self._items:
            item = self._next()
            if not isinstance(item, Chunk):
                return item
            self.put_back(item.messages())
        return None

    def take(self) -> list[Message]:
        """All messages."""
        messages: list[Message] = []
        while self._items:
            item = self._next()
            if isinstance(item, Chunk):
                messages += item.messages()
            else:
                messages.append(item)
        return messages

    def batch(self, most: int) -> Batch | None:
        """The next ticks, at most so many, up to where something is lost. None = there are none, nor a loss.

        Heartbeats are passed over.
        """
        gaps: list[Gap] = []
        chunks: list[Chunk] = []
        room = most
        while self._items and room:
            item = self._items[0]
            if isinstance(item, Gap):
                if chunks:
                    break
                gaps.append(item)
                self._next()
            elif isinstance(item, Heartbeat):
                self._next()
            else:
                table = item.instruments if isinstance(item, Chunk) else self._named
                if chunks and table is not chunks[0].instruments:
                    break
                chunks.append(self._chunk(room))
                room -= len(chunks[-1].ticks)
        if chunks:
            return Batch(*Chunk.joined(chunks), tuple(gaps))
        return Batch(np.zeros(0, RECORD), self._named, tuple(gaps)) if gaps else None

    def _chunk(self, most: int) -> Chunk:
        """The ticks at the front, at most so many."""
        if isinstance(self._items[0], Chunk):
            chunk = self._next()
            assert isinstance(chunk, Chunk)
            if len(chunk.ticks) > most:
                self.put_back([Chunk(chunk.ticks[most:], chunk.instruments)])
                chunk = Chunk(chunk.ticks[:most], chunk.instruments)
            return chunk
        ticks: list[Numbered] = []
        while self._items and len(ticks) < most and isinstance(tick := self._items[0], Numbered):
            ticks.append(tick)
            self._next()
        return Chunk.of(ticks, self._named)


def _size(item: Item) -> int:
    return len(item.ticks) if isinstance(item, Chunk) else 1
