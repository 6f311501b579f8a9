"""One file of a recording while it is written, and what a killed process left of one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from marketfeed.recording.table import NUMBERS, TIMES

log = logging.getLogger("marketfeed.recording")

#: Rows of a full row group.
ROW_GROUP_ROWS = 131_072
#: So many gaps are told one by one in a file; of more, how many there are.
_GAPS_TOLD = 10_000
_GAPS = b"gaps"
#: A journal of up to so many bytes may be cut within its schema: then it had no rows yet.
_NO_ROWS_BYTES = 8_192
# What rises is kept as differences; the others repeat.
_DELTAS = (*TIMES, "seq", "venue_seq")
_PARQUET: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 1,
    "use_dictionary": ["symbol", "feed", "kind", "flags", *NUMBERS],
    "column_encoding": dict.fromkeys(_DELTAS, "DELTA_BINARY_PACKED"),
}


@dataclass(frozen=True)
class LostTicks:
    """Sequence numbers that are not in the recording; ``last`` None = it cannot be known."""

    epoch: int
    first: int
    last: int | None
    reason: str


class ParquetPart:
    """A Parquet file that appears under its name only when it is whole.

    Args:
        path: its name then. Until then it is a hidden file beside it.

    Raises (all methods):
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self.path = path
        self.rows = 0
        self._partial = hidden(path, "partial")
        self._schema = schema
        self._writer = pq.ParquetWriter(str(self._partial), schema, **_PARQUET)
        self._pending: list[Any] = []
        self._pending_rows = 0
        self._gaps: list[LostTicks] = []
        self._gaps_untold = 0
        #: (feed's place, symbol's place) as one number, sorted
        self._pairs = np.empty(0, np.int64)
        self._names: tuple[Any, Any] = (pa.array([], pa.string()), pa.array([], pa.string()))

    def add(self, batch: Any, gaps: list[LostTicks]) -> None:
        """Rows, and what was lost before them."""
        room = _GAPS_TOLD - len(self._gaps)
        self._gaps += gaps[:room]
        self._gaps_untold += len(gaps[room:])
        if not len(batch):
            return
        symbols, feeds = batch.column("symbol"), batch.column("feed")
        # Dictionaries only grow at their end: the last one has the names of all.
        self._names = (feeds.dictionary, symbols.dictionary)
        codes = feeds.indices.to_numpy().astype(np.int64) << 32 | symbols.indices.to_numpy()
        self._pairs = np.union1d(self._pairs, codes)
        self._pending.append(batch)
        self._pending_rows += len(batch)
        self.rows += len(batch)
        if self._pending_rows >= ROW_GROUP_ROWS:
            self._write_pending()

    def _write_pending(self) -> None:
        if not self._pending:
            return
        table = pa.Table.from_batches(self._pending, self._schema).unify_dictionaries().combine_chunks()
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._pending, self._pending_rows = [], 0

    @property
    def bytes(self) -> int:
        """How long it is by now."""
        for path in (self._partial, self.path):
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_size
        return 0

    def seal(self) -> bool:
        """Write its end and give it its name; with neither rows nor gaps there is no file, and it returns False."""
        if not self.rows and not self._gaps:
            self.abandon()
            return False
        self._write_pending()
        told = {
            "marketfeed.instruments": json.dumps(self._instruments(), separators=(",", ":")),
            "marketfeed.gaps": json.dumps([asdict(gap) for gap in self._gaps]),
            "marketfeed.gaps_untold": str(self._gaps_untold),
        }
        self._writer.add_key_value_metadata(told)
        self._writer.close()
        sync(self._partial)
        os.rename(self._partial, self.path)
        sync(self.path.parent)
        return True

    def _instruments(self) -> dict[str, list[str]]:
        feeds, symbols = (names.to_pylist() for names in self._names)
        found: dict[str, list[str]] = {}
        for code in self._pairs.tolist():
            found.setdefault(feeds[code >> 32], []).append(symbols[code & 0xFFFFFFFF])
        return found

    def abandon(self) -> None:
        """Delete what there is of it."""
        try:
            self._writer.close()
        except OSError:
            pass  # a full disk has no room for its end, which is not wanted
        self._partial.unlink(missing_ok=True)


