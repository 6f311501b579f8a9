"""A store between real processes: one writes as fast as it can, another reads."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from marketfeed.model import QUOTE, TickStore
from tests.integration.processes import ROOT
from tests.integration.store_writer import INSTRUMENTS
from tests.integration.store_writing import PATTERN, expected, writing
from tests.shm import memory_directory
from tests.ticks import numbered, same

RING = 1_024


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """A name for a store, in shared memory where there is some."""
    with memory_directory() as folder:
        yield folder / "store"


@pytest.mark.parametrize("limit", [None, 100], ids=["whole ring", "100 at a time"])
def test_a_reader_never_sees_a_torn_row_and_accounts_for_every_tick_once(shared_path: Path, limit: int | None) -> None:
    with writing(shared_path, RING) as writer:
        store = TickStore.attach(shared_path)
        begin = time.monotonic()
        cursor = rows = lost = laps = overwritten = 0
        # Millions of rows, and laps without end; the bound is for a machine that is busy with other things.
        while not (rows > 2_000_000 and laps > 200 and overwritten > 0) and time.monotonic() - begin < 8:
            span = store.read(cursor, limit)
            if span.lost:
                assert span.lost.first == cursor + 1
                assert span.lost.last == span.first - 1
                lost += span.lost.last - span.lost.first + 1
                laps += 1
            else:
                assert span.first == cursor + 1
            n = len(span.ticks)
            assert same(span.ticks, expected(np.arange(span.first, span.first + n)))
            rows += n
            cursor = span.cursor
            assert rows + lost == cursor
            # What would have been read without the check against the writer's claim.
            head = store.ring.head
            if head >= RING:
                unchecked = store.ring.column("venue_seq", head - RING + 1, head)
                overwritten += not np.array_equal(
                    unchecked, expected(np.arange(head - RING + 1, head + 1))["venue_seq"]
                )
        head = writer.stop()
    while cursor < head:
        span = store.read(cursor, limit)
        lost += span.lost.last - span.lost.first + 1 if span.lost else 0
        rows += len(span.ticks)
        assert same(span.ticks, expected(np.arange(span.first, span.first + len(span.ticks))))
        cursor = span.cursor
    assert rows + lost == cursor == head
    assert rows > 200_000
    # So the writer was at work in the very rows that were read: the test could have failed.
    assert laps > 50
    assert overwritten > 0


def test_the_latest_table_never_gives_a_torn_row_and_ends_on_the_true_last_values(shared_path: Path) -> None:
    with writing(shared_path, RING) as writer:
        store = TickStore.attach(shared_path)
        begin = time.monotonic()
        cursor = rows = changed_meanwhile = 0
        last = np.zeros((2, INSTRUMENTS), np.int64)

        def take_in() -> int:
            """Read on from the cursor; returns how many rows."""
            nonlocal cursor, changed_meanwhile
            head = store.ring.head
            ticks, found = store.latest.since(cursor)
            seqs = found.astype(np.int64)
            assert (np.diff(seqs) > 0).all()
            assert (seqs > cursor).all()
            assert same(ticks, expected(seqs))
            kind, instrument = ticks["kind"] - QUOTE, ticks["instrument"]
            assert len(np.unique(kind * np.int64(INSTRUMENTS) + instrument)) == len(ticks)  # each instrument once
            assert (last[kind, instrument] <= seqs).all()
            last[kind, instrument] = seqs
            changed_meanwhile += bool(len(seqs) and seqs[-1] > head)
            cursor = head
            return len(ticks)

        while not (rows > 1_000_000 and changed_meanwhile > 200) and time.monotonic() - begin < 8:
            rows += take_in()
        writer.stop()
        take_in()
    head = store.ring.head
    assert rows > 100_000
    assert changed_meanwhile > 50
    truth = np.zeros((2, INSTRUMENTS), np.int64)
    seqs = np.arange(max(1, head - len(PATTERN) + 1), head + 1)
    ticks = expected(seqs)
    truth_cell = (ticks["kind"] - QUOTE, ticks["instrument"])
    np.maximum.at(truth, truth_cell, seqs)
    assert np.array_equal(last, truth)


def test_wherever_the_writer_stands_what_the_head_promises_is_there(shared_path: Path) -> None:
    rng = random.Random(1)
    rows_at_work = 0
    with writing(shared_path, RING) as writer:
        store = TickStore.attach(shared_path)
        for _ in range(400):
            head, begin = store.ring.head, time.monotonic()
            while store.ring.head < head + rng.randrange(1, 5_000):
                assert time.monotonic() - begin < 10
            writer.freeze()
            head = store.ring.head
            span = store.read(max(0, head - 3 * RING))
            assert span.cursor == head
            assert same(span.ticks, expected(np.arange(span.first, head + 1)))

            ticks, found = store.latest.since(0)
            assert same(ticks, expected(found.astype(np.int64)))
            last = np.zeros((2, INSTRUMENTS), np.int64)
            last[ticks["kind"] - QUOTE, ticks["instrument"]] = found
            recent = np.arange(max(1, head - 500), head + 1)
            ticks = expected(recent)
            found_of_recent = last[ticks["kind"] - QUOTE, ticks["instrument"]]
            # What is not there at all is the row that the writer is at: its next value is beyond the head.
            assert ((found_of_recent >= recent) | (found_of_recent == 0)).all()
            rows_at_work += bool((found_of_recent == 0).any())
            writer.go_on()
        writer.stop()
    assert 0 < rows_at_work < 400


def test_until_leaves_out_what_the_writer_changes_meanwhile(shared_path: Path) -> None:
    with writing(shared_path, RING) as writer:
        store = TickStore.attach(shared_path)
        begin = time.monotonic()
        rows = 0
        while rows < 100_000 and time.monotonic() - begin < 3:
            head = store.ring.head
            ticks, found = store.latest.since(max(0, head - RING), until=head)
            seqs = found.astype(np.int64)
            assert (seqs <= head).all()
            assert same(ticks, expected(seqs))
            rows += len(ticks)
        writer.stop()
    assert rows > 1_000


def test_a_reader_that_exits_or_is_killed_leaves_the_store_as_it_was(shared_path: Path) -> None:
    store = TickStore.create(ticks=RING, instruments=INSTRUMENTS, path=shared_path)
    store.publish(numbered(1, 500, INSTRUMENTS))
    before = shared_path.read_bytes()
    attach = (
        "import sys; from marketfeed.model import TickStore; print(TickStore.attach(sys.argv[1]).ring.head, flush=True)"
    )
    for end in ("", "; sys.stdin.read()"):
        with subprocess.Popen(
            [sys.executable, "-c", attach + end, str(shared_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "500\n"
            if end:
                reader.kill()
            assert (reader.wait(10) == 0) == (not end)
        assert shared_path.read_bytes() == before
    store.publish(numbered(501, 500, INSTRUMENTS))
    assert same(TickStore.attach(shared_path).read(0).ticks, numbered(1, 1_000, INSTRUMENTS))


def test_a_store_can_be_read_on_after_its_writer_was_killed(shared_path: Path) -> None:
    with writing(shared_path, RING):
        store = TickStore.attach(shared_path)
        begin = time.monotonic()
        while store.ring.head < 10 * RING:
            assert time.monotonic() - begin < 10
    span = store.read(0)
    assert span.cursor == store.ring.head
    assert same(span.ticks, expected(np.arange(span.first, span.first + len(span.ticks))))
