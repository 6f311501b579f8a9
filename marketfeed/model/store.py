"""One memory with three tables: the directory, the ring and the latest table, on the heap or in a mapped file."""

import mmap
import os
import secrets
from typing import NamedTuple

import numpy as np

from marketfeed.model.instruments import FEED, INSTRUMENT, InstrumentDirectory
from marketfeed.model.latest import LatestTable
from marketfeed.model.ring import NEVER, Ring, Span
from marketfeed.model.tick import KINDS, TICK, Ticks
from marketfeed.model.times import LatestTimes

DEFAULT_TICKS = 1 << 20
DEFAULT_INSTRUMENTS = 16_384
_FEEDS = 64
#: So many ticks the latest table may lag behind the ring while nobody asks for it.
_MOST_LAG = 4096

_MAGIC = b"MKTFEED\0"
_LAYOUT_VERSION = 3
#: A TICK in words: the columns in order, each as NAME:TYPE.
_TICK_TEXT = ",".join(f"{name}:{TICK[name].str}" for name in TICK.names or ()).encode()
_HEADER = np.dtype(
    [
        ("magic", "V8"),
        ("layout", "<u4"),
        ("tick_bytes", "<u4"),
        ("epoch", "<u8"),
        ("ticks", "<u8"),
        ("instruments", "<u8"),
        ("feeds", "<u8"),
        ("pid", "<u8"),
        ("tick", "S256"),
    ]
)
#: What the writer says of itself again and again.
_LIFE = np.dtype([("beat_ns", "<i8"), ("ended", "<u8")])
_ALIGN = 128  # two cache lines: the writer's counters share none with anything a reader writes or scans


class StoreError(Exception):
    """A file that is no store, or one that this version cannot read."""


class _Part(NamedTuple):
    name: str
    dtype: np.dtype[np.void] | np.dtype[np.uint64] | np.dtype[np.int64]
    shape: tuple[int, ...]


def _parts(ticks: int, instruments: int, feeds: int) -> list[_Part]:
    u8 = np.dtype(np.uint64)
    return [
        _Part("header", _HEADER, (1,)),
        _Part("life", _LIFE, (1,)),
        _Part("ring_counters", u8, (2,)),
        _Part("ring_gone", np.dtype(np.int64), (feeds,)),
        _Part("directory_counts", u8, (2,)),
        _Part("feeds", FEED, (feeds,)),
        _Part("instruments", INSTRUMENT, (instruments,)),
        _Part("latest_seqs", u8, (len(KINDS), instruments)),
        _Part("latest_claims", u8, (len(KINDS), instruments)),
        _Part("latest_rows", TICK, (len(KINDS), instruments)),
        _Part("ring", TICK, (ticks,)),
    ]


