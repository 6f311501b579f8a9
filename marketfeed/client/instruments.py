"""What the ids in records stand for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from marketfeed.client.errors import BadMessage
from marketfeed.client.messages import Instrument

#: Ids are below this: a server numbers its instruments from 0.
_MOST_IDS = 1 << 24


class InstrumentTable:
    """Id -> (symbol, feed), in one life of a server. It only grows; an id never comes to mean something else.

    Args:
        epoch: that life; None = a server that does not tell.
    """

    def __init__(self, epoch: int | None = None) -> None:
        self.epoch = epoch
        self._names: dict[int, tuple[str, str]] = {}
        self._ids: dict[tuple[str, str], int] = {}
        #: by id, whether it is known
        self._known = np.zeros(64, np.bool_)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, instrument: int) -> tuple[str, str]:
        """(symbol, feed) of that id; the feed is empty on `/v2/{feed}`."""
        return self._names[int(instrument)]

    def tell(self, instruments: Iterable[Instrument]) -> None:
        """Take in what a server tells.

        Raises:
            BadMessage: an id that is none, or one that stands for something else.
        """
        for each in instruments:
            name = (each.symbol, each.feed)
            if not 0 <= each.id < _MOST_IDS or self._names.get(each.id, name) != name:
                raise BadMessage(f"the server sent an instrument that cannot be: {each}")
            self._add(each.id, name)

    def id_of(self, symbol: str, feed: str) -> int:
        """The id of that instrument, a new one where it is not known."""
        name = (symbol, feed)
        known = self._ids.get(name)
        if known is None:
            known = len(self._names)
            self._add(known, name)
        return known

    def _add(self, i: int, name: tuple[str, str]) -> None:
        self._names[i] = name
        self._ids[name] = i
        if i >= len(self._known):
            grown = np.zeros(max(i + 1, 2 * len(self._known)), np.bool_)
            grown[: len(self._known)] = self._known
            self._known = grown
        self._known[i] = True

    def knows(self, ids: NDArray[np.uint32]) -> bool:
        """Whether all of these, shape (n,), have been told."""
        return not len(ids) or (int(ids.max()) < len(self._known) and bool(self._known[ids].all()))
