"""One process shares its memory, another reads it: writers at full speed, real servers, and every way to end them."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest

import marketfeed
from marketfeed.client.attach import Attached
from marketfeed.client.batch import Batch
from marketfeed.client.errors import AttachError, WriterLost
from marketfeed.client.follow import Follow
from marketfeed.client.messages import Gap, Quote
from marketfeed.model.tick import Ticks
from tests.integration.nursery import Process
from tests.integration.processes import BOUND, cli, process, python, serve, stream_of
from tests.integration.store_writer import INSTRUMENTS
from tests.integration.store_writing import Writer, expected, writing
from tests.shm import memory_directory
from tests.ticks import same, ticks_in

RING = 1_024


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_directory() as path:
        yield path


def bounded() -> Iterator[None]:
    """For as long as a test may take."""
    end = time.monotonic() + BOUND
    while time.monotonic() < end:
        yield
    pytest.fail(f"it took more than {BOUND} s")


class Account:
    """Every sequence number once: in a row that is what was published, or told as lost."""

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor
        self.rows = self.lost = self.laps = 0

    def take(self, ticks: Ticks, gaps: tuple[Gap, ...]) -> None:
        """Ticks, shape (n,), TICK, behind what was lost."""
        for gap in gaps:
            assert (gap.first, gap.reason) == (self.cursor + 1, "lapped")
            assert gap.last is not None
            self.lost += gap.last - self.cursor
            self.laps += 1
            self.cursor = gap.last
        first, self.cursor = self.cursor + 1, self.cursor + len(ticks)
        assert same(ticks, expected(np.arange(first, self.cursor + 1)))
        self.rows += len(ticks)

    def take_batch(self, batch: Batch) -> None:
        self.take(ticks_in(batch.ticks), batch.gaps)
        assert batch.ticks["seq"].tolist() == list(range(self.cursor - len(batch) + 1, self.cursor + 1))


def drain(follow: Follow, account: Account) -> None:
    for batch in follow:
        account.take_batch(batch)


# ---- a writer at full speed ----------------------------------------------------------------------------------------


def test_a_follower_of_a_writer_at_full_speed_gets_no_torn_row_and_every_tick_is_accounted_for(folder: Path) -> None:
    with writing(folder, RING, "us") as writer:
        feed = marketfeed.attach("us", directory=folder)
        account = Account(feed.head)
        begin = account.cursor
        follow = feed.follow(since=begin, nap=0)
        for _ in bounded():
            account.take_batch(next(follow))
            if account.rows > 500_000 and account.laps > 100:
                break
        head = writer.stop()
        for batch in follow:  # it ends: the writer was shut down
            account.take_batch(batch)
    assert account.cursor == head
    assert account.rows + account.lost == head - begin


def test_nothing_comes_of_rows_that_were_torn_under_a_scan(folder: Path) -> None:
    with writing(folder, RING, "us"), marketfeed.attach("us", directory=folder) as feed:
        calls = results = 0

        def rows_of(ticks: np.ndarray) -> np.ndarray:
            """The rows, when the writer has gone on: the oldest are others then."""
            nonlocal calls
            calls += 1
            head = feed.head
            for _ in bounded():
                if feed.head > head + RING // 4:
                    break
            return ticks.copy()

        for _ in bounded():
            account = Account()
            for value, first, rows, gaps in feed.scan(rows_of, batch_rows=RING // 2):
                results += 1
                account.take(expected(np.arange(0)) if value is None else value, gaps)
                assert (first + rows - 1, rows) == (account.cursor, 0 if value is None else len(value))
            if calls > results + 20:  # so often it was torn, and done again
                break


def at_work(feed: Attached) -> bool:
    """Whether the writer is writing a row of the latest table."""
    table = feed._store.latest
    return table.count(0, table.capacity) > len(table.since(0).ticks)


def freeze(writer: Writer, feed: Attached, at: bool) -> None:
    """Let the writer stand where it is writing a row of the latest table, or nothing, with ticks in the ring."""
    ring = feed._store.ring
    for _ in bounded():
        writer.freeze()
        claims = ring.oldest + ring.capacity - 1 > ring.head
        if feed.head > 10_000 and at_work(feed) == at and (at or not claims):
            return
        writer.go_on()


def test_the_latest_are_of_every_instrument_also_while_the_writer_is_at_work(folder: Path) -> None:
    quoted = np.unique(expected(np.arange(1, 10_000))["instrument"]).tolist()
    with writing(folder, RING, "us") as writer, marketfeed.attach("us", directory=folder) as feed:
        waited = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            writer.go_on()

        feed._sleep = sleep
        for _ in range(20):
            freeze(writer, feed, at=True)
            waited.clear()
            ticks = feed.latest().ticks
            assert waited
            assert np.unique(ticks["instrument"]).tolist() == quoted
            assert same(ticks_in(ticks), expected(ticks["seq"].astype(np.int64)))


def test_a_follower_of_a_writer_that_is_killed_is_told_so_after_all_it_published(folder: Path) -> None:
    with writing(folder, RING, "us") as writer:
        feed = marketfeed.attach("us", directory=folder)
        follow = feed.follow()
        account = Account(follow.position.seq)
        account.take_batch(next(follow))
        writer.kill()
        with pytest.raises(WriterLost, match="has died"):
            drain(follow, account)
        assert account.cursor == feed.head
        with pytest.raises(WriterLost, match="has died"):
            marketfeed.attach("us", directory=folder)


def test_a_writer_that_stands_still_is_told_from_one_that_is_quiet(folder: Path) -> None:
    with writing(folder, RING, "us") as writer:
        feed = marketfeed.attach("us", directory=folder, stale_after=3)
        writer.freeze()
        follow = feed.follow()
        with pytest.raises(WriterLost, match="hangs: no heartbeat for"):
            for _ in follow:
                pass
        writer.go_on()
        for _ in bounded():
            try:
                next(follow)
                break
            except WriterLost:
                continue  # it has not beaten yet


# ---- a server ------------------------------------------------------------------------------------------------------


@contextmanager
def sharing(folder: Path, *arguments: str) -> Iterator[tuple[Process, str]]:
    """A server that shares its memory as "us"; its process and address."""
    options = ["--share", "us", "--share-dir", str(folder), "--port", "0", "--log-level", "error", *arguments]
    with process(*serve(), *options) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line.startswith("marketfeed on "), line
        yield running, line.split()[-1]


def refused(folder: Path, *arguments: str) -> str:
    """What a server that cannot start says on its standard error."""
    done = cli("serve", "--share-dir", str(folder), *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_what_is_attached_to_is_what_goes_over_the_wire(folder: Path) -> None:
    with sharing(folder) as (_, address), marketfeed.attach("us", directory=folder) as feed:
        assert feed.feeds == ["sim"]
        with marketfeed.connect_sync(stream_of(address)) as wire:
            wire.subscribe(quotes=["*"], trades=["*"], since={"seq": 0})
            messages = [next(wire) for _ in range(2_000)]
        [batch] = feed.ticks()
    assert batch.gaps == ()
    for message in messages:
        tick = batch.ticks[message.seq - 1]
        assert tick["seq"] == message.seq
        assert batch.instruments[tick["instrument"]] == (message.symbol, message.feed)
        assert tick["ts_event"] == message.t
        columns = ["bid", "bid_size", "ask", "ask_size"] if isinstance(message, Quote) else ["price", "size"]
        sent = [getattr(message, column) for column in columns]
        assert np.array_equal([tick[column] for column in columns], sent, equal_nan=True)


def test_a_server_beats_while_its_feeds_are_quiet(folder: Path) -> None:
    with sharing(folder, "--feed", "sim?rate=1&symbols=1"), marketfeed.attach("us", directory=folder) as feed:
        beats = {feed._store.beat_ns}
        for _ in bounded():
            beats.add(feed._store.beat_ns)
            if len(beats) == 3:
                break
        assert all(abs(time.time_ns() - beat) < BOUND * 1e9 for beat in beats)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_shutdown_ends_every_follower_and_removes_the_file(folder: Path, number: signal.Signals) -> None:
    with sharing(folder) as (server, _), marketfeed.attach("us", directory=folder) as feed:
        follow = feed.follow(since=0)
        account = len(next(follow).ticks)
        server.send_signal(number)
        for batch in follow:
            account += len(batch)
        assert (account, feed.ended) == (feed.head, True)
        assert list(folder.iterdir()) == []
        assert server.wait(BOUND) == 0
        with pytest.raises(WriterLost, match="was shut down"):
            feed.latest()
        with pytest.raises(AttachError, match="no server shares 'us'"):
            marketfeed.attach("us", directory=folder)


def test_after_a_kill_followers_are_told_and_the_next_start_cleans_up(folder: Path) -> None:
    with sharing(folder) as (server, _):
        feed = marketfeed.attach("us", directory=folder)
        follow = feed.follow()
        next(follow)
        server.kill()
        with pytest.raises(WriterLost, match=f"process {server.pid}, has died"):
            for _ in follow:
                pass
    with pytest.raises(WriterLost, match="has died"):
        marketfeed.attach("us", directory=folder)
    left = (folder / "marketfeed-us").stat().st_ino
    with sharing(folder), marketfeed.attach("us", directory=folder) as anew:
        assert [path.name for path in folder.iterdir()] == ["marketfeed-us"]
        assert (folder / "marketfeed-us").stat().st_ino != left
        assert anew.epoch != feed.epoch
        assert len(next(anew.follow()).ticks)
        with pytest.raises(WriterLost, match="has died"):
            next(follow)
        with pytest.raises(AttachError, match="of another life of the server"):
            anew.follow(since=follow.position)


def test_the_second_server_of_a_name_says_so_in_one_line_and_leaves_the_first_alone(folder: Path) -> None:
    with sharing(folder) as (server, _), marketfeed.attach("us", directory=folder) as feed:
        said = refused(folder, "--share", "us", "--port", "0")
        assert said == (
            f"Error: share: the name 'us' is taken by another server, process {server.pid}: {folder}/marketfeed-us\n"
        )
        next(feed.follow())
        with marketfeed.attach("us", directory=folder) as again:
            assert again.epoch == feed.epoch


def test_a_server_that_cannot_start_leaves_nothing_behind(folder: Path) -> None:
    with sharing(folder) as (_, address):
        said = refused(folder, "--share", "eu", "--port", str(urlparse(address).port))
        assert "cannot listen on 127.0.0.1" in said
        assert [path.name for path in folder.iterdir()] == ["marketfeed-us"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--share", "../us"], "share: a shared store's name is 1 to 64 letters, digits"),
        (["--share", "us", "--share-dir", "/nowhere"], "share: cannot share a store in /nowhere: No such file"),
        (["--share", "us", "--ring-ticks", str(1 << 30), "--instruments", str(1 << 24)], "has no room for a ring of"),
    ],
)
def test_what_cannot_be_shared_is_told_in_one_line(folder: Path, arguments: list[str], message: str) -> None:
    said = refused(folder, *arguments, "--port", "0")
    assert said.startswith("Error: ")
    assert message in said
    assert said.count("\n") == 1


FOLLOWER = """
import sys, marketfeed
with marketfeed.attach("us", directory=sys.argv[1]) as feed:
    for batch in feed.follow():
        print(len(batch.ticks), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_script_that_follows_can_be_interrupted_and_killed_and_nobody_else_minds(
    folder: Path, number: signal.Signals
) -> None:
    with sharing(folder), marketfeed.attach("us", directory=folder) as feed:
        with python("-c", FOLLOWER, str(folder), stderr=subprocess.PIPE) as script:
            assert script.stdout is not None
            assert int(script.stdout.readline()) > 0
            script.send_signal(number)
            assert script.wait(BOUND) == -number
            assert script.stderr is not None
            said = script.stderr.read().strip()
            script.stdout.read()
        assert said.endswith("KeyboardInterrupt" if number == signal.SIGINT else "")
        next(feed.follow())
        feed.check()
        assert [path.name for path in folder.iterdir()] == ["marketfeed-us"]


def test_a_wait_that_was_interrupted_goes_on_where_it_was(folder: Path) -> None:
    with writing(folder, RING, "us") as writer, marketfeed.attach("us", directory=folder) as feed:
        freeze(writer, feed, at=False)
        follow = feed.follow(since=feed.head - 10, nap=0.01)
        account = Account(follow.position.seq)
        account.take_batch(next(follow))

        def interrupt(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                next(follow)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert (account.rows, follow.position.seq) == (10, account.cursor)
        writer.go_on()
        account.take_batch(next(follow))


def test_a_reader_writes_nothing(folder: Path) -> None:
    with writing(folder, RING, "us") as writer, marketfeed.attach("us", directory=folder) as feed:
        freeze(writer, feed, at=False)
        before = (folder / "marketfeed-us").read_bytes()
        for batch in feed.ticks(batch_rows=100):
            assert len(batch)
        assert sum(scanned.rows for scanned in feed.scan(len)) == RING
        assert len(feed.latest().ticks)
        assert len(feed.instruments) == INSTRUMENTS
        assert list(feed.follow(timeout=0.01)) == []
        assert (folder / "marketfeed-us").read_bytes() == before
