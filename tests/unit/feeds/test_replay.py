"""The replay feed: its targets, its pace, its bounds."""

import logging
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.replay import ReplayFeed
from marketfeed.feed import FeedError, FeedSpec
from marketfeed.ingest import FeedRunner
from marketfeed.model.clock import ManualClock
from marketfeed.model.store import TickStore
from tests.unit.feeds.replay_helper import NOW, Context, drain, joined, play, replay, same

T0 = 1_700_000_000
S = 10**9


def write(path: Path, *times: float, symbol: str = "A") -> Path:
    """A recording of trades at these seconds after T0; the price of each is its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{T0 * S + round(when * S)},{symbol},{number}\n" for number, when in enumerate(times))
    path.write_text(f"time,symbol,price\n{rows}")
    return path


def prices(feed: ReplayFeed, now: int) -> list[float]:
    """What plays at this moment: polls until nothing more is due."""
    got: list[float] = []
    while True:
        batch, due = feed.poll(now)
        got += batch["price"].tolist()
        if due is None or due > now:
            return got


# Pace


def test_the_first_tick_plays_at_once_and_every_other_one_when_it_is_due(tmp_path: Path) -> None:
    feed = replay(write(tmp_path / "a.csv", 100, 101, 101.5, 110), speed="1")
    feed.open(Context(), NOW)
    assert prices(feed, NOW) == [0]
    assert feed.poll(NOW).due_ns == NOW + 1 * S
    assert prices(feed, NOW + 1 * S - 1) == []
    assert prices(feed, NOW + 1 * S) == [1]
    assert prices(feed, NOW + 2 * S) == [2]
    assert feed.poll(NOW + 2 * S).due_ns == NOW + 10 * S
    assert prices(feed, NOW + 10 * S) == [3]
    assert feed.poll(NOW + 10 * S).due_ns is None


times_and_speed = st.tuples(
    st.lists(st.floats(0, 1_000), min_size=1, max_size=30).map(sorted),
    st.sampled_from(["0.1", "1", "3", "7.5", "1000"]),
)


@given(times_and_speed)
def test_every_tick_plays_exactly_when_it_is_due_at_any_speed(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[list[float], str]
) -> None:
    times, speed = drawn
    feed = replay(write(tmp_path_factory.getbasetemp() / "drawn.csv", *times), speed=speed)
    feed.open(Context(), NOW)
    first, now, played = round(times[0] * S), NOW, 0
    while True:
        batch, due = feed.poll(now)
        for price in batch["price"].tolist():
            assert price == played
            wanted = NOW + (round(times[played] * S) - first) / float(speed)
            assert abs(now - wanted) <= 1_000
            played += 1
        if due is None:
            break
        now = max(now, due)
    assert played == len(times)


def test_a_late_poll_catches_up_without_losing_the_pace(tmp_path: Path) -> None:
    feed = replay(write(tmp_path / "a.csv", 0, 1, 2, 3, 4), speed="2")
    feed.open(Context(), NOW)
    assert prices(feed, NOW + 1 * S + S // 4) == [0, 1, 2]
    assert feed.poll(NOW + 1 * S + S // 4).due_ns == NOW + 3 * S // 2


def test_a_clock_that_is_set_back_plays_nothing_twice(tmp_path: Path) -> None:
    feed = replay(write(tmp_path / "a.csv", 0, 1, 2, 3), speed="1")
    feed.open(Context(), NOW)
    assert prices(feed, NOW + 2 * S) == [0, 1, 2]
    assert prices(feed, NOW + 1 * S) == []
    assert prices(feed, NOW + 3 * S) == [3]


def test_a_tick_that_is_earlier_than_one_before_it_plays_right_after_that(tmp_path: Path) -> None:
    feed = replay(write(tmp_path / "a.csv", 0, 5, 1, 6), speed="1")
    feed.open(Context(), NOW)
    assert prices(feed, NOW + 4 * S) == [0]
    assert prices(feed, NOW + 5 * S) == [1, 2]
    assert prices(feed, NOW + 6 * S) == [3]


def test_as_fast_as_possible_each_poll_gives_the_next_batch(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", *range(20_000))
    batches = drain(replay(path), Context())
    assert joined(batches)["price"].tolist() == list(range(20_000))
    assert max(len(batch) for batch in batches) <= 4_096


def test_a_long_wait_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "feeds.replay")
    feed = replay(write(tmp_path / "a.csv", 0, 7_200), speed="2")
    feed.open(Context(), NOW)
    for after in range(10):
        prices(feed, NOW + after * S)
    assert [record.getMessage() for record in caplog.records] == [
        "the recording has nothing for the next 3600 s (at speed 2)"
    ]


def test_it_begins_anew_when_it_is_opened_again(tmp_path: Path) -> None:
    feed = replay(write(tmp_path / "a.csv", 0, 1), speed="1")
    for start in (NOW, NOW + 100 * S):
        feed.open(Context(), start)
        assert prices(feed, start) == [0]
    feed.close()
    feed.close()
    assert feed.poll(NOW).due_ns is None


# Loop


def test_a_loop_goes_on_at_the_same_pace_and_keeps_the_recorded_times(tmp_path: Path) -> None:
    feed = replay(write(tmp_path / "a.csv", 0, 1, 2), speed="1", loop="true")
    feed.open(Context(), NOW)
    played, when, now = [], [], NOW
    while len(played) < 9:
        batch, due = feed.poll(now)
        played += batch["price"].tolist()
        when += [(now - NOW) / S] * len(batch)
        assert set((batch["ts_event"] // S - T0).tolist()) <= {0, 1, 2}
        assert due is not None
        now = max(now, due)
    assert played == [0, 1, 2] * 3
    assert when == list(range(9))


def test_whoever_takes_the_ticks_is_told_when_they_begin_again(tmp_path: Path) -> None:
    context = Context()
    feed = replay(write(tmp_path / "a.csv", 0, 1, 2), loop="true")
    feed.open(context, NOW)
    given = 0
    while given < 8:
        batch, _ = feed.poll(NOW)
        if len(batch):
            assert context.rewinds == given // 3
        given += len(batch)
    feed.open(context, NOW)  # after a failure it begins again too
    assert context.rewinds == 3


def test_a_loop_of_one_tick_repeats_it_once_a_second(tmp_path: Path) -> None:
    feed = replay(write(tmp_path / "a.csv", 5), speed="1", loop="yes")
    feed.open(Context(), NOW)
    assert [prices(feed, NOW + after * S // 2) for after in range(5)] == [[0], [], [0], [], [0]]


def test_a_loop_without_a_single_tick_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ticks, _ = play(write(tmp_path / "a.csv", 0, 1, 2), loop="true", symbol="B")
    assert len(ticks) == 0
    assert "no ticks of B" in caplog.text


# Targets


def test_several_files_merge_by_time_and_equal_times_keep_the_order_of_the_files(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", 0, 2, 4, symbol="ONE")
    two = write(tmp_path / "two.csv", 1, 2, 3, symbol="TWO")
    wanted = ["ONE", "TWO", "ONE", "TWO", "TWO", "ONE"]
    for target, order in ((f"{one},{two}", wanted), (f"{two}, {one}", [*wanted[:2], "TWO", "ONE", *wanted[4:]])):
        ticks, context = play(target)
        assert [context.symbols[number] for number in ticks["instrument"]] == order


def test_a_folder_is_every_recording_below_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "deep" / "down" / "a.csv", 1)
    write(tmp_path / "b.csv", 0)
    (tmp_path / "README.md").write_text("not ticks")
    (tmp_path / ".hidden").write_text("not ticks")
    (tmp_path / "empty").touch()
    ticks, _ = play(tmp_path)
    assert len(ticks) == 2
    assert [Path(record.getMessage().split(" is ")[0]).name for record in caplog.records] == ["README.md", "empty"]


def test_a_glob_is_what_it_matches(tmp_path: Path) -> None:
    for name in ("a1.csv", "a2.csv", "b1.csv"):
        write(tmp_path / "x" / name, 0)
    assert len(play(tmp_path / "x" / "a*.csv")[0]) == 2
    assert len(play(tmp_path / "**" / "*1.csv")[0]) == 2


def test_a_file_that_is_named_twice_plays_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 0)
    assert len(play(f"{path},{tmp_path}")[0]) == 1


def test_a_name_with_a_comma_is_a_file_where_there_is_one(tmp_path: Path) -> None:
    assert len(play(write(tmp_path / "a,b.csv", 0))[0]) == 1


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "needs a file"),
        ("{}/missing.csv", "no such file"),
        ("{}/*.parquet", "no such file"),
        ("{}/notes.txt", "no recording"),
        ("{}/empty", "no recording"),
        ("{}/folder", "no recorded ticks in"),
        ("{}/*.txt", "no recorded ticks in"),
        ("{}/good.csv,{}/missing.csv", "no such file"),
        ("{}/cut.csv.gz", "cannot read"),
        ("{}/pipe", "neither a file nor a folder"),
    ],
)
def test_a_target_that_cannot_be_played_stops_the_start_with_one_line(
    tmp_path: Path, target: str, message: str
) -> None:
    import os

    (tmp_path / "notes.txt").write_text("hello\n")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    write(tmp_path / "good.csv", 0)
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00\x00")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FeedError, match=message) as raised:
        replay(target.format(tmp_path, tmp_path))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_gone_when_the_feed_opens_stops_the_start(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 0)
    feed = replay(path)
    path.unlink()
    with pytest.raises(FeedError, match="cannot read"):
        feed.open(Context(), NOW)


@pytest.mark.parametrize(
    "query", ["speed=0", "speed=-1", "speed=inf", "speed=nan", "speed=fast", "loop=perhaps", "symbol=", "tz=Mars/Base",
              "tz=../etc/passwd", "time_unit=min", "pace=1"]
)  # fmt: skip
def test_an_option_that_cannot_be_is_told(tmp_path: Path, query: str) -> None:
    path = write(tmp_path / "a.csv", 0)
    with pytest.raises(FeedError, match=query.split("=")[0]):
        FeedSpec.parse(f"replay:{path}?{query}").build()


def test_a_command_line_builds_the_feed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 0, 1)
    feed = FeedSpec.parse(f"replay:{path}?speed=max&loop=false&symbol=A,B*").build()
    assert isinstance(feed, ReplayFeed)
    assert len(joined(drain(feed, Context()))) == 2


# Symbols


def test_only_the_wanted_symbols_play_and_only_they_become_instruments(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{symbol}.csv", 0, 1, symbol=symbol) for symbol in ("AIG", "BAC", "EURUSD", "EURGBP")]
    ticks, context = play(",".join(map(str, paths)), symbol="BAC, EUR*")
    assert sorted(context.symbols) == ["BAC", "EURGBP", "EURUSD"]
    assert len(ticks) == 6


def test_a_full_directory_refuses_new_symbols_and_the_others_go_on(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{symbol}.csv", 0, 1, symbol=symbol) for symbol in ("AIG", "BAC")]
    ticks, context = play(",".join(map(str, paths)), Context(room=1))
    assert context.symbols == ["AIG"]
    assert len(ticks) == 2
    assert context.refused["directory full"] >= 1
    assert context.refused["tick of a refused symbol"] == 2


# In the store


def test_a_bad_row_is_refused_and_the_feed_goes_on_into_the_store(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "time,symbol,bid,ask,bid_size\n"
        "1700000000,A,1,2,3\n1700000001,A,x,2,3\n1700000002,A,1,2,-3\n1700000003,A,1,2,1e400\n1700000004,A,,,\n"
        "1700000005,A B,1,2,3\n-5,A,1,2,3\n1700000006,A,1.5,2,3\n"
    )
    store = TickStore.create(64, 16)
    clock = ManualClock(NOW)
    runner = FeedRunner("replay", replay(path, speed="1"), store, clock, lambda: None)
    due: int | None = 0
    while (due := runner.step()) is not None:
        clock.advance(max(0, due - clock.now_ns()) / 1e9)
    assert runner.stats.refused == {
        "unparsable bid": 1,
        "negative size": 1,
        "unparsable bid_size": 1,
        "no price": 1,
        "bad symbol": 1,
        "tick of a refused symbol": 1,
        "time before 1970": 1,
    }
    assert runner.stats.ticks == 2
    assert store.directory.symbols() == ["A"]


# Bounds


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A million rows, 34 MB."""
    path = tmp_path_factory.mktemp("large") / "large.csv"
    with path.open("w") as file:
        file.write("time,symbol,bid,ask\n")
        for thousand in range(1_000):
            start = T0 * 1_000 + thousand * 1_000
            file.writelines(f"{start + i},SYM{i % 10},{i}.25,{i}.50\n" for i in range(1_000))
    return path


def test_a_million_rows_are_never_whole_in_memory(large: Path) -> None:
    feed = replay(large)
    tracemalloc.start()
    try:
        feed.open(Context(), NOW)
        rows, due = 0, 0
        while due is not None:
            batch, due = feed.poll(NOW)
            rows += len(batch)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == 1_000_000
    assert peak < 20_000_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc to see what was read")
def test_the_first_tick_of_a_million_plays_after_a_small_part_was_read(large: Path) -> None:
    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    before = bytes_read()
    feed = replay(large)
    feed.open(Context(), NOW)
    got = 0
    while not got:
        got = len(feed.poll(NOW).batch)
    feed.close()
    assert got > 0
    assert bytes_read() - before < 1_000_000


def test_batches_are_safe_to_change_by_whoever_takes_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", *range(10_000))
    feed = replay(path)
    feed.open(Context(), NOW)
    got, due = [], 0
    while due is not None:
        batch, due = feed.poll(NOW)
        got.append(batch["price"].copy())
        batch["price"] = -1
        batch["ts_recv"] = 5
    assert same(np.concatenate(got), list(range(10_000)))
