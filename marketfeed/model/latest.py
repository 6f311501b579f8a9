"""The last quote, trade and bar of each instrument, so that "what changed since" costs the same at any tick rate."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.bars import BAR_RECORD, DEFAULT_SECONDS
from marketfeed.model.tick import BAR, KINDS, RAW, TICK, TICK_KINDS, UPDATED_BAR, Ticks

_FIRST = KINDS[0]

#: So many rows are taken in one by one: the calls into numpy for all at once take longer.
_FEW = 12

_ATTEMPTS = 8


class Changed(NamedTuple):
    """Last values, in order of their sequence numbers."""

    #: shape (n,), TICK; a copy.
    ticks: Ticks
    #: shape (n,), u8: the sequence number of each.
    seqs: NDArray[np.uint64]


class LatestTable:
    """A row an instrument and kind, in the order of :data:`KINDS`; of bars those of the default length have one.

    One writer, any number of readers, in this process or others.

    The same two-counter rule as the :class:`Ring`, a row at a time: ``claims`` of a row is raised before its payload
    is written and ``seqs`` after; a reader takes ``seqs``, copies, and keeps the row if its ``claims`` says the same.

    Args:
        rows: shape (kinds, capacity), TICK.
        seqs, claims: shape (kinds, capacity), u8. Zero in a new table.
    """

    def __init__(self, rows: Ticks, seqs: NDArray[np.uint64], claims: NDArray[np.uint64]) -> None:
        if rows.shape != seqs.shape or rows.shape != claims.shape or rows.shape[0] != len(KINDS):
            raise ValueError(f"rows {rows.shape}, seqs {seqs.shape} and claims {claims.shape} do not fit together")
        self.capacity = rows.shape[1]
        self._raw = rows.view(RAW).reshape(-1)
        self._seqs = seqs.reshape(-1)
        self._claims = claims.reshape(-1)

    @classmethod
    def on_heap(cls, capacity: int) -> "LatestTable":
        """A table of this process alone."""
        shape = (len(KINDS), capacity)
        return cls(np.zeros(shape, TICK), np.zeros(shape, np.uint64), np.zeros(shape, np.uint64))

    def update(self, batch: Ticks, first: int) -> None:
        """Take in a batch, shape (n,), TICK, whose ticks have the sequence numbers ``first``, ``first + 1``, ...

        Only the one writer may call this.
        """
        n = len(batch)
        if n <= _FEW:
            self._update_few(batch, first)
            return
        kind = batch["kind"]
        cell = batch["instrument"] + (kind.astype(np.int64) - _FIRST) * self.capacity
        seqs = np.arange(first, first + n, dtype=np.uint64)
        raw = batch.view(RAW) if batch.flags.c_contiguous else np.ascontiguousarray(batch).view(RAW)
        # Ticks all have a last value; of what is no tick, only bars of the default length.
        others = kind - np.uint8(_FIRST) > TICK_KINDS[-1] - _FIRST
        if others.any():
            usual = batch.view(BAR_RECORD)["seconds"] == DEFAULT_SECONDS
            known = ~others | ((kind >= BAR) & (kind <= UPDATED_BAR) & usual)
            cell, seqs, raw = cell[known], seqs[known], raw[known]
        # An assignment with repeated indices is not promised to keep the last one, so the last is found first: it is
        # the one whose number the claim ends on.
        np.maximum.at(self._claims, cell, seqs)
        last = self._claims[cell] == seqs
        if not last.all():
            cell, seqs, raw = cell[last], seqs[last], raw[last]
        self._raw[cell] = raw
        self._seqs[cell] = seqs

    def _update_few(self, batch: Ticks, first: int) -> None:
        rows = np.ascontiguousarray(batch).view(RAW)
        cells = zip(batch["instrument"].tolist(), batch["kind"].tolist(), strict=True)
        for n, (instrument, kind) in enumerate(cells):
            usual = kind in TICK_KINDS or batch.view(BAR_RECORD)["seconds"][n] == DEFAULT_SECONDS
            if kind in KINDS and usual:
                cell = instrument + (kind - _FIRST) * self.capacity
                self._claims[cell] = first + n
                self._raw[cell] = rows[n]
                self._seqs[cell] = first + n

    def count(self, cursor: int, count: int, among: NDArray[np.bool_] | None = None) -> int:
        """How many :meth:`since` would have to give."""
        return int(np.count_nonzero(self._wanted(cursor, min(count, self.capacity), None, among, len(KINDS))))

    def _wanted(
        self, cursor: int, count: int, until: int | None, among: NDArray[np.bool_] | None, kinds: int
    ) -> NDArray[np.bool_]:
        grid = self._seqs.reshape(len(KINDS), self.capacity)[:kinds, :count]
        wanted: NDArray[np.bool_] = grid > cursor
        if until is not None:
            wanted &= grid <= until
        if among is not None:
            wanted &= among[:kinds, :count]
        return wanted

    def since(
        self,
        cursor: int,
        count: int | None = None,
        until: int | None = None,
        among: NDArray[np.bool_] | None = None,
        kinds: int = len(KINDS),
    ) -> Changed:
        """The last values with a sequence number above ``cursor``, in order of it.

        Args:
            cursor: sequence number; 0 = all that is known.
            count: look at instruments 0..count-1 only (the directory's count: what lies beyond is empty).
            until: leave out what is newer than this sequence number.
            among: only these, shape (kinds, capacity): by kind and instrument.
            kinds: of the first so many of :data:`KINDS` only.

        A row that the writer changes again and again during the copy is left out: what it changes to is newer than
        the head was at the call, so a reader who goes on from that head finds it next time.
        """
        count = self.capacity if count is None else min(count, self.capacity)
        cell = np.flatnonzero(self._wanted(cursor, count, until, among, kinds))
        if count < self.capacity:  # each kind's rows begin a capacity behind those of the one before
            cell += cell // max(1, count) * (self.capacity - count)
        return self._take(cell, until)

    def of(self, kind: int, instruments: NDArray[np.integer[Any]]) -> Changed:
        """The last values of these instruments, of those that have one, in order of their sequence numbers.

        Costs as much as there are instruments named, none of them twice, not as much as there are.

        Args:
            kind: one of :data:`KINDS`.
            instruments: ids, shape (n,).
        """
        cell = instruments.astype(np.intp) + (kind - KINDS[0]) * self.capacity
        return self._take(cell[self._seqs[cell] > 0], None)

    def _take(self, cell: NDArray[np.intp], until: int | None) -> Changed:
        """The rows of these cells, in order, whole, and none newer than ``until``."""
        # In order before the copy: the rows, 80 bytes each, are moved once.
        seqs = self._seqs[cell]
        order = np.argsort(seqs)
        cell, seqs = cell[order], seqs[order]
        raw = self._raw.take(cell)
        torn = np.flatnonzero(self._claims[cell] != seqs)
        if len(torn):
            seqs, raw = self._copy_again(cell, seqs, raw, torn)
        if until is not None:  # some may have changed since they were chosen
            n = int(np.searchsorted(seqs, until, side="right"))
            seqs, raw = seqs[:n], raw[:n]
        return Changed(raw.view(TICK), seqs)

    def _copy_again(
        self, cell: NDArray[np.intp], seqs: NDArray[np.uint64], raw: Ticks, torn: NDArray[np.intp]
    ) -> tuple[NDArray[np.uint64], Ticks]:
        """The rows with those at ``torn`` copied until they are whole, or left out; in order again."""
        for _ in range(_ATTEMPTS):
            seqs[torn] = self._seqs[cell[torn]]
            raw[torn] = self._raw[cell[torn]]
            torn = torn[self._claims[cell[torn]] != seqs[torn]]
            if not len(torn):
                break
        whole = np.ones(len(cell), np.bool_)
        whole[torn] = False
        seqs, raw = seqs[whole], raw[whole]
        order = np.argsort(seqs)
        return seqs[order], raw[order]
