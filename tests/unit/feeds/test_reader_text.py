"""Delimited text: every cell where it is, every number exactly what Python reads."""

import io
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feeds.replay.readers import text
from tests.unit.feeds.replay_helper import Context


def column(cells: list[str]) -> text.Table:
    """A table of two columns, the first of which has these cells."""
    block = "".join(f"{cell},x\n" for cell in cells).encode()
    return text.split(block, 2, Context().refuse)


decimals = st.decimals(allow_nan=False, allow_infinity=False).map(str)
plain = st.from_regex(r"-?[0-9]{0,20}(\.[0-9]{0,12})?", fullmatch=True)


@given(st.lists(st.one_of(plain, decimals, st.floats(allow_nan=False).map(repr)), min_size=1, max_size=30))
def test_every_number_is_what_python_reads(cells: list[str]) -> None:
    values, state = column(cells).floats(0)
    for cell, value, how in zip(cells, values.tolist(), state.tolist(), strict=True):
        try:
            wanted = float(cell)
        except ValueError:
            wanted = math.nan
        if cell == "":
            assert how == text.EMPTY
        elif math.isfinite(wanted):
            assert (value, how) == (wanted, text.OK)
        else:
            assert how == text.BAD
            assert math.isnan(value)


@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1, max_size=30))
def test_integers_are_exact_to_nineteen_digits(numbers: list[int]) -> None:
    read = column([str(number) for number in numbers]).decimals(0)
    assert read.mantissa.tolist() == numbers
    assert not read.state.any()


def test_nineteen_digits_beyond_int64_are_not_wrapped_around() -> None:
    read = column(["9223372036854775807", "9223372036854775808", "9999999999999999999"]).decimals(0)
    assert read.state.tolist() == [text.OK, text.BAD, text.BAD]


@given(st.integers(0, 10**8), st.integers(0, 4))
def test_a_fixed_point_price_is_rounded_once(mantissa: int, shift: int) -> None:
    values, _ = column([str(mantissa)]).floats(0, shift)
    assert values[0] == mantissa / 10**shift


def test_words_points_and_signs_alone_are_no_numbers() -> None:
    _, state = column(["nan", "inf", "-", ".", "-.", "1.2.3", "12a", "0x10", "--1", "1_000", "١", "1e999"]).floats(0)
    assert state.tolist() == [text.BAD] * 12


rows = st.lists(st.lists(st.text("ab1. ", max_size=5), min_size=3, max_size=3), max_size=20)


@given(rows, st.sampled_from(["\n", "\r\n"]))
def test_every_cell_is_found(cells: list[list[str]], end: str) -> None:
    block = "".join(",".join(row) + end for row in cells).encode()
    table = text.split(block, 3, Context().refuse)
    found = [[table.cell(row, place) for place in range(3)] for row in range(len(table))]
    assert found == [[cell.strip(" ") for cell in row] for row in cells]


def test_quoted_cells_are_read_without_their_quotes() -> None:
    table = text.split(b'"a,b","say ""x""",1\nplain,cells,2\n', 3, Context().refuse)
    assert [[table.cell(row, place) for place in range(3)] for row in range(2)] == [
        ["a,b", 'say "x"', "1"],
        ["plain", "cells", "2"],
    ]


def test_lines_of_another_width_are_refused_and_empty_ones_are_not_rows() -> None:
    context = Context()
    table = text.split(b"1,2\n\n1,2,3\r\n\r\n4\n5,6\n", 2, context.refuse)
    assert [table.line(row) for row in range(len(table))] == ["1,2", "5,6"]
    assert context.refused == {"wrong number of columns": 2}
    assert context.examples["wrong number of columns"] == "1,2,3"


@given(st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=30), st.integers(1, 50))
def test_blocks_of_any_size_hold_the_same_lines(lines: list[bytes], size: int) -> None:
    whole = b"\n".join(lines)
    got = b"".join(text.blocks(io.BytesIO(whole), Context().refuse, size))
    assert got == whole + (b"\n" if whole and not whole.endswith(b"\n") else b"")


def test_a_line_without_an_end_is_refused_once_and_takes_no_memory() -> None:
    context = Context()
    stream = io.BytesIO(b"1,2\n" + b"x" * (3 * text.LINE_BYTES) + b"\n3,4\n")
    sizes = [len(block) for block in text.blocks(stream, context.refuse)]
    assert sum(sizes) == len(b"1,2\n3,4\n")
    assert context.refused == {"line too long": 1}


def test_names_keep_their_order_and_differ() -> None:
    table = text.split(b"AB,1\nA,2\nABC,3\nA,4\n", 2, Context().refuse)
    assert table.names(0) == [b"AB", b"A", b"ABC", b"A"]
    assert text.split(b"A,1\nA,2\n", 2, Context().refuse).names(0) == [b"A", b"A"]


def test_no_rows_are_no_trouble() -> None:
    table = text.split(b"\n\n", 2, Context().refuse)
    assert len(table) == 0
    assert np.array_equal(table.floats(0)[0], [])