def _layout(ticks: int, instruments: int, feeds: int) -> tuple[dict[str, tuple[int, _Part]], int]:
    """Offset of each part, and the length of all."""
    offset = 0
    places = {}
    for part in _parts(ticks, instruments, feeds):
        places[part.name] = (offset, part)
        size = part.dtype.itemsize * int(np.prod(part.shape))
        offset += -(-size // _ALIGN) * _ALIGN
    return places, offset


class TickStore:
    """Everything the service knows. One writer (:meth:`publish`), any number of readers.

    Make one with :meth:`create` or :meth:`attach`.

    Attributes:
        epoch: random id of this store's life, 1..2**53-1 (exact as a JSON number everywhere).
        pid: the process that made it.
        directory, ring: two of the three tables.

    Args:
        shared: other processes read the tables whenever they like.
    """

    def __init__(
        self, buffer: memoryview | mmap.mmap, ticks: int, instruments: int, feeds: int, shared: bool = True
    ) -> None:
        places, _ = _layout(ticks, instruments, feeds)

        def part(name: str) -> Ticks:
            offset, (_, dtype, shape) = places[name]
            count = int(np.prod(shape))
            return np.frombuffer(buffer, dtype, count, offset).reshape(shape)

        self._header = part("header")
        self._writable = self._header.flags.writeable
        self._beat_ns, self._ended = part("life")["beat_ns"], part("life")["ended"]
        self.epoch = int(self._header["epoch"][0])
        self.pid = int(self._header["pid"][0])
        self.directory = InstrumentDirectory(part("instruments"), part("feeds"), part("directory_counts"))
        self.ring = Ring(part("ring"), part("ring_counters"), part("ring_gone"))
        #: what of the ring need not be looked at for ticks that are later than some time
        self.times = LatestTimes(self.ring)
        self._latest = LatestTable(part("latest_rows"), part("latest_seqs"), part("latest_claims"))
        # Where nobody else looks, the latest table is brought up to date when it is asked for: in few large steps
        # rather than with every batch, and where all take every tick hardly at all.
        self._lag = 0 if shared else min(_MOST_LAG, max(0, ticks // 4))
        self._seen = self.ring.head

    @property
    def latest(self) -> LatestTable:
        """The last quote and trade of each instrument, up to the ring's head."""
        if self._seen < self.ring.head:
            self._catch_up()
        return self._latest

    def _catch_up(self) -> None:
        """Only the writer has anything to do here: a reader's table is another process's."""
        if self._writable:
            span = self.ring.read(self._seen)
            self._latest.update(span.ticks, span.first)
            self._seen = span.cursor

    @classmethod
    def create(
        cls,
        ticks: int = DEFAULT_TICKS,
        instruments: int = DEFAULT_INSTRUMENTS,
        path: str | os.PathLike[str] | int | None = None,
    ) -> "TickStore":
        """A new, empty store.

        Args:
            ticks: capacity of the ring; a power of two.
            instruments: capacity of the directory and the latest table.
            path: a file to make and map (on /dev/shm to share memory with other processes), or the descriptor of an
                empty one, which stays open; None = on the heap.

        Raises:
            ValueError: a capacity that is not possible.
            FileExistsError: the file is there already.
            OSError: it cannot be made, or there is no room for it; then none is left behind.
        """
        if ticks < 1 or ticks & (ticks - 1):
            raise ValueError(f"the ring's capacity is a power of two, not {ticks}")
        if not 1 <= instruments < 1 << 31:
            raise ValueError(f"the directory's capacity is 1 to 2**31 - 1, not {instruments}")
        _, length = _layout(ticks, instruments, _FEEDS)
        buffer: memoryview | mmap.mmap
        if path is None:
            buffer = np.zeros(length, np.uint8).data
        else:
            fd = path if isinstance(path, int) else os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                # All of it is taken now: a sparse file that finds the disk full later ends the process with SIGBUS.
                os.posix_fallocate(fd, 0, length)
                buffer = mmap.mmap(fd, length)
            except BaseException:
                if not isinstance(path, int):
                    os.unlink(path)
                raise
            finally:
                if not isinstance(path, int):
                    os.close(fd)
        offset, gone = _layout(ticks, instruments, _FEEDS)[0]["ring_gone"]
        np.frombuffer(buffer, gone.dtype, _FEEDS, offset)[:] = NEVER
        header = np.frombuffer(buffer, _HEADER, 1)
        header["layout"], header["tick_bytes"] = _LAYOUT_VERSION, TICK.itemsize
        header["ticks"], header["instruments"], header["feeds"] = ticks, instruments, _FEEDS
        header["epoch"] = secrets.randbelow((1 << 53) - 1) + 1
        header["pid"], header["tick"] = os.getpid(), _TICK_TEXT
        # Last of all: a file with the magic in it is complete.
        header["magic"] = np.void(_MAGIC)
        return cls(buffer, ticks, instruments, _FEEDS, shared=path is not None)

    @classmethod
    def attach(cls, path: str | os.PathLike[str] | int, name: str | None = None) -> "TickStore":
        """The read side of a store that another process created with a path.

        Args:
            path: its file, or an open descriptor of it, which stays open.
            name: what errors call it; by default the path.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: it is not a store, or one of another version, or damaged.
        """
        name = str(path) if name is None else name
        fd = path if isinstance(path, int) else os.open(path, os.O_RDONLY)
        try:
            length = os.fstat(fd).st_size
            if length < _HEADER.itemsize:
                raise StoreError(f"{name} is not a tick store: {length} bytes")
            buffer = mmap.mmap(fd, length, prot=mmap.PROT_READ)
        finally:
            if not isinstance(path, int):
                os.close(fd)
        header = np.frombuffer(buffer, _HEADER, 1)[0]
        if header["magic"].tobytes() != _MAGIC:
            raise StoreError(f"{name} is not a tick store")
        if (int(header["layout"]), int(header["tick_bytes"])) != (_LAYOUT_VERSION, TICK.itemsize):
            raise StoreError(
                f"{name} has layout {header['layout']} with ticks of {header['tick_bytes']} bytes;"
                f" this version reads layout {_LAYOUT_VERSION} with {TICK.itemsize}"
            )
        if header["tick"] != _TICK_TEXT:
            columns = header["tick"].decode(errors="replace")
            raise StoreError(f"{name} has ticks of {columns}; this version reads {_TICK_TEXT.decode()}")
        ticks, instruments, feeds = (int(header[column]) for column in ("ticks", "instruments", "feeds"))
        if not (ticks and ticks & (ticks - 1) == 0 and instruments and feeds):
            raise StoreError(f"{name} is damaged: {ticks} ticks, {instruments} instruments, {feeds} feeds")
        _, needed = _layout(ticks, instruments, feeds)
        if length < needed:
            raise StoreError(f"{name} is cut short: {length} of {needed} bytes")
        return cls(buffer, ticks, instruments, feeds)

    @staticmethod
    def is_store(fd: int) -> bool:
        """Whether the file of that descriptor is a store, of whatever version."""
        return os.pread(fd, len(_MAGIC), 0) == _MAGIC

    @property
    def beat_ns(self) -> int:
        """When the writer last said that it lives, by its own clock: ns since the Unix epoch; 0 = never yet."""
        return int(self._beat_ns[0])

    @property
    def ended(self) -> bool:
        """Whether the writer has published its last tick, and said so."""
        return bool(self._ended[0])

    def beat(self, now_ns: int) -> None:
        """Say that the writer lives. Only the one writer may call this."""
        self._beat_ns[0] = now_ns

    def end(self) -> None:
        """Say that no more ticks will come. Only the one writer may call this."""
        self._ended[0] = 1

    def publish(self, batch: Ticks) -> int:
        """Make a batch, shape (n,), TICK, visible to every reader. Returns the new head.

        Only the one writer may call this. A shared store's latest table is written first, so that whoever sees the new
        head finds there everything up to it.

        Raises:
            StoreError: this is the read side.
        """
        if not self._writable:
            raise StoreError("an attached store is read-only")
        # More at once than the ring holds would lap readers that keep up: it goes in pieces they can follow.
        piece = max(1, self.ring.capacity // 2)
        if len(batch) > piece:
            for begin in range(0, len(batch), piece):
                self.publish(batch[begin : begin + piece])
            return self.ring.head
        if self._lag == 0:
            self._latest.update(batch, self.ring.head + 1)
            self._seen = self.ring.publish(batch)
            return self._seen
        head = self.ring.publish(batch)
        if head - self._seen > self._lag:
            self._catch_up()
        return head

    def read(self, cursor: int, limit: int | None = None, until: int | None = None) -> Span:
        """Every tick after ``cursor``: see :meth:`Ring.read`."""
        return self.ring.read(cursor, limit, until)