class HourFile:
    """A file that rows are appended to: what :meth:`append` has returned from, a killed process does not take along.

    Raises (all methods):
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, schema: Any) -> None:
        self.path = path
        self._journal = hidden(path, "journal")
        self._sink = pa.OSFile(str(self._journal), "wb")
        options = pa.ipc.IpcWriteOptions(
            compression=pa.Codec("zstd", 1), use_threads=False, emit_dictionary_deltas=True
        )
        self._stream = pa.ipc.new_stream(self._sink, schema, options=options)
        self._fd: int | None = os.open(self._journal, os.O_RDONLY)
        sync(path.parent)
        self.parquet = ParquetPart(path, schema)

    def append(self, batch: Any, gaps: list[LostTicks]) -> None:
        """Rows, and what was lost before them."""
        told = {_GAPS: json.dumps([asdict(gap) for gap in gaps])} if gaps else None
        self._stream.write_batch(batch, custom_metadata=told)
        assert self._fd is not None
        os.fdatasync(self._fd)
        self.parquet.add(batch, gaps)

    def seal(self) -> bool:
        """The file is whole: give it its name. Returns whether there is one."""
        self._let_go()
        made = self.parquet.seal()
        self._journal.unlink()
        return made

    def abandon(self) -> None:
        """Stop here; the journal stays for the next start."""
        self._let_go()
        self.parquet.abandon()

    def _let_go(self) -> None:
        if self._fd is None:
            return
        try:
            self._stream.close()
            self._sink.close()
        except OSError:
            pass  # only its end mark is missing, and whoever reads it does not need that
        os.close(self._fd)
        self._fd = None


def position_of(path: Path) -> tuple[int, int] | None:
    """Epoch and last sequence number of a whole file; None = it is no such file, or has no rows."""
    try:
        told = pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return None
    epoch = (told.metadata or {}).get(b"marketfeed.epoch")
    if epoch is None or not told.num_rows:
        return None
    last = told.row_group(told.num_row_groups - 1)
    return int(epoch), int(last.column(told.schema.to_arrow_schema().get_field_index("seq")).statistics.max)


def journals(folder: Path) -> list[Path]:
    """The journals that are in a folder, oldest first."""
    return sorted(folder.glob(".*.parquet.journal"))


def salvage(journal: Path) -> Iterator[int]:
    """Make the Parquet file of a journal that a killed process left; yields how many rows it has so far, often.

    Raises:
        OSError: the file cannot be written; the journal stays.
    """
    path = journal.parent / journal.name.removeprefix(".").removesuffix(".journal")
    hidden(path, "partial").unlink(missing_ok=True)
    if path.exists():
        # The file was whole already: only its journal had not been deleted.
        journal.unlink()
        return
    size = journal.stat().st_size
    part: ParquetPart | None = None
    try:
        with pa.OSFile(str(journal), "rb") as source:
            for schema, batch, gaps in _readable(source):
                if part is None:
                    part = ParquetPart(path, schema)
                part.add(batch, gaps)
                yield part.rows
            end = source.tell()
        if part is not None:
            part.seal()
    except BaseException:
        if part is not None:
            part.abandon()
        raise
    if part is None and size > _NO_ROWS_BYTES:
        os.rename(journal, hidden(path, "unreadable"))
        log.warning("nothing can be read of %s", hidden(path, "unreadable"))
        return
    journal.unlink()
    if part is not None:
        log.warning("%s: salvaged %d ticks that a killed process left (%d bytes)", path, part.rows, end)


def _readable(source: Any) -> Iterator[tuple[Any, Any, list[LostTicks]]]:
    """Everything up to where the stream was cut."""
    try:
        stream = pa.ipc.open_stream(source)
        while True:
            found = stream.read_next_batch_with_custom_metadata()
            found.batch.validate(full=True)
            gaps = json.loads((found.custom_metadata or {}).get(_GAPS, b"[]"))
            yield stream.schema, found.batch, [LostTicks(**gap) for gap in gaps]
    except StopIteration:
        return
    except (pa.ArrowException, OSError):
        # A piece that is not there whole, and nothing lies behind it.
        return


def reason(error: BaseException) -> str:
    """Why something could not be written, in a few words."""
    number = getattr(error, "errno", None)
    # What pyarrow says around it is of no use to a user.
    return os.strerror(number) if number else str(error) or type(error).__name__


def hidden(path: Path, kind: str) -> Path:
    """What lies beside a file while it is written."""
    return path.parent / f".{path.name}.{kind}"


def sync(path: Path) -> None:
    """What was written of a file, or which files a folder has, is on the disk when this returns."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
