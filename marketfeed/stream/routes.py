"""Who wants what, in arrays: an inverted index from cells to the groups that want them.

A cell is a (kind, instrument); a slot is a group's number. What a flush touches of it lies close together: walking
dicts of objects instead cost several times more once the loop had slept and the kernel had used the caches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: So many pairs may lie beside the arrays before they are put into them.
_RECENT_PAIRS = 64

_END = np.iinfo(np.int64).max


class Routes:
    """Slots and the cells that each wants.

    Changes are cheap: what is added lies beside the arrays, what is taken away stays in them, until there is enough of
    either (an eighth) to make the arrays anew. So a change costs as much as it has cells, whatever else there is.
    """

    def __init__(self) -> None:
        #: shape (n + 1,): the cells that somebody wanted, ascending, and one that none is
        self._cells = np.array([_END])
        #: shape (n + 2,): where each one's slots begin in ``_slots``
        self._begins = np.zeros(2, np.int64)
        self._slots = np.zeros(0, np.int64)
        #: cell -> slots, of what is not in the arrays yet
        self._recent: dict[int, list[int]] = {}
        self._recent_pairs = 0
        #: how many pairs each slot has
        self._pairs: list[int] = []
        self._free: list[int] = []
        #: taken away, but still in the arrays
        self._retired: set[int] = set()
        self._retired_pairs = 0

    def new(self) -> int:
        """A slot that nobody has; they are dense, so that arrays may be indexed by them."""
        if self._free:
            return self._free.pop()
        self._pairs.append(0)
        return len(self._pairs) - 1

    def add(self, slot: int, cells: list[int]) -> None:
        """This slot wants these cells too; each is named to it once."""
        for cell in cells:
            self._recent.setdefault(cell, []).append(slot)
        self._recent_pairs += len(cells)
        self._pairs[slot] += len(cells)

    def retire(self, slot: int) -> None:
        """Nobody has this slot any more. :meth:`wanting` may still name it."""
        if not self._pairs[slot]:
            self._free.append(slot)
            return
        self._retired.add(slot)
        self._retired_pairs += self._pairs[slot]

    @property
    def empty(self) -> bool:
        """Whether nobody wants anything."""
        return not (self._recent_pairs or len(self._slots))

    def wanting(self, cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each (place in ``cells``, slot that wants that cell), shape (pairs,) both, in no order."""
        if self._recent_pairs + self._retired_pairs > _RECENT_PAIRS + len(self._slots) // 8:
            self._settle()
        at = self._cells.searchsorted(cells)
        places = (self._cells[at] == cells).nonzero()[0]
        at = at[places]
        begins = self._begins[at]
        counts = self._begins[at + 1] - begins
        ends = counts.cumsum()
        total = int(ends[-1]) if len(ends) else 0
        # Runs of the slots, one after the other: begin, begin + 1, ...
        run = np.arange(total) + (begins - ends + counts).repeat(counts)
        places, slots = places.repeat(counts), self._slots[run]
        if self._recent:
            recent = self._recent
            more = [(n, slot) for n, cell in enumerate(cells.tolist()) for slot in recent.get(cell, ())]
            if more:
                extra = np.array(more, np.int64)
                places, slots = np.concatenate((places, extra[:, 0])), np.concatenate((slots, extra[:, 1]))
        return places, slots

    def _settle(self) -> None:
        """Everything that is still wanted goes into the arrays."""
        cells = self._cells[:-1].repeat(np.diff(self._begins)[:-1])
        added = [(cell, slot) for cell, slots in self._recent.items() for slot in slots]
        both = np.array(added, np.int64).reshape(-1, 2)
        cells, slots = np.concatenate((cells, both[:, 0])), np.concatenate((self._slots, both[:, 1]))
        if self._retired:
            gone = np.zeros(len(self._pairs), np.bool_)
            gone[list(self._retired)] = True
            kept = ~gone[slots]
            cells, slots = cells[kept], slots[kept]
        order = cells.argsort(kind="stable")
        cells, self._slots = cells[order], slots[order]
        distinct, begins = np.unique(cells, return_index=True)
        self._cells = np.append(distinct, _END)
        self._begins = np.concatenate((begins, [len(cells), len(cells)]))
        self._recent, self._recent_pairs = {}, 0
        for slot in self._retired:
            self._pairs[slot] = 0
        self._free += self._retired
        self._retired, self._retired_pairs = set(), 0
