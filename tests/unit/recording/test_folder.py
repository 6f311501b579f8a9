"""A folder of recorded hours, and what is left of it after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.model import ManualClock
from marketfeed.recording.folder import PIECE_SECONDS, FolderBusy, RecordingFolder
from marketfeed.recording.hour import ROW_GROUP_ROWS, LostTicks
from tests.unit.recording.support import (
    EPOCH,
    HOUR,
    SECOND,
    directory,
    files,
    leftovers,
    numbers,
    opened,
    seqs,
    some,
    told,
)

# Files and their names


def test_ticks_of_one_hour_are_one_file_that_pandas_reads(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    ticks = some(100)
    folder.write(ticks[:40], numbers(40))
    folder.write(ticks[40:], numbers(60, first=41))
    folder.close()
    assert files(tmp_path) == ["20250301T10Z-000.parquet"]
    assert leftovers(tmp_path) == []
    frame = pd.read_parquet(tmp_path / "20250301T10Z-000.parquet")
    assert frame["seq"].tolist() == list(range(1, 101))
    assert frame["symbol"].dtype == "category"
    assert frame["feed"].tolist() == [f"f{feed}" for feed in ticks["feed"]]
    assert frame["ts_event"].dtype == "datetime64[ns, UTC]"
    for name in ("ts_event", "ts_recv"):
        assert frame[name].astype("int64").tolist() == ticks[name].tolist()
    for name in ("bid", "bid_size", "ask", "ask_size", "price", "size", "kind", "venue_seq", "flags"):
        assert np.array_equal(frame[name].to_numpy(), ticks[name], equal_nan=name not in ("kind", "venue_seq", "flags"))


def test_a_file_ends_with_the_hour_of_ts_recv(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    # 90 minutes, a tick a minute, in one batch.
    folder.write(some(90, step=60 * SECOND), numbers(90))
    folder.close()
    assert files(tmp_path) == ["20250301T10Z-000.parquet", "20250301T11Z-000.parquet"]
    assert [pq.read_metadata(tmp_path / name).num_rows for name in files(tmp_path)] == [60, 30]
    assert seqs(tmp_path) == list(range(1, 91))


def test_a_clock_that_is_set_back_begins_no_file_anew(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    for number, minutes in enumerate((58, 61, 57, 119, 59, 121), 1):
        folder.write(some(1, at=HOUR + minutes * 60 * SECOND), numbers(1, first=number))
    folder.close()
    assert [pq.read_metadata(tmp_path / name).num_rows for name in files(tmp_path)] == [1, 4, 1]
    assert seqs(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_the_hour_ends_although_nothing_comes_any_more(tmp_path: Path) -> None:
    clock = ManualClock(HOUR)
    folder = opened(tmp_path, clock)
    folder.write(some(5), numbers(5))
    clock.advance(3_599)
    folder.turn()
    assert files(tmp_path) == []
    clock.advance(1)
    folder.turn()
    assert files(tmp_path) == ["20250301T10Z-000.parquet"]
    assert leftovers(tmp_path) == []
    folder.close()


def test_another_life_of_the_server_is_another_file(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    folder.write(some(5), numbers(5))
    folder.begin(12, directory())
    folder.write(some(3), numbers(3))
    folder.close()
    assert files(tmp_path) == ["20250301T10Z-000.parquet", "20250301T10Z-001.parquet"]
    assert [told(tmp_path / name, "epoch") for name in files(tmp_path)] == [EPOCH, 12]


def test_a_recording_that_goes_on_in_the_same_hour_is_another_file(tmp_path: Path) -> None:
    for begin in (1, 11):
        folder = opened(tmp_path)
        folder.write(some(10, first=begin), numbers(10, first=begin))
        folder.close()
    assert files(tmp_path) == ["20250301T10Z-000.parquet", "20250301T10Z-001.parquet"]
    assert seqs(tmp_path) == list(range(1, 21))


def test_a_folder_in_which_nothing_came_has_no_file(tmp_path: Path) -> None:
    folder = opened(tmp_path / "deep" / "down")
    folder.turn()
    folder.close()
    assert (files(tmp_path / "deep" / "down"), leftovers(tmp_path / "deep" / "down")) == ([], [])


def test_a_file_tells_which_instruments_it_has(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    ticks = some(200)
    ticks = ticks[ticks["instrument"] != 3]
    folder.write(ticks, numbers(len(ticks)))
    folder.close()
    found = told(tmp_path / "20250301T10Z-000.parquet", "instruments")
    assert {feed: sorted(symbols) for feed, symbols in found.items()} == {"f0": ["S0", "S1", "S2"], "f1": ["S0", "S2"]}


def test_row_groups_are_full_whatever_the_pieces_were(tmp_path: Path) -> None:
    clock = ManualClock(HOUR)
    folder = opened(tmp_path, clock)
    piece = ROW_GROUP_ROWS // 4
    for number in range(9):
        folder.write(some(piece, first=1 + number * piece), numbers(piece, first=1 + number * piece))
        clock.advance(PIECE_SECONDS)
        folder.turn()
    folder.close()
    read = pq.read_metadata(tmp_path / "20250301T10Z-000.parquet")
    sizes = [read.row_group(number).num_rows for number in range(read.num_row_groups)]
    assert sizes == [ROW_GROUP_ROWS, ROW_GROUP_ROWS, piece]


def test_one_folder_takes_one_recording_at_a_time(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    with pytest.raises(FolderBusy, match="another process records into"):
        RecordingFolder(tmp_path, ManualClock())
    folder.close()
    RecordingFolder(tmp_path, ManualClock()).close()


# Gaps


def test_what_is_lost_stands_in_the_file_and_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(HOUR)
    folder = opened(tmp_path, clock)
    folder.write(some(5), numbers(5))
    for first in (6, 21):
        folder.lost(LostTicks(EPOCH, first, first + 4, "lapped"))
        folder.write(some(10, first=first + 5), numbers(10, first=first + 5))
    folder.close()
    assert told(tmp_path / "20250301T10Z-000.parquet", "gaps") == [
        {"epoch": EPOCH, "first": 6, "last": 10, "reason": "lapped"},
        {"epoch": EPOCH, "first": 21, "last": 25, "reason": "lapped"},
    ]
    assert (folder.stats.gaps, folder.stats.lost) == (2, 10)
    # Not a line a gap: a recorder that is lapped once is lapped again.
    assert [record.getMessage() for record in caplog.records] == [
        "ticks 6 to 10 are lost to the recording (lapped); 1 gaps, 5 ticks in all"
    ]


def test_a_gap_after_which_nothing_comes_is_told_too(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    folder.lost(LostTicks(EPOCH, 1, None, "epoch"))
    folder.close()
    assert files(tmp_path) == ["20250301T10Z-000.parquet"]
    assert told(tmp_path / files(tmp_path)[0], "gaps")[0]["last"] is None
    assert folder.stats.files == 1


def test_of_very_many_gaps_a_file_tells_how_many_there_are(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    for number in range(10_003):
        folder.lost(LostTicks(EPOCH, 2 * number + 1, 2 * number + 1, "lapped"))
    folder.close()
    file = tmp_path / files(tmp_path)[0]
    assert (len(told(file, "gaps")), told(file, "gaps_untold")) == (10_000, 3)


# After a kill


def killed(path: Path, pieces: int = 3, rows: int = 50) -> None:
    """As a process leaves it that is killed when so many pieces are safe and half of another one waits."""
    clock = ManualClock(HOUR)
    folder = opened(path, clock)
    folder.lost(LostTicks(EPOCH, 1, 9, "lapped"))
    for number in range(pieces + 1):
        first = 10 + number * rows
        folder.write(some(rows, first=first), numbers(rows, first=first))
        if number < pieces:
            clock.advance(PIECE_SECONDS)
            folder.turn()
    shutil.copytree(path, path.with_suffix(".copy"))
    folder.abandon()
    shutil.rmtree(path)
    path.with_suffix(".copy").rename(path)


def salvaged(path: Path) -> RecordingFolder:
    folder = opened(path)
    for _ in folder.salvage():
        pass
    folder.close()
    return folder


def test_what_was_safe_is_a_file_after_the_next_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rec"
    killed(path)
    assert files(path) == []
    assert leftovers(path) == [".20250301T10Z-000.parquet.journal", ".20250301T10Z-000.parquet.partial"]
    folder = salvaged(path)
    assert (files(path), leftovers(path)) == (["20250301T10Z-000.parquet"], [])
    assert seqs(path) == list(range(10, 160))
    assert told(path / files(path)[0], "gaps") == [{"epoch": EPOCH, "first": 1, "last": 9, "reason": "lapped"}]
    assert told(path / files(path)[0], "epoch") == EPOCH
    assert folder.stats.salvaged == 150
    assert "salvaged 150 ticks" in caplog.text


def test_salvaged_ticks_are_the_same_as_those_of_an_orderly_end(tmp_path: Path) -> None:
    killed(tmp_path / "rec")
    salvaged(tmp_path / "rec")
    folder = opened(tmp_path / "other")
    for first in (10, 60, 110):
        folder.write(some(50, first=first), numbers(50, first=first))
    folder.close()
    frames = [pd.read_parquet(tmp_path / name / "20250301T10Z-000.parquet") for name in ("rec", "other")]
    pd.testing.assert_frame_equal(*frames)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("left") / "rec"
    killed(path, pieces=4, rows=20)
    return path / ".20250301T10Z-000.parquet.journal"


@given(share=st.floats(0, 1), rubbish=st.binary(max_size=200))
def test_a_journal_cut_anywhere_gives_all_whole_pieces_before_it(
    left: Path, tmp_path_factory: pytest.TempPathFactory, share: float, rubbish: bytes
) -> None:
    path = tmp_path_factory.mktemp("cut")
    data = left.read_bytes()
    kept = int(len(data) * share)
    (path / left.name).write_bytes(data[:kept] + (rubbish if kept < len(data) else b""))
    salvaged(path)
    rows = seqs(path)
    assert rows == list(range(10, 10 + len(rows)))
    # A piece takes some 1,700 bytes here: no whole one may be missing.
    assert len(rows) % 20 == 0
    assert len(rows) >= (kept - 3_500) // 2_300 * 20
    if kept == len(data):
        assert len(rows) == 80
    assert leftovers(path) == []


def test_a_file_that_was_whole_already_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "rec"
    killed(path)
    journal = next(path.glob(".*.journal"))
    data = journal.read_bytes()
    salvaged(path)
    whole = (path / files(path)[0]).read_bytes()
    # Killed between the two: the name was given, and the journal not deleted yet.
    journal.write_bytes(data)
    salvaged(path)
    assert (path / files(path)[0]).read_bytes() == whole
    assert leftovers(path) == []


def test_what_cannot_be_read_at_all_is_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".20250301T10Z-000.parquet.journal").write_bytes(b"\xff" * 20_000)
    salvaged(tmp_path)
    assert (files(tmp_path), leftovers(tmp_path)) == ([], [".20250301T10Z-000.parquet.unreadable"])
    assert "nothing can be read of" in caplog.text


def test_a_recording_goes_on_beside_what_is_being_salvaged(tmp_path: Path) -> None:
    path = tmp_path / "rec"
    killed(path)
    folder = opened(path)
    steps = folder.salvage()
    next(steps)
    folder.write(some(7, first=500), numbers(7, first=500))
    folder._flush()
    list(steps)
    folder.close()
    assert files(path) == ["20250301T10Z-000.parquet", "20250301T10Z-001.parquet"]
    assert seqs(path) == [*range(10, 160), *range(500, 507)]


def test_the_last_position_is_that_of_the_newest_file(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    assert folder.last_position() is None
    folder.write(some(90, step=60 * SECOND), numbers(90, first=1_000))
    folder.begin(99, directory())
    folder.write(some(9, at=HOUR + 5_400 * SECOND), numbers(9, first=31))
    assert folder.last_position() == (EPOCH, 1_089)
    folder.begin(100, directory())
    assert folder.last_position() == (99, 39)
    (tmp_path / "99990101T00Z-000.parquet").write_bytes(b"no Parquet")
    assert folder.last_position() == (99, 39)
    folder.close()


def test_a_recording_that_fails_keeps_what_was_safe(tmp_path: Path) -> None:
    # With a disk that is really full: tests/integration/test_record.py.
    folder = opened(tmp_path)
    folder.write(some(10), numbers(10))
    folder._flush()
    folder.abandon()
    assert leftovers(tmp_path) == [".20250301T10Z-000.parquet.journal"]
    salvaged(tmp_path)
    assert seqs(tmp_path) == list(range(1, 11))
