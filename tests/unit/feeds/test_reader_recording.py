"""Recordings that marketfeed made, played again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from marketfeed.feed import FeedError
from marketfeed.ingest import FeedRunner
from marketfeed.model import ManualClock, TickStore
from marketfeed.model.tick import Ticks
from marketfeed.recording.folder import RecordingFolder
from marketfeed.recording.hour import ROW_GROUP_ROWS, LostTicks
from tests.unit.feeds.replay_helper import NOW, Context, play, replay
from tests.unit.recording.support import EPOCH, HOUR, SECOND, directory, files, numbers, some

SAME = ("ts_event", "kind", "venue_seq", "flags", "bid", "bid_size", "ask", "ask_size", "price", "size")


def record(path: Path, *runs: tuple[int, Ticks], feeds: int = 2) -> None:
    """Runs of (epoch, ticks), one after the other."""
    folder = RecordingFolder(path, ManualClock(HOUR))
    for epoch, ticks in runs:
        folder.begin(epoch, directory(feeds=feeds))
        folder.write(ticks, numbers(len(ticks)))
    folder.close()


def assert_same(got: Ticks, context: Context, wanted: Ticks, symbol: Callable[[int], str]) -> None:
    """Row for row, every column that is the recording's own."""
    assert len(got) == len(wanted)
    for name in SAME:
        assert np.array_equal(got[name], wanted[name], equal_nan=got.dtype[name].kind == "f"), name
    symbols = [context.symbols[number] for number in got["instrument"].tolist()]
    assert symbols == [symbol(number) for number in wanted["instrument"].tolist()]


def one_feed(number: int) -> str:
    return f"S{number}"


def alone(n: int, **more: int) -> Ticks:
    return some(n, feeds=1, **more)


def test_it_plays_the_same_ticks_row_for_row(tmp_path: Path) -> None:
    ticks = alone(10_000)
    record(tmp_path, (EPOCH, ticks), feeds=1)
    got, context = play(tmp_path)
    assert_same(got, context, ticks, one_feed)
    assert not context.refused


def test_several_hours_and_lives_follow_each_other_in_the_recorded_order(tmp_path: Path) -> None:
    # Times of events that go back across the files: by time alone these rows would mix.
    first, second = alone(150, step=60 * SECOND), alone(50, at=HOUR + 8_900 * SECOND, step=60 * SECOND)
    first["ts_event"][70:] -= 5_000 * SECOND
    second["ts_event"] -= 9_000 * SECOND
    record(tmp_path, (12, first), (11, second), feeds=1)
    assert len(files(tmp_path)) == 5
    wanted = np.concatenate([first, second])
    for target in (
        str(tmp_path),
        f"{tmp_path}/*.parquet",
        ",".join(str(tmp_path / name) for name in files(tmp_path)[::-1]),
    ):
        got, context = play(target)
        assert_same(got, context, wanted, one_feed)


def test_what_it_published_in_the_store_is_what_was_recorded(tmp_path: Path) -> None:
    ticks = alone(1_000)
    record(tmp_path, (EPOCH, ticks), feeds=1)
    store = TickStore.create(1 << 12, 16)
    runner = FeedRunner("again", replay(tmp_path), store, ManualClock(NOW), lambda: None)
    while runner.step() is not None:
        pass
    got = store.read(0).ticks
    for name in SAME:
        assert np.array_equal(got[name], ticks[name], equal_nan=got.dtype[name].kind == "f")
    assert not runner.stats.refused


# Feeds


def test_a_symbol_of_two_feeds_has_to_be_decided_on(tmp_path: Path) -> None:
    ticks = some(600)
    record(tmp_path, (EPOCH, ticks))
    with pytest.raises(FeedError, match=r"has S\d of the feeds f\d and f\d: say feed=f\d, and another replay for f\d"):
        replay(tmp_path)
    for number in range(2):
        got, context = play(tmp_path, feed=f"f{number}")
        assert_same(got, context, ticks[ticks["feed"] == number], lambda n: f"S{n // 2}")


def test_feeds_without_a_common_symbol_play_as_one(tmp_path: Path) -> None:
    ticks = some(600)
    ticks = ticks[np.isin(ticks["instrument"], (0, 2, 5))]  # S0, S1 of f0, and S2 of f1
    record(tmp_path, (EPOCH, ticks))
    got, context = play(tmp_path)
    assert_same(got, context, ticks, lambda n: f"S{n // 2}")


