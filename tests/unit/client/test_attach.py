"""The read side of a shared store, with a clock that is moved by hand: every sleep moves it, and the server with it."""

import datetime
import fcntl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import marketfeed
from marketfeed.client.attach import Attached
from marketfeed.client.batch import Batch
from marketfeed.client.errors import AttachError, ClientError, WriterLost
from marketfeed.client.messages import Gap, Position
from marketfeed.model import QUOTE, TRADE, ManualClock
from marketfeed.model.shared import SharedStore, _lock
from tests.shm import memory_directory
from tests.ticks import numbered, same, ticks_in

RING = 64
FEEDS = {"sim": ["AAPL", "BTC-USD", "BTC-EUR"], "other": ["AAPL", "[X]"]}
INSTRUMENTS = 5


class World:
    """A server's store and its clock. ``at`` has what happens at which second of it, while somebody sleeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(monotonic=0.0)
        self.at: list[tuple[float, Callable[[], object]]] = []
        self.sleeps: list[float] = []
        self.beats = True
        self.server = self.start()

    def start(self) -> SharedStore:
        server = SharedStore("us", RING, INSTRUMENTS, self.folder)
        for feed, symbols in FEEDS.items():
            number = server.store.directory.add_feed(feed)
            for symbol in symbols:
                server.store.directory.add(number, symbol)
        server.announce(self.clock.now_ns())
        return server

    def publish(self, n: int) -> None:
        """Ticks whose number is their sequence number."""
        store = self.server.store
        store.publish(numbered(store.ring.head + 1, n, INSTRUMENTS))

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.sleeps.append(seconds)
        before = int(self.clock.monotonic())
        self.clock.advance(seconds)
        if self.beats and int(self.clock.monotonic()) > before:
            self.server.store.beat(self.clock.now_ns())
        for event in [event for event in self.at if event[0] <= self.clock.monotonic()]:
            self.at.remove(event)
            event[1]()

    def die(self) -> None:
        """As after kill -9: the lock is gone, nothing was said, and the file stays."""
        _lock(self.server._fd, fcntl.F_UNLCK)

    def attach(self, **options: float) -> Attached:
        return marketfeed.attach("us", directory=self.folder, clock=self.clock, sleep=self.sleep, **options)


@pytest.fixture
def world() -> Iterator[World]:
    with memory_directory() as folder:
        world = World(folder)
        with closing(world.server):
            yield world


def held(batches: list[Batch]) -> list[int]:
    """The sequence numbers of all ticks, each seen to be what was published under it."""
    seqs: list[int] = []
    for batch in batches:
        mine = batch.ticks["seq"].tolist()
        if mine:
            assert mine == list(range(mine[0], mine[0] + len(mine)))
            assert same(ticks_in(batch.ticks), numbered(mine[0], len(mine), INSTRUMENTS))
        seqs += mine
    return seqs


def lost(first: int, last: int) -> tuple[Gap, ...]:
    return (Gap(first, last, "lapped"),)


# ---- attaching -----------------------------------------------------------------------------------------------------


def test_it_tells_where_the_server_is_and_what_it_has(world: World) -> None:
    world.publish(3)
    with world.attach() as feed:
        assert (feed.name, feed.epoch) == ("us", world.server.store.epoch)
        assert (feed.head, feed.oldest, feed.ended) == (3, 1, False)
        assert feed.position == Position(3, feed.epoch)
        assert feed.feeds == ["sim", "other"]
        assert feed.instruments[2] == ("BTC-EUR", "sim")
        assert len(feed.instruments) == 5
        assert feed.symbols == ["AAPL", "BTC-USD", "BTC-EUR", "AAPL", "[X]"]
        feed.check()


def test_without_a_server_of_that_name_it_is_an_error(world: World) -> None:
    with pytest.raises(AttachError, match=r"no server shares 'eu' on this machine: there is no .*/marketfeed-eu"):
        marketfeed.attach("eu", directory=world.folder)
    with pytest.raises(ClientError, match=r"name is 1 to 64 letters.* not '\.\./us'"):
        marketfeed.attach("../us", directory=world.folder)


def test_the_file_of_a_server_that_died_is_an_error(world: World) -> None:
    world.die()
    with pytest.raises(WriterLost, match=r"the server that shared 'us', process \d+, has died; attach again when"):
        world.attach()


def test_a_server_that_hangs_is_an_error_from_the_first_look(world: World) -> None:
    world.clock.advance(5.5)
    with pytest.raises(WriterLost, match=r"shares 'us', process \d+, hangs: no heartbeat for 5\.5 s"):
        world.attach()
    world.attach(stale_after=6)


def test_a_wall_clock_that_is_set_is_not_taken_for_the_servers_death(world: World) -> None:
    with world.attach() as feed:
        feed.check()
        world.clock.set_wall(world.clock.now_ns() + 3_600_000_000_000)
        feed.check()
        world.server.store.beat(world.clock.now_ns() + 1_000_000_000)
        world.clock.set_wall(world.clock.now_ns() - 7_200_000_000_000)
        feed.check()


def test_a_server_that_hung_and_goes_on_can_be_read_on(world: World) -> None:
    with world.attach() as feed:
        world.clock.advance(6)
        with pytest.raises(WriterLost, match="hangs"):
            feed.check()
        world.server.store.beat(world.clock.now_ns())
        feed.check()


def test_what_was_closed_gives_nothing_more_and_what_it_gave_stays(world: World) -> None:
    world.publish(3)
    with world.attach() as feed:
        [batch] = feed.ticks()
        follow = feed.follow()
    for use in (feed.check, feed.latest, feed.ticks, feed.follow, lambda: feed.scan(len), lambda: next(follow)):
        with pytest.raises(AttachError, match="the feed 'us' was closed"):
            use()
    assert held([batch]) == [1, 2, 3]
    feed.close()


# ---- instruments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", [0, 1, 2, 3, 4]),
        ("AAPL", [0, 3]),
        ("BTC-*", [1, 2]),
        ("BTC-???", [1, 2]),
        ("sim:AAPL", [0]),
        ("*:AAPL", [0, 3]),
        ("sim:*", [0, 1, 2]),
        ("[X]", [4]),
        ("btc-*", []),
        ("", []),
    ],
)
def test_instruments_are_found_by_name_and_glob(world: World, pattern: str, found: list[int]) -> None:
    with world.attach() as feed:
        numbers = feed.find(pattern)
        assert (numbers.dtype, numbers.tolist()) == (np.uint32, found)


def test_one_instrument_is_found_or_it_is_an_error(world: World) -> None:
    with world.attach() as feed:
        assert (feed.find_one("BTC-USD"), feed.find_one("other:AAPL")) == (1, 3)
        with pytest.raises(LookupError, match="more than one instrument is named 'AAPL'"):
            feed.find_one("AAPL")
        with pytest.raises(LookupError, match="no instrument is named 'MSFT'"):
            feed.find_one("MSFT")


# ---- latest --------------------------------------------------------------------------------------------------------


def test_latest_is_the_last_quote_and_trade_of_each(world: World) -> None:
    world.publish(30)
    last: dict[tuple[int, int], int] = {}
    for number, tick in enumerate(numbered(1, 30, INSTRUMENTS), 1):
        last[int(tick["kind"]), int(tick["instrument"])] = number
    with world.attach() as feed:
        latest = feed.latest()
        seqs = latest.ticks["seq"]
        assert seqs.tolist() == sorted(last.values())
        assert same(ticks_in(latest.ticks), numbered(1, 30, INSTRUMENTS)[seqs.astype(np.int64) - 1])
        assert latest.symbols[0] == feed.symbols[latest.ticks["instrument"][0]]
        for kind in (QUOTE, TRADE):
            mine = sorted(seq for (of, _), seq in last.items() if of == kind)
            assert feed.latest(kind).ticks["seq"].tolist() == mine
        assert feed.latest(since=28).ticks["seq"].tolist() == [seq for seq in sorted(last.values()) if seq > 28]
        with pytest.raises(ValueError, match="kind is QUOTE or TRADE, not 7"):
            feed.latest(7)


def test_a_row_that_is_being_written_is_waited_for_not_left_out(world: World) -> None:
    world.publish(30)
    claims, seqs = world.server.store.latest._claims, world.server.store.latest._seqs
    cell = int(np.flatnonzero(seqs)[0])
    claims[cell] = 31

    def done() -> None:
        seqs[cell] = 31

    world.at.append((0.0002, done))
    with world.attach() as feed:
        assert feed.latest().ticks["seq"].tolist() == sorted(seqs[seqs > 0].tolist())
        assert len(world.sleeps) == 4


def test_no_last_prices_come_of_a_server_that_is_gone(world: World) -> None:
    world.publish(5)
    feed = world.attach()
    world.clock.advance(6)
    with pytest.raises(WriterLost, match="hangs"):
        feed.latest()
    world.die()
    with pytest.raises(WriterLost, match="has died"):
        feed.latest()
    assert held(list(feed.ticks())) == [1, 2, 3, 4, 5]  # history stays what it was


def test_no_last_prices_come_of_a_server_that_was_shut_down(world: World) -> None:
    world.publish(5)
    feed = world.attach()
    world.server.close()
    with pytest.raises(WriterLost, match="the server that shared 'us' was shut down"):
        feed.latest()
    assert feed.ended
    assert held(list(feed.ticks())) == [1, 2, 3, 4, 5]


# ---- ticks and scan ------------------------------------------------------------------------------------------------


def test_ticks_are_all_up_to_the_head_at_the_call_in_batches(world: World) -> None:
    world.publish(25)
    with world.attach() as feed:
        batches = feed.ticks(since=3, batch_rows=10)
        world.publish(10)
        got = list(batches)
        assert [len(batch) for batch in got] == [10, 10, 2]
        assert held(got) == list(range(4, 26))
        assert all(batch.gaps == () for batch in got)
        assert list(feed.ticks(since=35)) == []


def test_what_was_overwritten_is_told(world: World) -> None:
    world.publish(100)
    with world.attach() as feed:
        batches = feed.ticks(batch_rows=20)
        first = next(batches)
        assert first.gaps == lost(1, 36)
        world.publish(30)
        rest = list(batches)
        assert rest[0].gaps == lost(57, 66)
        assert held([first, *rest]) == [*range(37, 57), *range(67, 101)]


def test_ticks_that_are_all_overwritten_meanwhile_are_told_as_lost(world: World) -> None:
    world.publish(10)
    with world.attach() as feed:
        batches, scanned = feed.ticks(), feed.scan(len)
        world.publish(200)
        assert [(len(batch), batch.gaps) for batch in batches] == [(0, lost(1, 10))]
        assert list(scanned) == [(None, 11, 0, lost(1, 10))]


@pytest.mark.parametrize("make", [lambda p: p, lambda p: {"seq": p.seq, "epoch": p.epoch}, lambda p: p.seq])
def test_since_is_a_position_or_its_number(world: World, make: Callable[[Position], object]) -> None:
    world.publish(9)
    with world.attach() as feed:
        place = feed.position
        world.publish(3)
        assert held(list(feed.ticks(since=make(place)))) == [10, 11, 12]  # type: ignore[arg-type]  # each is one


@pytest.mark.parametrize(
    "since", ["1970-01-01T00:00:00.000020001Z", datetime.datetime(1970, 1, 1, 0, 0, 0, 20, datetime.UTC)]
)
def test_since_a_time_is_what_happened_after_it(world: World, since: str | datetime.datetime) -> None:
    world.publish(30)  # number n happened at n * 1,000 + 1 ns
    with world.attach() as feed:
        begin = 21 if isinstance(since, str) else 20
        assert held(list(feed.ticks(since=since))) == list(range(begin, 31))
        world.publish(70)
        batch, *_ = feed.ticks(since=since)
        assert batch.gaps == lost(1, 36)  # some of them came after that time


def test_what_is_no_place_is_an_error_at_once(world: World) -> None:
    world.publish(3)
    with world.attach() as feed:
        for use in (feed.ticks, feed.follow, lambda since: feed.scan(len, since)):
            for since, error, message in (
                (4, ValueError, r"since 4 is outside 0\.\.3"),
                (-1, ValueError, "since -1 is outside"),
                (1.5, TypeError, "float"),
                ("yesterday", ValueError, "not an RFC 3339 time"),
                (datetime.datetime(2026, 1, 1), ValueError, "no time zone"),  # that is what it is about
                (Position(2, 17), AttachError, f"of another life of the server: epoch 17, and now it is {feed.epoch}"),
            ):
                with pytest.raises(error, match=message):
                    use(since)
        with pytest.raises(ValueError, match="batch_rows is at least 1, not 0"):
            feed.ticks(batch_rows=0)


def test_a_scan_is_given_every_tick_without_a_copy(world: World) -> None:
    world.publish(100)
    with world.attach() as feed:
        slots = feed._store.ring._slots

        def shares_memory(ticks: np.ndarray) -> tuple[bool, list[int]]:
            return np.may_share_memory(ticks, slots), ticks["venue_seq"].tolist()

        found = list(feed.scan(shares_memory, batch_rows=40))
        assert all(scanned.value and scanned.value[0] for scanned in found)
        assert [(scanned.first, scanned.rows, scanned.gaps) for scanned in found] == [
            (37, 28, lost(1, 36)),  # up to where the ring's memory ends
            (65, 36, ()),
        ]
        assert [seq for scanned in found if scanned.value for seq in scanned.value[1]] == list(range(37, 101))


def test_what_a_scan_saw_torn_is_done_again_with_a_copy_of_what_is_left(world: World) -> None:
    world.publish(64)
    with world.attach() as feed:
        calls = []

        def summed(ticks: np.ndarray) -> float:
            calls.append(len(ticks))
            if len(calls) == 1:
                world.publish(10)
            return float(ticks["venue_seq"].sum())

        [scanned] = feed.scan(summed)
        assert calls == [64, 54]
        assert scanned == (sum(range(11, 65)), 11, 54, lost(1, 10))


def test_an_error_of_a_scans_function_counts_on_whole_rows_only(world: World) -> None:
    world.publish(64)
    with world.attach() as feed:

        def fails_on_torn(ticks: np.ndarray) -> int:
            if len(ticks) == 64:
                world.publish(1)
                raise RuntimeError("torn")
            return len(ticks)

        assert [scanned.value for scanned in feed.scan(fails_on_torn)] == [63]
        with pytest.raises(ZeroDivisionError):
            list(feed.scan(lambda ticks: 1 // 0))


def test_an_array_that_is_a_part_of_the_view_is_copied(world: World) -> None:
    world.publish(10)
    with world.attach() as feed:
        [scanned] = feed.scan(lambda ticks: ticks["venue_seq"][2:4])
        world.publish(64)
        assert scanned.value is not None
        assert scanned.value.tolist() == [3, 4]


# ---- follow --------------------------------------------------------------------------------------------------------


def test_follow_gives_what_comes_after_the_call_and_ends_when_its_time_is_over(world: World) -> None:
    world.publish(5)
    with world.attach() as feed:
        follow = feed.follow(timeout=10)
        for second in (2, 3, 8, 11):
            world.at.append((second, lambda: world.publish(2)))
        assert held(list(follow)) == [6, 7, 8, 9, 10, 11]
        assert world.clock.monotonic() == pytest.approx(10)
        assert follow.position == Position(11, feed.epoch)
        assert held(list(follow)) == [12, 13]  # another loop goes on, for as long again
        assert world.clock.monotonic() == pytest.approx(20)


def test_follow_ends_after_so_many_ticks(world: World) -> None:
    world.publish(20)
    with world.attach() as feed:
        follow = feed.follow(since=2, max_rows=7, batch_rows=4)
        first, second = list(follow), list(follow)
        assert [len(batch) for batch in first] == [4, 3]
        assert held(first + second) == list(range(3, 17))


def test_a_server_that_always_has_more_does_not_keep_follow_from_its_end(world: World) -> None:
    world.publish(1)
    with world.attach() as feed:
        taken = 0
        for batch in feed.follow(timeout=1):
            taken += len(batch)
            world.clock.advance(0.1)
            world.publish(1)
        assert taken == 0
        world.at.append((world.clock.monotonic() + 0.1, lambda: world.publish(1)))
        for batch in feed.follow(timeout=1):
            taken += len(batch)
            world.clock.advance(0.2)
            world.publish(1)
        assert 4 <= taken <= 6


def test_a_follower_that_is_lapped_is_told_what_it_lost_and_goes_on(world: World) -> None:
    with world.attach() as feed:
        world.at.append((0.5, lambda: world.publish(40)))
        world.at.append((1.0, lambda: world.publish(60)))
        world.at.append((1.0, lambda: world.publish(60)))
        batches = list(feed.follow(timeout=2))
        assert [batch.gaps for batch in batches if batch.gaps] == [lost(41, 96)]
        assert held(batches) == [*range(1, 41), *range(97, 161)]


def test_follow_looks_soon_at_first_and_seldom_later(world: World) -> None:
    with world.attach() as feed:
        list(feed.follow(timeout=2, nap=0.01))
        assert world.sleeps[0] == 50e-6
        assert max(world.sleeps) == pytest.approx(0.01)
        assert all(
            nap <= max(50e-6, waited / 8) + 1e-12
            for nap, waited in zip(world.sleeps, np.cumsum([0, *world.sleeps]), strict=False)
        )
        assert len(world.sleeps) < 300
        world.sleeps.clear()
        list(feed.follow(timeout=0.1, nap=20e-6))
        assert max(world.sleeps) == 20e-6


def test_follow_ends_when_the_server_is_shut_down_and_its_last_tick_was_given(world: World) -> None:
    with world.attach() as feed:

        def last_words() -> None:
            world.publish(3)
            world.server.close()

        world.at.append((0.5, last_words))
        follow = feed.follow()
        assert held(list(follow)) == [1, 2, 3]
        assert list(follow) == []
        assert feed.ended


def test_follow_tells_that_the_server_died_after_all_it_published(world: World) -> None:
    with world.attach() as feed:

        def crash() -> None:
            world.publish(3)
            world.die()

        world.at.append((0.5, crash))
        follow = feed.follow()
        assert held([next(follow)]) == [1, 2, 3]
        with pytest.raises(WriterLost, match="has died"):
            next(follow)
        assert follow.position == Position(3, feed.epoch)


def test_follow_tells_that_the_server_hangs_and_can_go_on_when_it_does(world: World) -> None:
    with world.attach() as feed:
        world.beats = False
        follow = feed.follow()
        with pytest.raises(WriterLost, match=r"hangs: no heartbeat for 5\.[0-2] s"):
            next(follow)
        world.server.store.beat(world.clock.now_ns())
        world.at.append((world.clock.monotonic() + 0.5, lambda: world.publish(1)))
        assert held([next(follow)]) == [1]


def test_a_server_that_was_started_anew_is_another_one(world: World) -> None:
    with world.attach() as feed:
        world.publish(3)
        place = feed.position

        def restart() -> None:
            world.die()
            world.server = world.start()
            world.publish(9)

        world.at.append((0.5, restart))
        with pytest.raises(WriterLost, match="has died"):
            next(feed.follow())
    with closing(world.server), world.attach() as anew:
        assert held(list(anew.ticks())) == list(range(1, 10))
        with pytest.raises(AttachError, match="of another life"):
            anew.ticks(since=place)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": -1}, "timeout is a number of seconds above 0, not -1"),
        ({"timeout": float("nan")}, "timeout is a number of seconds above 0, not nan"),
        ({"nap": -0.1}, "nap is a number of seconds"),
        ({"max_rows": -1}, "max_rows is a number of ticks, not -1"),
        ({"batch_rows": -5}, "batch_rows is at least 1, not -5"),
    ],
)
def test_what_follow_cannot_do_is_an_error(world: World, options: dict[str, float], message: str) -> None:
    with world.attach() as feed, pytest.raises(ValueError, match=message):
        feed.follow(**options)  # type: ignore[arg-type]  # that is what it is about
