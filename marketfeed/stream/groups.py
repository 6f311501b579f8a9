"""Who is in which lane and group: the memberships of every session's subscribers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import ceil

from marketfeed.model.store import TickStore
from marketfeed.stream.encoding import ENCODINGS, Encoding
from marketfeed.stream.frames import Framer
from marketfeed.stream.group import Group, Style, Subscriber
from marketfeed.stream.lane import Lane
from marketfeed.stream.session import Session
from marketfeed.stream.subscription import OfLength, Options, Rule, Selection, is_glob

#: The slowest cadence there is.
_LONGEST_SECONDS = 3600.0


class Groups:
    """Every lane with its groups; those that nobody is in any more are gone.

    Args:
        coalesce: seconds, the window of the lane of every tick and the unit of all others.
    """

    def __init__(self, store: TickStore, coalesce: float) -> None:
        self._store = store
        self._coalesce = coalesce
        self._lanes: dict[tuple[bool, float], Lane] = {}
        self._encodings: dict[tuple[str, bool, frozenset[str] | None], Encoding] = {}
        #: length of bars, s -> how many groups want such
        self.bar_lengths: Counter[int] = Counter()
        self._framers: dict[Style, Framer] = {}

    def lanes(self) -> list[Lane]:
        """Those that have somebody in them."""
        return list(self._lanes.values())

    def encoding(self, name: str, with_feed: bool, fields: frozenset[str] | None = None) -> Encoding:
        """The one instance of that encoding."""
        key = (name, with_feed, fields)
        if key not in self._encodings:
            self._encodings[key] = ENCODINGS[name](self._store.directory, with_feed, fields)
        return self._encodings[key]

    def framer(self, style: Style) -> Framer:
        """The one instance for groups that are written so."""
        if style not in self._framers:
            self._framers[style] = Framer(*style)
        return self._framers[style]

    def instruments_added(self, begin: int) -> None:
        """Instruments from id ``begin`` on are new: they are routed, and told to those whose ticks name them by id."""
        for lane in self.lanes():
            ids_of = {
                group: [i for _, i in group.selection.resolve(self._store.directory, begin)]
                for group in lane.instruments_added(begin)
                if group.encoding.RECORDS
            }
            if not any(ids_of.values()):
                continue
            in_step = [subscriber for group in ids_of for subscriber in (*group.ready, *group.careful)]
            for subscriber in (*in_step, *lane.behind):
                subscriber.session.introduce(ids_of.get(subscriber.group, ()))

    # ---- a session's subscribers ----------------------------------------------------------------------

    def add(
        self, session: Session, keys: set[tuple[int, str]], options: Options, named: Iterable[tuple[int, str]]
    ) -> Subscriber:
        """A new subscriber, behind, that takes these keys from whoever has them."""
        self.take_away(session, keys)
        session.state.update(dict.fromkeys(named, options))
        group = self._join_group(session, options, self.selection(session, keys))
        subscriber = Subscriber(session, options, keys, group)
        session.subscribers.append(subscriber)
        self.regroup(session)
        group.lane.behind[subscriber] = None
        return subscriber

    def selection(self, session: Session, keys: set[tuple[int, str]]) -> Selection:
        """What a subscriber of these keys takes, beside what the session has besides."""
        state = session.state.keys() | keys
        return Selection(session.feed, _rules(state, _of_feeds(state), keys))

    def take_away(self, session: Session, keys: set[tuple[int, str]]) -> None:
        for subscriber in list(session.subscribers):
            subscriber.keys -= keys
            if not subscriber.keys:
                self.remove(subscriber)

    def open_subscriber(self, session: Session, options: Options) -> Subscriber | None:
        """One that more symbols may simply be added to: it is in step."""
        for subscriber in session.subscribers:
            if subscriber.options == options and subscriber.in_step:
                return subscriber
        return None

    def remove(self, subscriber: Subscriber) -> None:
        session, group = subscriber.session, subscriber.group
        session.subscribers.remove(subscriber)
        group.unseat(subscriber)
        group.lane.behind.pop(subscriber, None)
        self._leave_group(group, subscriber.options)
        self.place(session)

    # ---- in step or behind --------------------------------------------------------------------------------------

    def join(self, subscriber: Subscriber) -> bool:
        """Go in step, if it is where its lane is and can take more. Returns whether it is in step now."""
        session, lane = subscriber.session, subscriber.group.lane
        if subscriber.cursor != lane.cursor or not session.can_take:
            return False
        lane.behind.pop(subscriber, None)
        for other in session.subscribers:
            if other is not subscriber and other.in_step and other.options == subscriber.options:
                # Same wish, same place: one subscriber does for both.
                other.keys |= subscriber.keys
                self.remove(subscriber)
                self.regroup(session)
                return True
        subscriber.in_step = True
        self.place(session)
        return True

    def leave(self, subscriber: Subscriber) -> None:
        group = subscriber.group
        group.unseat(subscriber)
        subscriber.in_step = False
        subscriber.cursor = group.lane.cursor
        group.lane.behind[subscriber] = None

    def place(self, session: Session) -> None:
        """Those in step go where the fast path may take them, or where it may not."""
        alone = len(session.subscribers) == 1
        for subscriber in session.subscribers:
            if subscriber.in_step:
                subscriber.group.seat(subscriber, alone)

    # ---- lanes and groups -------------------------------------------------------------------------------------

    def lane(self, options: Options) -> Lane:
        every = options.max_hz is None
        interval = self._coalesce if options.max_hz is None else self.interval(options.max_hz)
        key = (every, interval)
        if key not in self._lanes:
            self._lanes[key] = Lane(self._store, every, interval)
        return self._lanes[key]

    def interval(self, max_hz: float) -> float:
        """Seconds between two flushes: no shorter than asked for, and of few enough different lengths.

        Whole coalescing windows, of which only the five leading bits count: at most 3.2 % longer than asked for, and
        some hundred lanes at the most, whatever clients ask.
        """
        windows = max(1, ceil(min(1.0 / max_hz, _LONGEST_SECONDS) / self._coalesce))
        step = 1 << max(0, windows.bit_length() - 5)
        return -(-windows // step) * step * self._coalesce

    def _drop_empty_lane(self, lane: Lane) -> None:
        if not lane.groups:
            self._lanes = {key: other for key, other in self._lanes.items() if other is not lane}

    def _drop_style(self, group: Group, options: Options) -> None:
        """Which keys of a message are wanted is any client's choice: what was made for that goes with the last one."""
        if options.fields is None or any(group.style in lane.styles for lane in self._lanes.values()):
            return
        self._framers.pop(group.style, None)
        encoding = group.encoding
        if not any(encoding is other for lane in self._lanes.values() for other, _ in lane.styles):
            self._encodings.pop((encoding.NAME, encoding.with_feed, options.fields), None)

    def regroup(self, session: Session) -> None:
        """Put each of the session's subscribers into the group of those who want the same."""
        of_feeds = _of_feeds(session.state)
        for subscriber in session.subscribers:
            rules = _rules(session.state, of_feeds, subscriber.keys)
            old = subscriber.group
            if old.selection.rules == rules:
                continue
            selection = Selection(session.feed, rules)
            if old.members == 1 and self._extend(old, subscriber.options, selection):
                continue
            subscriber.group = self._join_group(session, subscriber.options, selection)
            old.unseat(subscriber)
            self._leave_group(old, subscriber.options)
        self.place(session)

    def _extend(self, group: Group, options: Options, selection: Selection) -> bool:
        """Have a group of one take more, where nobody else takes just that already."""
        groups = group.lane.groups
        if selection.condition(options) != group.where:
            return False
        rest = (options, group.encoding, group.link_type)
        old = group.selection
        if (selection, *rest) in groups or not group.lane.extend(group, selection):
            return False
        groups[(selection, *rest)] = groups.pop((old, *rest))
        return True

    def _join_group(self, session: Session, options: Options, selection: Selection) -> Group:
        lane, encoding = self.lane(options), session.encoding
        if options.fields is not None:
            encoding = self.encoding(encoding.NAME, encoding.with_feed, options.fields)
        key = (selection, options, encoding, type(session.link))
        group = lane.groups.get(key)
        if group is None:
            condition = selection.condition(options)
            group = lane.groups[key] = Group(lane, selection, condition, encoding, type(session.link))
            lane.add(group)
            if isinstance(condition, OfLength):
                self.bar_lengths[condition.seconds] += 1
        group.members += 1
        return group

    def _leave_group(self, group: Group, options: Options) -> None:
        group.members -= 1
        if not group.members:
            lane = group.lane
            del lane.groups[group.selection, options, group.encoding, group.link_type]
            lane.remove(group)
            self._drop_empty_lane(lane)
            self._drop_style(group, options)
            if isinstance(group.where, OfLength):
                self.bar_lengths[group.where.seconds] -= 1
                self.bar_lengths += Counter()  # what nobody wants is gone


def _of_feeds(state: Iterable[tuple[int, str]]) -> dict[tuple[int, str], list[str]]:
    """The patterns that name a feed, by kind and what they name of it."""
    found: dict[tuple[int, str], list[str]] = {}
    for kind, pattern in state:
        _, colon, name = pattern.partition(":")
        if colon:
            found.setdefault((kind, name), []).append(pattern)
    return found


def _rules(
    state: Iterable[tuple[int, str]], of_feeds: dict[tuple[int, str], list[str]], keys: set[tuple[int, str]]
) -> set[Rule]:
    """What a subscriber with these keys takes, and what it leaves to the others of its session, where a glob of its own
    covers that too, or a symbol that does not name its feed. Without a glob this costs as much as it has keys."""
    rules = {Rule(kind, pattern, True) for kind, pattern in keys}
    globbed = {kind for kind, pattern in keys if is_glob(pattern)}
    others = {(kind, pattern) for kind, name in keys for pattern in of_feeds.get((kind, name), ())}
    if globbed:
        others.update(key for key in state if key[0] in globbed)
    rules.update(Rule(kind, pattern, False) for kind, pattern in others - keys)
    return rules