def test_only_symbols_that_are_wanted_have_to_be_decided_on(tmp_path: Path) -> None:
    ticks = some(600)
    ticks = ticks[ticks["instrument"] != 3]
    record(tmp_path, (EPOCH, ticks))
    got, context = play(tmp_path, symbol="S1")
    assert_same(got, context, ticks[ticks["instrument"] == 2], lambda n: "S1")
    assert not context.refused


@pytest.mark.parametrize(
    ("query", "message"), [({"feed": "f9"}, "has no feed 'f9'; it has: f0, f1"), ({"clock": "later"}, "event or recv")]
)
def test_what_the_recording_does_not_have_stops_the_start(tmp_path: Path, query: dict[str, str], message: str) -> None:
    record(tmp_path, (EPOCH, some(60)))
    with pytest.raises(FeedError, match=message):
        replay(tmp_path, **query)


@pytest.mark.parametrize("query", [{"feed": "f0"}, {"clock": "recv"}])
def test_options_of_recordings_are_told_to_be_of_recordings(tmp_path: Path, query: dict[str, str]) -> None:
    (tmp_path / "a.csv").write_text("time,symbol,price\n1700000000,A,1\n")
    with pytest.raises(FeedError, match=r"is of recordings that marketfeed made; .*a\.csv is none"):
        replay(tmp_path, **query)


# Time


def test_by_the_clock_of_the_recording_it_plays_as_it_came(tmp_path: Path) -> None:
    ticks = alone(3, step=10 * SECOND)
    ticks["ts_event"] = [HOUR, HOUR - 86_400 * SECOND, HOUR - 5 * SECOND]
    record(tmp_path, (EPOCH, ticks), feeds=1)
    feed = replay(tmp_path, clock="recv", speed="1")
    feed.open(Context(), NOW)
    when, now, due = [], NOW, NOW
    while due is not None:
        now = max(now, due)
        batch, due = feed.poll(now)
        when += [(now - NOW) // SECOND] * len(batch)
    assert when == [0, 10, 20]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ticks]:
    """Two hours of three row groups each; times of events that are not in order."""
    path = tmp_path_factory.mktemp("long")
    rows = 5 * ROW_GROUP_ROWS
    ticks = alone(rows, step=7_200 * SECOND // rows)
    ticks["ts_event"] += np.random.default_rng(1).integers(-SECOND, SECOND, rows)
    record(path, (EPOCH, ticks), feeds=1)
    return path, ticks


@pytest.mark.parametrize("share", [0.0, 0.1, 0.33, 0.5, 0.7, 0.999])
def test_from_a_start_it_plays_what_a_whole_replay_plays_from_there(long: tuple[Path, Ticks], share: float) -> None:
    path, ticks = long
    start = HOUR + int(7_200 * share) * SECOND
    got, context = play(path, start=f"{np.datetime64(start, 'ns')}")
    # A tick that happened earlier than one before it counts as of that one's time.
    first = int(np.searchsorted(np.maximum.accumulate(ticks["ts_event"]), start))
    assert_same(got, context, ticks[first:], one_feed)


def test_to_find_a_place_it_reads_no_row_group_in_front_of_it(long: tuple[Path, Ticks]) -> None:
    path, _ = long
    feed = replay(path, start="2025-03-01T11:59:00Z")
    feed.open(Context(), NOW)
    polls = next(polls for polls in range(1_000) if len(feed.poll(NOW).batch))
    feed.close()
    # A row group is 32 batches; without looking at what is in them it would be 158.
    assert polls < 40


def test_a_gap_is_told_when_it_is_played_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RecordingFolder(tmp_path, ManualClock(HOUR))
    folder.begin(EPOCH, directory(feeds=1))
    folder.lost(LostTicks(EPOCH, 5, 9, "lapped"))
    folder.write(alone(3), numbers(3, first=10))
    folder.close()
    caplog.clear()
    play(tmp_path)
    assert "the recording has 1 gaps, the first at seq 5" in caplog.text


def test_a_recording_of_a_later_format_is_not_guessed_at(tmp_path: Path) -> None:
    record(tmp_path, (EPOCH, alone(3)), feeds=1)
    path = tmp_path / files(tmp_path)[0]
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"marketfeed.format": b"2"}), path)
    with pytest.raises(FeedError, match="is of recording format 2; this version reads 1"):
        replay(path)


def test_a_file_of_which_a_page_is_damaged_plays_up_to_there(tmp_path: Path) -> None:
    record(tmp_path, (EPOCH, alone(300_000)), feeds=1)
    path = tmp_path / files(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 5 : len(data) * 3 // 5 + 4_000] = b"\xff" * 4_000
    path.write_bytes(data)
    got, context = play(tmp_path)
    assert 0 < len(got) < 300_000
    assert context.refused["damaged file"] == 1
