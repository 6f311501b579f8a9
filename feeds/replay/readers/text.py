"""Delimited text, a block of lines at a time, in numpy: thousands of rows a step, no Python object a cell.

A block is split into a :class:`Table`, the place of each cell in the block's bytes. Numbers are then read digit by
digit over a whole column: the digits as one integer, and how many of them stand behind the point. An integer below
2**53 divided by a power of ten up to 10**22 is correctly rounded, so the result is exactly what ``float(text)`` gives.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

#: How many bytes are read at a time: some thousands of rows, some milliseconds of work.
BLOCK_BYTES = 1 << 16
#: No line is longer than this; one that is, is refused.
LINE_BYTES = 1 << 22

#: ``context.refuse``
Refuse = Callable[[str, int, str], None]

_MOST_DIGITS = 19
_COMMA, _CR, _LF, _SPACE, _MINUS = b",\r\n -"
#: Stands between the cells of lines that had quotes; no text has it.
_UNIT_SEPARATOR = 0x1F

#: How a cell reads.
OK, EMPTY, BAD = 0, 1, 2


def blocks(stream: IO[bytes], refuse: Refuse, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The stream in blocks of whole lines, each ending with a newline."""
    rest = b""
    too_long = False
    while chunk := stream.read(size):
        end = chunk.rfind(b"\n") + 1
        if not end:
            if len(rest) + len(chunk) > LINE_BYTES:
                if not too_long:
                    refuse("line too long", 1, rest[:80].decode(errors="replace"))
                too_long, rest = True, b""
            elif not too_long:
                rest += chunk
            continue
        begin = chunk.find(b"\n") + 1 if too_long else 0
        if begin < end:
            yield rest + chunk[begin:end]
        too_long, rest = False, chunk[end:]
    if rest and not too_long:
        yield rest + b"\n"


@dataclass(frozen=True)
class Table:
    """Where each cell of a block is: ``buffer[starts[row, column]:ends[row, column]]``."""

    #: shape (bytes,), u1
    buffer: NDArray[np.uint8]
    #: shape (rows, columns), i8
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def cell(self, row: int, column: int) -> str:
        """One cell, as text."""
        return self.buffer[self.starts[row, column] : self.ends[row, column]].tobytes().decode(errors="replace")

    def unusual(self, row: int, column: int) -> str:
        """One cell, for Python to read as a number; what only Python takes for one (1_000) is emptied."""
        cell = self.cell(row, column)
        return "" if "_" in cell or not cell.isascii() else cell

    def line(self, row: int) -> str:
        """One row as it stands in the file."""
        return self.buffer[self.starts[row, 0] : self.ends[row, -1]].tobytes().decode(errors="replace")

    def keep(self, rows: NDArray[np.bool_]) -> Table:
        """Only these rows."""
        return Table(self.buffer, self.starts[rows], self.ends[rows])

    def first(self, rows: int) -> Table:
        """Only the first so many rows."""
        return Table(self.buffer, self.starts[:rows], self.ends[:rows])

    def sound(self, bad: dict[str, NDArray[np.bool_]], refuse: Refuse) -> NDArray[np.bool_]:
        """Which rows have nothing wrong, shape (rows,). The others are refused, each for the first of these reasons."""
        sound = np.ones(len(self), np.bool_)
        for reason, wrong in bad.items():
            wrong = wrong & sound
            if wrong.any():
                refuse(reason, int(wrong.sum()), self.line(int(wrong.argmax())))
                sound &= ~wrong
        return sound

    def matrix(self, column: int, most: int) -> NDArray[np.uint8]:
        """The bytes of a column, shape (width, rows), left-aligned, 0 behind the end; cut to ``most`` bytes each."""
        starts, ends = self.starts[:, column], self.ends[:, column]
        width = min(int((ends - starts).max(initial=0)), most)
        at = starts + np.arange(width)[:, None]
        return np.where(at < ends, self.buffer[np.minimum(at, len(self.buffer) - 1)], 0).astype(np.uint8)

    def names(self, column: int) -> list[bytes]:
        """The cells of a column; longer ones are cut to 64 bytes (no symbol is as long)."""
        cells = np.ascontiguousarray(self.matrix(column, 64).T)
        if not cells.size:
            return [b""] * len(self)
        if (cells == cells[0]).all():
            return [cells[0].tobytes().rstrip(b"\0")] * len(self)
        names: list[bytes] = cells.view(f"S{cells.shape[1]}")[:, 0].tolist()
        return names

    def decimals(self, column: int) -> Decimals:
        """The numbers of a column."""
        return _decimals(self.buffer, self.starts[:, column], self.ends[:, column])

    def floats(self, column: int, shift: int = 0) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """A column as f8, divided by ``10**shift`` (up to 4), NaN where there is no number; and how each cell reads.

        ``nan`` and ``inf`` are BAD: they are no numbers.
        """
        numbers = self.decimals(column)
        values = numbers.mantissa / 10.0 ** (numbers.scale + shift)
        exact = np.abs(numbers.mantissa) < 1 << 53
        state = numbers.state
        # What is no plain decimal of up to 19 digits is left to Python: it is rare.
        for row in np.flatnonzero((state == BAD) | ~exact).tolist():
            try:
                value = float(self.unusual(row, column)) / 10**shift
            except ValueError:
                value = np.nan
            state[row] = OK if np.isfinite(value) else BAD
            values[row] = value
        values[state != OK] = np.nan
        return values, state


