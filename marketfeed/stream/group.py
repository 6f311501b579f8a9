"""A group is all in a lane who want exactly the same; a subscriber is a cursor."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.store import TickStore
from marketfeed.stream.encoding import Encoding
from marketfeed.stream.link import NO_WIRE, Link
from marketfeed.stream.subscription import CHANNELS, Condition, Options, Selection

if TYPE_CHECKING:
    from marketfeed.stream.lane import Lane
    from marketfeed.stream.session import Session

#: At most so many ticks go into one frame, so that it stays well below the 1 MiB that clients accept by default.
FRAME_TICKS = 2048

#: How a group is written.
Style = tuple[Encoding, type[Link]]


class Subscriber:
    """A cursor into the store that belongs to a session.

    In step = its lane's cursor is its cursor, and its group's frames are its frames. Else it is behind: it has taken
    all up to ``cursor``, and is served by itself until it has caught up.
    """

    def __init__(self, session: Session, options: Options, keys: set[tuple[int, str]], group: Group) -> None:
        self.session = session
        self.options = options
        #: (kind, pattern) of what it asked for
        self.keys = keys
        self.group = group
        self.in_step = False
        self.cursor = 0
        #: set = it is being given the latest of each symbol that changed after ``cursor`` up to here
        self.until: int | None = None
        #: cells below this one have had their turn in that pass
        self.next_cell = 0
        #: that pass takes several frames: they are of use only together
        self.in_pieces = False
        #: in that pass these have been given already, shape (kinds, capacity)
        self.given: NDArray[np.bool_] | None = None
        #: the newest that it has been given by itself
        self.top = 0
        #: (every tick) behind, it looks through so many ticks for a frame: about as many as make one of those it wants
        self.scan = FRAME_TICKS
        #: (latest lanes) seconds on the hub's clock before which it is given nothing more
        self.not_before = -inf

    @property
    def position(self) -> int:
        """All up to this sequence number it has been given, or needs no more."""
        return self.group.lane.cursor if self.in_step else self.cursor

    @property
    def reach(self) -> int:
        """Nothing beyond this sequence number has been given to it."""
        return max(self.position, self.until or 0, self.top)

    def begin_pass(self, until: int) -> None:
        """From now on it is given the latest of each symbol that changed after its cursor."""
        self.until, self.next_cell = until, 0


class Group:
    """All subscribers of a lane that get the same frames.

    Those in step are seated: in ``ready`` where the session has no other subscriber and its link has a wire, so that
    all of them are sent to in one call; else in ``careful``, where each is asked first whether it can take more.
    """

    def __init__(
        self, lane: Lane, selection: Selection, where: Condition | None, encoding: Encoding, link_type: type[Link]
    ) -> None:
        self.lane = lane
        self.selection = selection
        self.where = where
        self.encoding = encoding
        self.link_type = link_type
        self.style = encoding, link_type
        self.wrap = link_type.wrap
        #: its number in the lane's arrays
        self.slot = -1
        self.members = 0
        self.ready: dict[Subscriber, None] = {}
        self.careful: dict[Subscriber, None] = {}
        self._wires: NDArray[np.int64] | None = None
        #: kinds of which it takes everything
        self.wide = tuple(kind for kind in CHANNELS.values() if selection.takes_all(kind))
        self.cells: dict[int, None] = {}

    def seat(self, subscriber: Subscriber, alone: bool) -> None:
        """It is in step; ``alone`` = its session has no other subscriber."""
        seats = self.ready if alone and subscriber.session.link.wire != NO_WIRE else self.careful
        if subscriber in seats:
            return
        self.ready.pop(subscriber, None)
        self.careful.pop(subscriber, None)
        seats[subscriber] = None
        self._seated()

    def unseat(self, subscriber: Subscriber) -> None:
        """It is not in step any more, or in another group."""
        if subscriber in self.ready or subscriber in self.careful:
            self.ready.pop(subscriber, None)
            self.careful.pop(subscriber, None)
            self._seated()

    def _seated(self) -> None:
        self._wires = None
        wire = next(iter(self.ready)).session.link.wire if len(self.ready) == 1 else NO_WIRE
        self.lane.seats.set(self.slot, len(self.ready), len(self.careful), wire)

    @property
    def wires(self) -> NDArray[np.int64]:
        """Of those in ``ready``, in their order."""
        if self._wires is None:
            self._wires = np.array([subscriber.session.link.wire for subscriber in self.ready], np.int64)
        return self._wires

    def mask(self, store: TickStore) -> NDArray[np.bool_]:
        """Which (kind, instrument) it takes, shape (kinds, capacity)."""
        mask = self.selection.all_of_kinds(store.directory)
        mask.reshape(-1)[list(self.cells)] = True
        return mask


class Seats:
    """What a flush has to know of each group, in arrays by slot: see :class:`Group`.

    Attributes:
        ready, careful: how many of the group are in step, by where they sit.
        style: which of :attr:`Lane.styles` the group is written in.
    """

    def __init__(self) -> None:
        self._groups: list[Group | None] = []
        self.ready = np.zeros(16, np.int64)
        self.careful = np.zeros(16, np.int64)
        self.style = np.zeros(16, np.int64)
        #: the wire of the only one that is ready
        self._wire = np.full(16, NO_WIRE, np.int64)
        #: how many slots have nobody in step, and how many have somebody careful
        self._empty = self._with_careful = 0

    def add(self, group: Group, style: int) -> None:
        """A group in its slot."""
        while group.slot >= len(self._groups):
            self._groups.append(None)
            self._empty += 1
        for name in ("ready", "careful", "style", "_wire"):
            array = getattr(self, name)
            if group.slot >= len(array):
                setattr(self, name, np.concatenate((array, np.zeros_like(array))))
        self._groups[group.slot] = group
        self.style[group.slot] = style
        self._wire[group.slot] = NO_WIRE

    def remove(self, slot: int) -> None:
        """The slot has no group any more."""
        self.set(slot, 0, 0, NO_WIRE)
        self._groups[slot] = None

    def set(self, slot: int, ready: int, careful: int, wire: int) -> None:
        """So many of the group are in step; ``wire`` = of the only one that is ready."""
        before, with_care = int(self.ready[slot]), int(self.careful[slot])
        self._empty += int(not ready + careful) - int(not before + with_care)
        self._with_careful += int(careful > 0) - int(with_care > 0)
        self.ready[slot], self.careful[slot], self._wire[slot] = ready, careful, wire

    @property
    def all_taken(self) -> bool:
        """Whether every slot has somebody in step."""
        return not self._empty

    def taken(self) -> NDArray[np.int64]:
        """The slots that have somebody in step, ascending."""
        return ((self.ready + self.careful) > 0).nonzero()[0]

    def group(self, slot: int) -> Group:
        """Whose slot it is."""
        group = self._groups[slot]
        assert group is not None
        return group

    def with_care(self, slots: NDArray[np.int64]) -> dict[int, list[Subscriber]]:
        """Those who are careful, by slot; of these slots."""
        if not self._with_careful:
            return {}
        return {slot: list(self.group(slot).careful) for slot in slots[self.careful[slots] > 0].tolist()}

    def single(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The wires of those that are ready in these groups, each of which has one."""
        return self._wire[slots]

    def wires(self, slots: NDArray[np.int64], ready: NDArray[np.int64]) -> NDArray[np.int64]:
        """The wires of all that are ready in these groups; ``ready``: how many each has."""
        single = self._wire[slots]
        parts = [
            self.group(slot).wires if count > 1 else single[n : n + count]
            for n, (slot, count) in enumerate(zip(slots.tolist(), ready.tolist(), strict=True))
        ]
        return np.concatenate(parts)

    def at(
        self, slots: NDArray[np.int64], ready: NDArray[np.int64], which: NDArray[np.int64]
    ) -> list[tuple[int, Subscriber]]:
        """Whose wires these of :meth:`wires` are (ascending): the place of its slot, and who it is."""
        ends = ready.cumsum()
        found = []
        place, members, begin = -1, list[Subscriber](), 0
        for k, n in zip(which.tolist(), ends.searchsorted(which, side="right").tolist(), strict=True):
            if n != place:
                # Once a group: all of a large one may be late.
                place, members, begin = n, list(self.group(int(slots[n])).ready), int(ends[n] - ready[n])
            found.append((n, members[k - begin]))
        return found
