import os
from pathlib import Path

import numpy as np
import pytest

from marketfeed.model import QUOTE, TRADE, StoreError, TickStore
from tests.ticks import numbered, same


def test_a_new_store_is_empty_and_has_an_epoch_of_its_own() -> None:
    stores = [TickStore.create(ticks=8, instruments=4) for _ in range(20)]
    assert len({store.epoch for store in stores}) == 20
    for store in stores:
        assert 1 <= store.epoch < 2**53
        assert (store.ring.head, store.ring.capacity, store.directory.capacity, store.latest.capacity) == (0, 8, 4, 4)
        assert len(store.latest.since(0).ticks) == 0


def test_the_defaults_are_a_million_ticks_and_16384_instruments() -> None:
    store = TickStore.create()
    assert (store.ring.capacity, store.directory.capacity) == (1_048_576, 16_384)


@pytest.mark.parametrize("ticks", [0, -8, 3, 1_000_000])
def test_a_ring_that_is_no_power_of_two_is_an_error(ticks: int) -> None:
    with pytest.raises(ValueError, match=f"power of two, not {ticks}"):
        TickStore.create(ticks=ticks)


@pytest.mark.parametrize("instruments", [0, -1, 2**31])
def test_a_directory_of_an_impossible_size_is_an_error(instruments: int) -> None:
    with pytest.raises(ValueError, match="capacity is 1 to"):
        TickStore.create(ticks=8, instruments=instruments)


def test_what_is_published_is_in_the_ring_and_in_the_latest_table() -> None:
    store = TickStore.create(ticks=16, instruments=8)
    assert store.publish(numbered(1, 5)) == 5
    assert store.publish(numbered(6, 4)) == 9
    assert same(store.read(0).ticks, numbered(1, 9))
    assert same(store.read(3, limit=2, until=8).ticks, numbered(4, 2))
    last: dict[tuple[int, int], int] = {}
    for number, tick in enumerate(numbered(1, 9), 1):
        last[int(tick["kind"]), int(tick["instrument"])] = number
    ticks, seqs = store.latest.since(0)
    assert seqs.tolist() == sorted(last.values())
    assert same(ticks, numbered(1, 9)[seqs.astype(np.int64) - 1])


def test_a_batch_longer_than_the_ring_is_numbered_on_and_its_end_stays() -> None:
    store = TickStore.create(ticks=8, instruments=8)
    store.publish(numbered(1, 3))
    assert store.publish(numbered(4, 50)) == 53
    span = store.read(3)
    assert span.lost == (4, 45)
    assert same(span.ticks, numbered(46, 8))
    ticks, seqs = store.latest.since(0)
    assert set(zip(ticks["kind"].tolist(), ticks["instrument"].tolist(), strict=True)) == {
        (int(tick["kind"]), int(tick["instrument"])) for tick in numbered(1, 53)
    }
    assert ticks["venue_seq"].tolist() == seqs.tolist()


def test_a_store_of_one_tick_works() -> None:
    store = TickStore.create(ticks=1, instruments=8)
    assert store.publish(numbered(1, 3)) == 3
    assert same(store.read(0).ticks, numbered(3, 1))


def test_an_empty_batch_changes_nothing() -> None:
    store = TickStore.create(ticks=8, instruments=8)
    store.publish(numbered(1, 2))
    assert store.publish(numbered(3, 0)) == 2
    assert same(store.read(0).ticks, numbered(1, 2))


def test_the_read_side_sees_what_the_writer_does(tmp_path: Path) -> None:
    store = TickStore.create(ticks=8, instruments=4, path=tmp_path / "store")
    attached = TickStore.attach(tmp_path / "store")
    assert attached.epoch == store.epoch
    assert attached.directory.symbols() == []
    feed = store.directory.add_feed("sim")
    ids = [store.directory.add(feed, symbol) for symbol in ("A", "B")]
    batch = numbered(1, 3, instruments=2)
    batch["kind"] = [QUOTE, TRADE, QUOTE]
    store.publish(batch)
    assert [attached.directory.find(feed, symbol) for symbol in ("A", "B")] == ids
    assert attached.directory.feeds() == ["sim"]
    assert same(attached.read(0).ticks, batch)
    assert same(attached.latest.since(0).ticks, store.latest.since(0).ticks)


