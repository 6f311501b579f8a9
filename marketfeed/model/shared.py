"""A store under a name that other processes of this machine find: one file in a directory of shared memory.

::

    server   SharedStore ── lock + file without a name ──announce──> DIRECTORY/marketfeed-NAME ──close──> removed
    reader   open_shared(NAME) ──> OpenedStore: the store's read side, and whether its writer lives

The living writer holds a lock on its file for as long as the process lives: the kernel lets go of it however the
process ends, so that a file without a lock was left by a crash. A file gets its name when it is complete and locked,
and only whoever holds its lock removes it: there is no moment at which a living server's file looks like a dead one.

The lock is an open file description lock (fcntl(2), F_OFD_SETLK): unlike flock(2)'s, a reader can ask who holds it
without taking it, and so never stands in a starting server's way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import re
import stat
import struct
from pathlib import Path

from marketfeed.model.store import StoreError, TickStore

#: Where the files are by default: memory, not a disk.
DIRECTORY = "/dev/shm"

_PREFIX = "marketfeed-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
#: struct flock of a 64-bit Linux: type, whence, start, length, pid. A length of 0 is the whole file.
_FLOCK = struct.Struct("@hhqqi4x")
#: The ring needs loads and stores to be seen in the order of the program: see marketfeed.model.ring.
_MACHINES = ("x86_64", "AMD64")


class ShareError(Exception):
    """A store cannot be shared under a name, or none is: the message is one line that a user can act on."""


def shared_path(name: str, directory: str | os.PathLike[str] = DIRECTORY) -> Path:
    """The file of that name.

    Raises:
        ShareError: it is no name.
    """
    if not _NAME.fullmatch(name):
        raise ShareError(
            f"a shared store's name is 1 to 64 letters, digits, '.', '_' and '-' and begins with a letter or digit,"
            f" not {name[:80]!r}"
        )
    return Path(directory, _PREFIX + name)


class SharedStore:
    """The writer's side: a new, empty store that gets its name with :meth:`announce`.

    What crashed servers of this user left in the directory, under whatever name, is removed first.

    Args:
        name, directory: where to find it.
        ticks, instruments: as in :meth:`TickStore.create`.

    Attributes:
        store: the store.
        removed: the files that were removed.

    Raises:
        ShareError: no name, a living server has it, no room, or not possible on this machine.
        ValueError: as :meth:`TickStore.create`.
    """

    def __init__(self, name: str, ticks: int, instruments: int, directory: str | os.PathLike[str] = DIRECTORY) -> None:
        _check_machine()
        self._name = name
        self._path = shared_path(name, directory)
        self._announced = False
        self.removed = _clean(Path(directory))
        if self._path.exists():
            raise self._taken()
        try:
            self._fd = os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ShareError(f"cannot share a store in {directory}: {error.strerror}") from None
        try:
            if not _take_lock(self._fd):
                raise ShareError(f"cannot lock a file in {directory}")
            self.store = TickStore.create(ticks, instruments, self._fd)
        except OSError as error:
            os.close(self._fd)
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM, errno.EINVAL):
                raise ShareError(
                    f"{directory} has no room for a ring of {ticks:,} ticks and {instruments:,} instruments"
                ) from None
            raise ShareError(f"cannot share a store in {directory}: {error.strerror}") from None
        except BaseException:
            os.close(self._fd)
            raise

    def announce(self, now_ns: int) -> None:
        """Give the file its name: from now on readers find it.

        Args:
            now_ns: the first beat, see :meth:`TickStore.beat`.

        Raises:
            ShareError: another server took the name meanwhile.
        """
        self.store.beat(now_ns)
        descriptors = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # With a directory's descriptor this is linkat(2), which follows the link that stands there to the file.
            os.link(str(self._fd), self._path, src_dir_fd=descriptors, follow_symlinks=True)
        except FileExistsError:
            raise self._taken() from None
        except OSError as error:
            raise ShareError(f"cannot make {self._path}: {error.strerror}") from None
        finally:
            os.close(descriptors)
        self._announced = True

    def close(self) -> None:
        """Tell the readers that this is the end, and remove the file. The store can still be read in this process."""
        if self._fd < 0:
            return
        self.store.end()
        if self._announced:
            _remove(self._path, self._fd)
        # The mapping holds on to the open file, and to its lock, until the last array of it is gone.
        _lock(self._fd, fcntl.F_UNLCK)
        os.close(self._fd)
        self._fd = -1

    def _taken(self) -> ShareError:
        try:
            with contextlib.closing(OpenedStore(self._name, self._path)) as other:
                who = f"another server, process {other.store.pid}"
        except (ShareError, FileNotFoundError):
            who = "something else"
        return ShareError(f"the name {self._name!r} is taken by {who}: {self._path}")


class OpenedStore:
    """The reader's side: the store under a file's name, while its writer lives. Made by :func:`open_shared`.

    Attributes:
        store: its read side.
    """

    def __init__(self, name: str, path: Path) -> None:
        # A fifo, or a link to somewhere else, that somebody put there is not waited for and not followed.
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ShareError(f"cannot open {path}: {error.strerror}") from None
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise ShareError(f"{path} is not a file")
            if os.geteuid() not in (0, status.st_uid):
                raise ShareError(f"{path} belongs to another user")
            self.store = TickStore.attach(self._fd, str(path))
        except StoreError as error:
            os.close(self._fd)
            raise ShareError(str(error)) from None
        except BaseException:
            os.close(self._fd)
            raise

    def writer_lives(self) -> bool:
        """Whether the process that writes it is there. A system call."""
        asked = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_ = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked))
        return bool(kind != fcntl.F_UNLCK)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._fd < 0

    def close(self) -> None:
        """Let go of the file. What was mapped stays so as long as anything uses it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_shared(name: str, directory: str | os.PathLike[str] = DIRECTORY) -> OpenedStore:
    """The read side of the store that a server shares under that name.

    Raises:
        ShareError: no name, no server shares it, its file is of another version, damaged or of another user, or this
            machine's processor cannot share memory in order.
    """
    _check_machine()
    path = shared_path(name, directory)
    try:
        return OpenedStore(name, path)
    except FileNotFoundError:
        raise ShareError(f"no server shares {name!r} on this machine: there is no {path}") from None


def _check_machine() -> None:
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        raise ShareError(f"stores are shared on Linux on x86-64, not on {platform.system()} on {platform.machine()}")


def _take_lock(fd: int) -> bool:
    """Hold the writer's lock until the file is closed for good. False = somebody else has it."""
    try:
        _lock(fd, fcntl.F_WRLCK)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _lock(fd: int, kind: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))


def _clean(directory: Path) -> list[Path]:
    """Remove the stores of this user whose writers are gone; those that were removed."""
    removed = []
    for path in sorted(directory.glob(f"{_PREFIX}*")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # gone meanwhile, or not ours to touch
        try:
            status = os.fstat(fd)
            ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
            if ours and TickStore.is_store(fd) and _take_lock(fd) and _remove(path, fd):
                removed.append(path)
        finally:
            os.close(fd)
    return removed


def _remove(path: Path, fd: int) -> bool:
    """Remove the file of which this is a locked descriptor, if the path still means that one."""
    try:
        if not os.path.samestat(path.lstat(), os.fstat(fd)):
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True
