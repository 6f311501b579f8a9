"""Names, locks and what becomes of the files: every step that two servers and a reader can take beside one another.

The lock belongs to the open file, not to the process: so several in one process are held apart like processes.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from marketfeed.model import TickStore
from marketfeed.model.shared import SharedStore, ShareError, open_shared, shared_path
from tests.shm import memory_directory
from tests.ticks import numbered, same

NOW = 1_700_000_000_000_000_000


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_directory() as path:
        yield path


def shared(folder: Path, name: str = "us") -> SharedStore:
    """A small store, announced."""
    store = SharedStore(name, 8, 4, folder)
    store.announce(NOW)
    return store


def left_behind(folder: Path, *names: str) -> list[Path]:
    """The files of servers that were killed: nobody holds their locks."""
    with closing(shared(folder, "killed")):
        content = shared_path("killed", folder).read_bytes()
    paths = [shared_path(name, folder) for name in names]
    for path in paths:
        path.write_bytes(content)
    return paths


@pytest.mark.parametrize("name", ["a", "US-equities_2.b", "9", "x" * 64])
def test_a_name_is_a_file_in_the_directory_and_nowhere_else(name: str) -> None:
    assert shared_path(name, "/dev/shm") == Path(f"/dev/shm/marketfeed-{name}")


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-x", "a/b", "../x", "/etc/passwd", "a b", "a\n", "a\0b", "ä", "x" * 65]
)
def test_what_could_be_a_path_or_a_trick_is_no_name(folder: Path, name: str) -> None:
    for use in (lambda: shared_path(name), lambda: SharedStore(name, 8, 4, folder), lambda: open_shared(name, folder)):
        with pytest.raises(ShareError, match="name is 1 to 64 letters, digits"):
            use()
    assert list(folder.iterdir()) == []


def test_what_is_published_is_seen_under_the_name(folder: Path) -> None:
    with closing(shared(folder)) as server, closing(open_shared("us", folder)) as reader:
        server.store.publish(numbered(1, 5, 4))
        assert reader.store.epoch == server.store.epoch
        assert reader.store.beat_ns == NOW
        assert same(reader.store.read(0).ticks, numbered(1, 5, 4))
        assert reader.writer_lives()


def test_only_the_user_may_read_the_file(folder: Path) -> None:
    with closing(shared(folder)):
        assert stat.S_IMODE(shared_path("us", folder).stat().st_mode) == 0o600


def test_before_it_is_announced_there_is_nothing_to_be_seen(folder: Path) -> None:
    with closing(SharedStore("us", 8, 4, folder)):
        assert list(folder.iterdir()) == []
        with pytest.raises(ShareError, match="no server shares 'us' on this machine"):
            open_shared("us", folder)
    assert list(folder.iterdir()) == []


def test_a_shutdown_tells_those_attached_and_removes_the_file(folder: Path) -> None:
    server = shared(folder)
    server.store.publish(numbered(1, 5, 4))
    with closing(open_shared("us", folder)) as reader:
        assert not reader.store.ended
        server.close()
        assert list(folder.iterdir()) == []
        assert reader.store.ended
        assert not reader.writer_lives()
        assert same(reader.store.read(0).ticks, numbered(1, 5, 4))
    server.close()  # once more does no harm


def test_two_servers_cannot_have_one_name_and_the_second_says_whose_it_is(folder: Path) -> None:
    with closing(shared(folder)) as first:
        message = f"the name 'us' is taken by another server, process {os.getpid()}: {folder}/marketfeed-us"
        with pytest.raises(ShareError) as refused:
            SharedStore("us", 8, 4, folder)
        assert str(refused.value) == message
        assert open_shared("us", folder).store.epoch == first.store.epoch


def test_of_two_that_start_together_the_second_to_announce_is_refused_and_leaves_the_first_alone(folder: Path) -> None:
    first, second = SharedStore("us", 8, 4, folder), SharedStore("us", 8, 4, folder)
    with closing(first):
        first.announce(NOW)
        with pytest.raises(ShareError, match="taken by another server"):
            second.announce(NOW)
        second.close()
        with closing(open_shared("us", folder)) as reader:
            assert reader.store.epoch == first.store.epoch
            assert reader.writer_lives()


def test_what_crashed_servers_left_is_removed_at_the_next_start_under_whatever_name(folder: Path) -> None:
    left = left_behind(folder, "eu", "us")
    with closing(shared(folder, "asia")) as living:
        assert living.removed == left
        assert list(folder.iterdir()) == [shared_path("asia", folder)]


def test_a_name_whose_server_crashed_can_be_taken_again(folder: Path) -> None:
    left_behind(folder, "us")
    with closing(shared(folder)) as server, closing(open_shared("us", folder)) as reader:
        assert reader.store.epoch == server.store.epoch


def test_a_start_never_removes_a_living_servers_file_whatever_its_version(folder: Path) -> None:
    with closing(shared(folder, "us")), closing(shared(folder, "eu")):
        with shared_path("us", folder).open("r+b") as file:
            file.seek(8)
            file.write(b"\x63")
        with closing(SharedStore("asia", 8, 4, folder)) as other:
            assert other.removed == []
        assert {path.name for path in folder.iterdir()} == {"marketfeed-us", "marketfeed-eu"}


def test_what_is_no_store_is_left_alone_and_stands_in_the_way_of_its_name_only(folder: Path) -> None:
    target = folder / "target"
    target.write_bytes(left_behind(folder, "x")[0].read_bytes())
    (folder / "marketfeed-notes").write_text("precious")
    (folder / "marketfeed-link").symlink_to(target)
    (folder / "marketfeed-dangling").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "marketfeed-fifo")
    (folder / "marketfeed-folder").mkdir()
    (folder / "marketfeed-empty").write_bytes(b"")
    before = {path.name for path in folder.iterdir()} - {"marketfeed-x"}
    shared(folder).close()
    assert {path.name for path in folder.iterdir()} == before
    for name in ("notes", "link", "dangling", "fifo", "folder", "empty"):
        with pytest.raises(ShareError, match=f"the name '{name}' is taken by something else"):
            shared(folder, name)
        with pytest.raises(ShareError, match=f"marketfeed-{name}"):
            open_shared(name, folder)
    assert (folder / "marketfeed-notes").read_text() == "precious"


def test_a_shutdown_leaves_a_file_alone_that_has_taken_its_place(folder: Path) -> None:
    first = shared(folder)
    shared_path("us", folder).unlink()
    with closing(shared(folder)) as second:
        first.close()
        with closing(open_shared("us", folder)) as reader:
            assert reader.store.epoch == second.store.epoch


def test_that_a_writer_is_gone_is_seen(folder: Path) -> None:
    left_behind(folder, "us")
    with closing(open_shared("us", folder)) as reader:
        assert not reader.writer_lives()
        assert not reader.store.ended


def test_to_ask_whether_the_writer_lives_does_not_hold_up_one_that_starts(folder: Path) -> None:
    left_behind(folder, "us")
    with closing(open_shared("us", folder)) as reader:
        assert not reader.writer_lives()
        shared(folder).close()


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, b"X", "marketfeed-us is not a tick store"),
        (8, b"\x63", "marketfeed-us has layout 99 with ticks of 80 bytes; this version reads layout"),
        (24, b"\x07", "marketfeed-us is damaged: 7 ticks"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_with_its_path(
    folder: Path, offset: int, content: bytes, message: str
) -> None:
    with closing(shared(folder)):
        with shared_path("us", folder).open("r+b") as file:
            file.seek(offset)
            file.write(content)
        with pytest.raises(ShareError, match=message):
            open_shared("us", folder)


def test_a_directory_that_is_not_there_or_has_no_room_is_an_error(folder: Path) -> None:
    with pytest.raises(ShareError, match=r"cannot share a store in .*/nowhere: No such file or directory"):
        SharedStore("us", 8, 4, folder / "nowhere")
    with pytest.raises(ShareError, match=f"{folder} has no room for a ring of 1,125,899,906,842,624 ticks"):
        SharedStore("us", 1 << 50, 4, folder)
    with pytest.raises(ValueError, match="power of two"):
        SharedStore("us", 7, 4, folder)
    assert list(folder.iterdir()) == []


def test_nothing_stays_open_of_what_failed_or_was_closed(folder: Path) -> None:
    def open_now() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    shared(folder).close()
    before = open_now()
    with closing(shared(folder)):
        open_shared("us", folder).close()
        for broken in (lambda: SharedStore("us", 8, 4, folder), lambda: SharedStore("eu", 1 << 50, 4, folder)):
            with pytest.raises(ShareError):
                broken()
        with pytest.raises(ShareError):
            open_shared("eu", folder)
    (folder / "marketfeed-us").write_text("no store")
    with pytest.raises(ShareError):
        open_shared("us", folder)
    assert open_now() <= before  # what another test left may be collected meanwhile


def test_a_store_made_with_a_path_can_be_told_from_other_files(tmp_path: Path) -> None:
    TickStore.create(ticks=8, instruments=4, path=tmp_path / "store")
    (tmp_path / "other").write_bytes(b"MKT")
    with (tmp_path / "store").open("rb") as store, (tmp_path / "other").open("rb") as other:
        assert TickStore.is_store(store.fileno())
        assert not TickStore.is_store(other.fileno())