def test_the_writer_says_that_it_lives_and_that_it_ends(tmp_path: Path) -> None:
    store = TickStore.create(ticks=8, instruments=4, path=tmp_path / "store")
    attached = TickStore.attach(tmp_path / "store")
    assert (attached.pid, attached.beat_ns, attached.ended) == (os.getpid(), 0, False)
    store.beat(1_700_000_000_000_000_001)
    store.end()
    assert (attached.beat_ns, attached.ended) == (1_700_000_000_000_000_001, True)
    with pytest.raises(ValueError, match="read-only"):
        attached.beat(1)
    with pytest.raises(ValueError, match="read-only"):
        attached.end()


def test_a_store_on_open_descriptors_leaves_them_open(tmp_path: Path) -> None:
    with (tmp_path / "store").open("x+b") as file, (tmp_path / "store").open("rb") as other:
        store = TickStore.create(ticks=8, instruments=4, path=file.fileno())
        store.publish(numbered(1, 3))
        assert same(TickStore.attach(other.fileno()).read(0).ticks, numbered(1, 3))
        os.fstat(file.fileno())
        os.fstat(other.fileno())


def test_the_read_side_cannot_write(tmp_path: Path) -> None:
    TickStore.create(ticks=8, instruments=4, path=tmp_path / "store")
    before = (tmp_path / "store").read_bytes()
    attached = TickStore.attach(tmp_path / "store")
    with pytest.raises(StoreError, match="read-only"):
        attached.publish(numbered(1, 1))
    with pytest.raises(ValueError, match="read-only"):
        attached.directory.add_feed("sim")
    assert (tmp_path / "store").read_bytes() == before


def test_a_file_that_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError):
        TickStore.create(ticks=8, instruments=4, path=tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_store_without_room_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"space|large|Invalid"):
        TickStore.create(ticks=1 << 50, instruments=4, path=tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_a_store_has_its_room_from_the_start(tmp_path: Path) -> None:
    TickStore.create(ticks=1 << 14, instruments=4, path=tmp_path / "store")
    assert (tmp_path / "store").stat().st_blocks * 512 >= 80 * (1 << 14)


def test_attaching_to_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TickStore.attach(tmp_path / "store")


@pytest.mark.parametrize("content", [b"", b"MKTFEED\0", b"x" * 39, b"x" * 10_000])
def test_attaching_to_what_is_no_store_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(StoreError, match="file is not a tick store"):
        TickStore.attach(tmp_path / "file")


def damaged(path: Path, offset: int, content: bytes) -> Path:
    """A store's file with some bytes of its header replaced."""
    TickStore.create(ticks=8, instruments=4, path=path)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
    return path


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, b"X", "is not a tick store"),
        (8, b"\1\0\0\0", "has layout 1 with ticks of 80 bytes; this version reads layout 3 with 80"),
        (12, b"\x60\0\0\0", "has layout 3 with ticks of 96 bytes"),
        (56, b"ts_sent", "has ticks of ts_sentt:<i8,ts_recv:<i8,.*; this version reads ts_event:<i8,ts_recv:<i8,"),
        (24, b"\x07\0\0\0", "is damaged: 7 ticks, 4 instruments, 64 feeds"),
        (24, b"\0", "is damaged: 0 ticks"),
        (32, b"\0", "is damaged: 8 ticks, 0 instruments"),
        (24, b"\0\0\0\0\0\0\0\x80", "is cut short"),
    ],
)
def test_attaching_to_a_damaged_or_other_store_says_what_is_wrong(
    tmp_path: Path, offset: int, content: bytes, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        TickStore.attach(damaged(tmp_path / "store", offset, content))


def test_attaching_to_a_store_that_was_cut_short_is_an_error(tmp_path: Path) -> None:
    path = damaged(tmp_path / "store", 0, b"")
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(whole - 1)
    with pytest.raises(StoreError, match=f"cut short: {whole - 1} of {whole} bytes"):
        TickStore.attach(path)
