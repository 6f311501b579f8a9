"""What a reader is given and what it makes: a recorded file in, sources of ticks out."""

from __future__ import annotations

import gzip
import importlib
import io
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Protocol, cast
from zipfile import BadZipFile

from marketfeed.feed import FeedError
from marketfeed.model.instruments import check_name
from marketfeed.model.tick import Ticks

#: How much of a file is looked at to tell its format, in bytes after decompression.
HEAD_BYTES = 65_536

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class DamagedFile(Exception):
    """The rest of this file cannot be read."""


#: What a file that is damaged, or gone, raises while it is read.
DAMAGE = (OSError, EOFError, zlib.error, BadZipFile, DamagedFile)


@dataclass(frozen=True)
class Settings:
    """What a user may state about a recording that does not tell it."""

    #: "s", "ms", "us", "ns" of times that are numbers; None = told by their magnitude.
    time_unit: str | None = None
    #: The zone of times that name none; None = UTC, or what the format prescribes.
    zone: tzinfo | None = None
    #: The symbol of rows that name none; None = from the file's name.
    symbol: str | None = None
    #: Of a recording of several feeds only this one; None = all.
    feed: str | None = None
    #: The column by which ticks are played: "ts_event", or "ts_recv", which only recordings of ours have.
    clock: str = "ts_event"
    #: Names and globs of the wanted symbols; empty = all.
    symbols: tuple[str, ...] = ()

    def wants(self, symbol: str) -> bool:
        """Whether ticks of this symbol are to be played at all."""
        return not self.symbols or any(fnmatchcase(symbol, pattern) for pattern in self.symbols)


class ReaderContext(Protocol):
    """What a reader may ask and tell."""

    def wants(self, symbol: str) -> bool:
        """Whether ticks of this symbol are to be played at all."""

    def instrument(self, symbol: str, rows: int) -> int:
        """The id of a symbol that so many rows have; -1 = leave them out: not wanted, or refused, which is counted."""

    def refuse(self, reason: str, count: int = 1, example: str = "") -> None:
        """Count rows that cannot be ticks."""


@dataclass(frozen=True)
class Source:
    """One recorded sequence of ticks: a file, or a member of one."""

    #: for messages: which file it is.
    name: str
    #: opens it and gives its ticks in their order, in batches, shape (n,), TICK, n >= 0 and at most some thousands.
    #: Rows that cannot be ticks go to ``context.refuse``. Raises one of DAMAGE where it cannot be read on; closing the
    #: generator closes the file.
    read: Callable[[ReaderContext], Generator[Ticks, None, None]]
    #: like ``read``, but where that is cheap it leaves out ticks in front of the first one at or after this time, by
    #: the column that the settings name; None = it is not cheap.
    read_since: Callable[[ReaderContext, int], Generator[Ticks, None, None]] | None = None


@dataclass(frozen=True)
class RecordedFile:
    """A file and its beginning."""

    path: Path
    #: "", "gzip" or "zstd"
    compression: str
    #: the first HEAD_BYTES after decompression, or all where there are less; empty where nothing is installed that
    #: reads its compression.
    head: bytes

    @classmethod
    def look(cls, path: Path) -> RecordedFile:
        """Read the beginning of a file.

        Raises:
            FeedError: it cannot be read.
        """
        try:
            with path.open("rb") as raw:
                magic = raw.read(4)
            compression = "gzip" if magic.startswith(GZIP_MAGIC) else "zstd" if magic == ZSTD_MAGIC else ""
            if compression == "zstd" and find_spec("pyarrow") is None:
                return cls(path, compression, b"")
            with open_bytes(path, compression) as stream:
                return cls(path, compression, stream.read(HEAD_BYTES))
        except DAMAGE as error:
            raise FeedError(f"cannot read {path}: {one_line(error)}") from None

    def open(self) -> IO[bytes]:
        """The file's bytes, decompressed."""
        return open_bytes(self.path, self.compression)


def open_bytes(path: Path, compression: str) -> IO[bytes]:
    """A file's bytes, decompressed as they are read.

    Raises:
        FeedError: nothing that reads this compression is installed.
        OSError: the file cannot be opened.
    """
    if compression == "gzip":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if compression == "zstd":
        # pyarrow brings zstd along, and is asked for by an extra already.
        arrow = needed("pyarrow", "parquet", path)
        return cast(IO[bytes], arrow.input_stream(str(path), compression="zstd", buffer_size=1 << 16))
    return io.BufferedReader(io.FileIO(path), 1 << 16)


def needed(module: str, extra: str, path: Path) -> Any:
    """Import what not everybody has installed.

    Raises:
        FeedError: it is not installed; the message tells how to.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise FeedError(f"{path} needs {module}: pip install marketfeed[{extra}]") from None


def one_line(error: BaseException) -> str:
    """What an exception says, fit for the one line of a FeedError."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def ids_of(context: ReaderContext, rows: Mapping[bytes, int]) -> dict[bytes, int]:
    """The instrument of each name, -1 = leave its ticks out; given how many rows there are of each."""
    ids = {}
    for name, count in rows.items():
        try:
            ids[name] = context.instrument(name.decode(), count)
        except UnicodeDecodeError:
            context.refuse("bad symbol", count, repr(name))
            ids[name] = -1
    return ids


def ids_of_rows(context: ReaderContext, names: list[bytes]) -> list[int]:
    """The instrument of each row, -1 = leave it out."""
    ids = ids_of(context, Counter(names))
    return [ids[name] for name in names]


def symbol_of(file: RecordedFile, settings: Settings) -> str:
    """The symbol of a file whose rows have none: as stated, else the file's name without its endings.

    Raises:
        FeedError: that is no symbol.
    """
    symbol = settings.symbol or file.path.name.split(".")[0]
    try:
        check_name(symbol)
    except ValueError as error:
        raise FeedError(f"{file.path} names no symbol (say as=SYMBOL): {error}") from None
    return symbol