@dataclass(frozen=True)
class Decimals:
    """A column of decimal numbers; each is ``mantissa / 10**scale``."""

    #: shape (rows,), i8
    mantissa: NDArray[np.int64]
    #: shape (rows,), i8, 0 to 18
    scale: NDArray[np.int64]
    #: shape (rows,), u1: OK, EMPTY or BAD (then mantissa and scale are 0)
    state: NDArray[np.uint8]


def _decimals(buffer: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Decimals:
    width = ends - starts
    state = np.where(width == 0, EMPTY, OK).astype(np.uint8)
    negative = buffer[np.minimum(starts, len(buffer) - 1)] == _MINUS
    negative &= width > 0
    width = width - negative
    # One place more than digits, for the point.
    most = min(int(width.max(initial=0)), _MOST_DIGITS + 1)
    scale = np.zeros(len(width), np.int64)
    if most == 0:
        state[negative] = BAD
        return Decimals(np.zeros(len(width), np.int64), scale, state)

    # Right-aligned, one row a decimal place, so that every step below runs along memory.
    places = np.arange(most, 0, -1)[:, None]
    digits = buffer[np.maximum(ends - places, 0)] - np.uint8(ord("0"))
    if int(width.min()) != most:
        digits[places > width] = 0
    point = digits == np.uint8((ord(".") - ord("0")) % 256)
    points = point.sum(axis=0)
    if points.any():
        # What is left of the point moves into its place.
        has = points == 1
        at = np.where(has, point.argmax(axis=0), -1)
        scale = np.where(has, most - 1 - at, 0)
        left = np.arange(most)[:, None] <= at
        digits[1:] = np.where(left[1:], digits[:-1], digits[1:])
        digits[0, has] = 0
    count = width - points
    bad = (digits.max(axis=0) > 9) | (points > 1) | (count > _MOST_DIGITS) | ((count <= 0) & (state == OK))
    scale[bad] = 0

    # Two dot products of less than 16 digits each are exact in f8, and many times faster than integers.
    weights = 10.0 ** (places[:, 0] - 1)
    low = max(0, most - 9)
    total = (weights[low:] @ digits[low:]).astype(np.int64)
    if low:
        total += ((weights[:low] / 1e9) @ digits[:low]).astype(np.int64) * 10**9
    bad |= total < 0  # 19 digits that are beyond int64
    state[bad] = BAD
    gone = state != OK
    total[gone] = 0
    scale[gone] = 0
    return Decimals(np.where(negative, -total, total), scale, state)


def split(block: bytes, columns: int, refuse: Refuse, delimiter: int = _COMMA) -> Table:
    """Find the cells of a block of whole lines. Empty lines are no rows; rows of another width are refused."""
    if b'"' in block:
        block, delimiter = _unquoted(block, chr(delimiter)), _UNIT_SEPARATOR
    buffer = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero((buffer == delimiter) | (buffer == _LF))
    last = np.flatnonzero(buffer[ends] == _LF)
    starts = np.empty_like(ends)
    if len(ends):
        starts[0], starts[1:] = 0, ends[:-1] + 1
    # A carriage return belongs to the line's end.
    tail = ends[last]
    ends[last] = tail - ((buffer[tail - 1] == _CR) & (tail > starts[last]))

    widths = np.diff(last, prepend=-1)
    good = widths == columns
    if not good.all():
        blank = (widths == 1) & (ends[last] == starts[last])
        wrong = np.flatnonzero(~good & ~blank)
        if len(wrong):
            first = wrong[0]
            example = block[starts[last[first] - widths[first] + 1] : ends[last[first]]].decode(errors="replace")
            refuse("wrong number of columns", len(wrong), example)
        cells = np.repeat(good, widths)
        starts, ends = starts[cells], ends[cells]
    if b" " in block:
        _trim(buffer, starts, ends)
    return Table(buffer, starts.reshape(-1, columns), ends.reshape(-1, columns))


def _trim(buffer: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
    """Leave out the blanks around each cell, in place."""
    while (lead := (buffer[np.minimum(starts, len(buffer) - 1)] == _SPACE) & (starts < ends)).any():
        starts += lead
    while (tail := (buffer[np.maximum(ends - 1, 0)] == _SPACE) & (starts < ends)).any():
        ends -= tail


def _unquoted(block: bytes, delimiter: str) -> bytes:
    """The same lines without their quotes, cells parted by a byte that no text has."""
    # Latin-1 keeps every byte as it is, whatever the encoding. A quote that is never closed ends with its line.
    lines = block.decode("latin-1").replace(chr(_UNIT_SEPARATOR), " ").split("\n")[:-1]
    return "".join(chr(_UNIT_SEPARATOR).join(_cells(line, delimiter)) + "\n" for line in lines).encode("latin-1")


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return [line]
