"""From a ring into a folder."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from marketfeed.model import SystemClock, TickStore
from marketfeed.model.tick import Ticks
from marketfeed.recording.folder import PIECE_ROWS, RecordingFolder
from marketfeed.recording.recorder import Recorder
from tests.unit.recording.support import files, leftovers, seqs, some, told

BOUND = 60.0


def store(ticks: int = 1 << 18) -> TickStore:
    made = TickStore.create(ticks, 16)
    for feed in range(2):
        made.directory.add_feed(f"f{feed}")
    for number in range(6):
        made.directory.add(number % 2, f"S{number // 2}")
    return made


def recorder(path: Path, of: TickStore, **more: object) -> Recorder:
    clock = SystemClock()
    return Recorder(of, RecordingFolder(path, clock), clock, **more)


def now(ticks: Ticks) -> Ticks:
    """The same, taken in just now."""
    ticks["ts_recv"] = SystemClock.now_ns()
    return ticks


def test_everything_published_before_it_is_stopped_is_in_the_files(tmp_path: Path) -> None:
    of = store()
    recording = recorder(tmp_path, of)
    of.publish(now(some(100)))
    recording.start()
    for number in range(50):
        of.publish(now(some(3_000, first=101 + number * 3_000)))
    recording.stop(BOUND)
    assert recording.status()["state"] == "stopped"
    assert recording.status()["rows"] == recording.cursor == 150_100
    assert seqs(tmp_path) == list(range(1, 150_101))
    assert told(tmp_path / files(tmp_path)[0], "epoch") == of.epoch
    assert leftovers(tmp_path) == []


def test_instruments_that_come_while_it_records_have_their_names(tmp_path: Path) -> None:
    of = TickStore.create(1 << 12, 16)
    recording = recorder(tmp_path, of)
    recording.start()
    feed = of.directory.add_feed("late")
    ticks = now(some(1))
    ticks["feed"], ticks["instrument"] = feed, of.directory.add(feed, "NEW")
    of.publish(ticks)
    recording.stop(BOUND)
    assert told(tmp_path / files(tmp_path)[0], "instruments") == {"late": ["NEW"]}


def test_being_lapped_is_a_gap_with_its_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    of = store(ticks=1 << 10)
    recording = recorder(tmp_path, of)
    of.publish(now(some(5_000)))
    recording.start()
    recording.stop(BOUND)
    assert seqs(tmp_path) == list(range(5_000 - 1_024 + 1, 5_001))
    assert told(tmp_path / files(tmp_path)[0], "gaps") == [
        {"epoch": of.epoch, "first": 1, "last": 3_976, "reason": "lapped"}
    ]
    assert (recording.status()["gaps"], recording.status()["lost"]) == (1, 3_976)
    assert "ticks 1 to 3976 are lost to the recording" in caplog.text


def test_only_quotes_and_trades_are_recorded_and_nothing_is_lost_by_that(tmp_path: Path) -> None:
    of = store()
    ticks = now(some(30))
    ticks["kind"][[3, 4, 29]] = 3  # bars follow from the trades
    of.publish(ticks)
    recording = recorder(tmp_path, of)
    recording.start()
    recording.stop(BOUND)
    assert seqs(tmp_path) == [seq for seq in range(1, 31) if seq not in (4, 5, 30)]
    assert recording.status()["gaps"] == 0


def test_more_than_a_piece_at_once_is_taken_in_pieces(tmp_path: Path) -> None:
    of = store(ticks=1 << 19)
    of.publish(now(some(3 * PIECE_ROWS)))
    recording = recorder(tmp_path, of)
    recording.start()
    recording.stop(BOUND)
    assert seqs(tmp_path) == list(range(1, 3 * PIECE_ROWS + 1))


def test_a_recording_that_cannot_be_written_ends_with_one_error_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of, ended = store(), threading.Event()
    path = tmp_path / "rec"
    recording = recorder(path, of, on_end=ended.set)
    (path / ".lock").unlink()
    path.rmdir()
    path.write_text("a file where the folder was")
    of.publish(now(some(10)))
    recording.start()
    assert ended.wait(BOUND)
    recording.stop(BOUND)
    status = recording.status()
    assert (status["state"], status["error"]) == ("failed", "Not a directory")
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].startswith(f"RECORDING HAS STOPPED: {path}: Not a directory; streaming goes on")
    # The ring goes on without it.
    of.publish(now(some(10)))
    assert recording.status()["behind"] == 20 - recording.cursor


def test_what_a_killed_recording_left_is_salvaged_beside_the_new_one(tmp_path: Path) -> None:
    left = RecordingFolder(tmp_path, SystemClock())
    old = store()
    left.begin(7, old.directory.reader())
    left.write(now(some(20)), np.arange(1, 21, dtype=np.uint64))
    left._flush()
    left.abandon()
    of = store()
    of.publish(now(some(5)))
    recording = recorder(tmp_path, of)
    recording.start()
    recording.stop(BOUND)
    assert recording.status()["salvaged"] == 20
    assert sorted(seqs(tmp_path)) == sorted([*range(1, 21), *range(1, 6)])
    assert leftovers(tmp_path) == []
