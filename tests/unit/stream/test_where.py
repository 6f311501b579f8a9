"""Conditions: what they keep, which are the same, and what is none."""

from __future__ import annotations

import math
import random
import sys
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, example, given

from marketfeed.model import QUOTE, TRADE, empty_ticks
from marketfeed.model.tick import Ticks
from marketfeed.stream.where import COLUMNS, MAX_CHARS, MAX_NODES, Where, WhereError

MISSING = math.nan

#: name -> kind, bid, bid_size, ask, ask_size, price, size
ROWS = {
    "tight": (QUOTE, 10.0, 500.0, 10.01, 300.0, MISSING, MISSING),
    "wide": (QUOTE, 10.0, 100.0, 12.0, 50.0, MISSING, MISSING),
    "crossed": (QUOTE, 10.0, 1.0, 9.99, 2.0, MISSING, MISSING),
    "bidonly": (QUOTE, 10.0, 100.0, MISSING, MISSING, MISSING, MISSING),
    "unsized": (QUOTE, 10.0, MISSING, 10.5, MISSING, MISSING, MISSING),
    "zero": (QUOTE, 0.0, 0.0, 0.0, 0.0, MISSING, MISSING),
    "small": (TRADE, MISSING, MISSING, MISSING, MISSING, 10.0, 5.0),
    "block": (TRADE, MISSING, MISSING, MISSING, MISSING, 10.5, 10_000.0),
}
SIZED = "tight wide crossed zero"
TWO_SIDED = "tight wide crossed unsized zero"
QUOTES = "tight wide crossed bidonly unsized zero"
ALL = " ".join(ROWS)


def ticks_of(rows: Any) -> Ticks:
    ticks = empty_ticks(len(rows))
    for tick, (kind, *numbers) in zip(ticks, rows, strict=True):
        tick["kind"] = kind
        tick["bid"], tick["bid_size"], tick["ask"], tick["ask_size"], tick["price"], tick["size"] = numbers
    return ticks


# ---- what is kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        # columns
        ("bid > 0", "tight wide crossed bidonly unsized"),
        ("ask >= 10.01", "tight wide unsized"),
        ("bid_size < 100", "crossed zero"),
        ("ask_size == 300", "tight"),
        ("price <= 10", "small"),
        ("size >= 100", "block"),
        ("mid > 10.1", "wide unsized"),
        ("spread < 0", "crossed"),
        ("spread_bps > 9.9", "tight wide unsized"),
        ("spread_bps < 10", "tight crossed"),
        # arithmetic
        ("bid + 2 == ask", "wide"),
        ("2 * bid_size - ask_size > 100", "tight wide"),
        ("bid_size / ask_size >= 2", "wide"),
        ("abs(bid_size - ask_size) <= 1", "crossed zero"),
        ("-bid == +-10", "tight wide crossed bidonly unsized"),
        ("bid - 4 - 3 == 3", "tight wide crossed bidonly unsized"),
        ("bid - (4 - 3) == 3", ""),
        ("bid / 2 * 5 == 25", "tight wide crossed bidonly unsized"),
        ("1 + 2 * bid == 21", "tight wide crossed bidonly unsized"),
        ("(1 + 2) * bid == 30", "tight wide crossed bidonly unsized"),
        # chains
        ("1 < bid < 11 < ask", "wide"),
        ("bid == 10 != ask", "tight wide crossed unsized"),
        ("0 < bid > ask", "crossed"),
        # and, or, not
        ("bid == 10 and ask == 12", "wide"),
        ("ask == 12 or price == 10", "wide small"),
        ("bid == 0 or bid == 10 and ask == 12", "wide zero"),
        ("(bid == 0 or bid == 10) and ask == 12", "wide"),
        ("not bid == 10 and size > 0", "small block"),
        ("not (bid == 10 and ask == 12)", ALL.replace("wide ", "")),
        ("not not ask == 12", "wide"),
        # missing: no comparison with it is true, and `not` makes that false true
        ("bid == bid", QUOTES),
        ("not bid == bid", "small block"),
        ("ask != 12", "tight crossed unsized zero"),
        ("ask == 12", "wide"),
        ("not ask == 12", ALL.replace("wide ", "")),
        ("not ask != 12", "wide bidonly small block"),
        ("ask < 5 or ask >= 5", TWO_SIDED),
        ("mid < 5 or mid >= 5", TWO_SIDED),
        ("bid_size != 1", "tight wide bidonly zero"),
        ("size < 100", "small"),
        ("not size < 100", ALL.replace("small ", "")),
        ("bid + price > 0", ""),
        # a division by zero is missing, whatever is done with it
        ("bid_size / ask_size != 7", "tight wide crossed"),
        ("1 / (1 / bid_size) == 0", ""),
        ("1 / 0 > 1 or 1 / 0 <= 1", ""),
        ("0 / 0 == 0 / 0", ""),
        ("-1 / -0 < 0", ""),
        ("spread_bps == spread_bps", "tight wide crossed unsized"),
        # too large is infinite
        ("bid * 1e308 * 10 > 1e308", "tight wide crossed bidonly unsized"),
        ("1e308 * 10 - 1e308 * 10 == 0", ""),
        # no column at all
        ("1 < 2", ALL),
        ("not 1 < 2", ""),
        ("1 < 2 and price > 0", "small block"),
        # how it may be written
        ("bid>1e1 or.5>bid", "zero"),
        (" \t\r\n( (bid)\n==1.e1 )\n", "tight wide crossed bidonly unsized"),
    ],
)
def test_what_a_condition_keeps(condition, kept):
    holds = Where.parse(condition).holds(ticks_of(ROWS.values()))
    assert holds.dtype == np.bool_
    assert " ".join(name for name, held in zip(ROWS, holds, strict=True) if held) == kept


@pytest.mark.parametrize("condition", ["spread_bps > 1 and not bid_size / ask_size < 2", "1 < 2"])
@pytest.mark.parametrize("n", [0, 1, 5000])
def test_it_answers_for_every_tick_and_leaves_them_as_they_are(condition, n):
    ticks = empty_ticks(n)
    ticks.flags.writeable = False
    assert Where.parse(condition).holds(ticks).shape == (n,)


def test_only_the_columns_that_it_needs_are_read():
    ticks = np.array([(1.0, 3.0), (1.0, 2.0)], [("bid", "<f8"), ("ask", "<f8")])
    assert Where.parse("mid >= 2 and bid < ask").holds(ticks).tolist() == [True, False]


# ---- what is the same --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "canonical"),
    [
        (["bid > 1", "bid>1.0", "1e0 < bid", " ( ((bid)) > (+1) ) ", "bid > 10e-1", "not not bid > 1"], "1 < bid"),
        (["bid >= .5", "0.50 <= bid", "bid >= 5e-1"], "0.5 <= bid"),
        (["bid == ask", "ask == bid"], "ask == bid"),
        (["bid != ask", "ask != bid", "(bid != ask) or ask != bid"], "ask != bid"),
        (
            ["1 < bid < 2", "bid < 2 and 1 < bid", "2 > bid > 1", "1 < bid and (bid < 2 and bid > 1)"],
            "1 < bid and bid < 2",
        ),
        (["bid + ask > 0", "0 < ask + bid"], "0 < ask + bid"),
        (["ask * (bid + 1) > 0", "(1 + bid) * ask > 0"], "0 < (1 + bid) * ask"),
        (["--bid > -0", "bid > 0.0"], "0 < bid"),
        (["-(-(-2)) < bid", "bid > -2.0", "bid > -(2)"], "-2 < bid"),
        (["bid - (ask - mid) < 1"], "bid - (ask - mid) < 1"),
        (["bid - ask - mid < 1", "(bid - ask) - mid < 1"], "bid - ask - mid < 1"),
        (["bid / (ask * mid) < 1"], "bid / (ask * mid) < 1"),
        (["-(bid + ask) < abs(-bid)"], "-(ask + bid) < abs(-bid)"),
        (["not (bid < 1 or ask < 1)", "not (ask < 1 or bid < 1)"], "not (ask < 1 or bid < 1)"),
        (["(bid < 1 or ask < 1) and mid < 1"], "(ask < 1 or bid < 1) and mid < 1"),
        (["(bid < 1 and ask < 1) or mid < 1", "mid < 1 or ask < 1 and bid < 1"], "ask < 1 and bid < 1 or mid < 1"),
        (["bid < 100000000000000000000", "bid < 1e20"], "bid < 1e+20"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_conditions_that_are_the_same_have_one_canonical_text(texts, canonical):
    parsed = [Where.parse(text) for text in texts]
    assert {where.canonical for where in parsed} == {canonical}
    assert set(parsed) == {Where.parse(canonical)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("not bid < 1", "bid >= 1"),
        ("not bid == 1", "bid != 1"),
        ("bid - ask < 1", "ask - bid < 1"),
        ("bid / ask < 1", "ask / bid < 1"),
        ("bid < ask", "ask < bid"),
        ("bid < 1", "bid <= 1"),
        ("bid + ask + mid < 1", "bid + (ask + mid) < 1"),
        ("bid < 0.1", "bid < 0.1000000000000001"),
    ],
)
def test_conditions_that_are_not_the_same_are_told_apart(one, other):
    assert Where.parse(one) != Where.parse(other)


def test_a_text_is_parsed_once():
    assert Where.parse("bid > 1 and ask < 3") is Where.parse("bid > 1 and ask < 3")


# ---- what is none ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marked", "problem"),
    [
        ("bid > →foo * 2", "unknown column 'foo'"),
        ("bid > 1 →AND ask > 1", "unknown column 'AND'"),
        ("bid > 1 →if ask > 1 else ask > 2", "unknown column 'if'"),
        ("bid →is ask", "unknown column 'is'"),
        ("→lambda: 1", "unknown column 'lambda'"),
        ("→True", "unknown column 'True'"),
        ("→__import__('os')", "unknown column '__import__'"),
        ("→ｂid > 1", "unexpected 'ｂ'"),
        ("bid > 1 →# and so on", "unexpected '#'"),
        ("bid > →'1'", 'unexpected "\'"'),
        ("bid →= 1", "unexpected '='"),
        ("bid > abs(1→, 2)", "unexpected ','"),
        ("bid > →[1]", "unexpected '['"),
        ("→\0", r"unexpected '\x00'"),
        ("bid > 1 →\ud800", r"unexpected '\ud800'"),
        ("bid > →1_000", "not a number: '1_000'"),
        ("bid > →0x1F", "not a number: '0x1F'"),
        ("bid > →1j", "not a number: '1j'"),
        ("bid > →007", "not a number: '007'"),
        ("bid > →1.2.3", "not a number: '1.2.3'"),
        ("bid > →1e", "not a number: '1e'"),
        ("→1or 2 > bid", "not a number: '1or'"),
        ("bid > →.", "not a number: '.'"),
        ("bid→.real > 1", "not a number: '.real'"),
        ("bid > →1e309", "too large a number"),
        ("bid > →" + "9" * 400, "too large a number"),
        ("→", "expected a column or a number"),
        ("  →", "expected a column or a number"),
        ("bid >→", "expected a column or a number"),
        ("bid > 1 and→", "expected a column or a number"),
        ("not→", "expected a column or a number"),
        ("→and bid > 1", "expected a column or a number"),
        ("bid *→* 2 > 1", "expected a column or a number"),
        ("bid /→/ 2 > 1", "expected a column or a number"),
        ("bid <→< 2", "expected a column or a number"),
        ("(→)", "expected a column or a number"),
        ("bid →ask", "expected an operator"),
        ("(bid →ask) > 1", "expected an operator"),
        ("bid→(1) > 1", "expected an operator"),
        ("(bid > 1) →(ask > 1)", "expected an operator"),
        ("bid > 1 →not ask > 1", "expected an operator"),
        ("bid > 1→)", "')' without '('"),
        ("bid > →(1", "'(' is never closed"),
        ("bid > (1 + →(ask", "'(' is never closed"),
        ("  abs →bid > 1", "invalid syntax"),
        ("\n1 + →not bid > 1", "invalid syntax"),
        ("→bid + 1", "expected a condition, not a number,"),
        ("  →1", "expected a condition, not a number,"),
        ("not →3", "expected a condition, not a number,"),
        ("bid > 1 and →ask", "expected a condition, not a number,"),
        ("(→bid < 1) + 2 > 3", "expected a number, not a condition,"),
        ("1 < (→bid < 2) < 3", "expected a number, not a condition,"),
        ("(→bid < 1) == (ask < 1)", "expected a number, not a condition,"),
        ("-(→bid < 1) < 3", "expected a number, not a condition,"),
        ("abs(→bid < 1 or ask < 1) < 3", "expected a number, not a condition,"),
        ("(" * 64 + "→(bid < 1" + ")" * 65, "too deep"),
        ("(" * 64 + "→" + "(" * 136 + "bid < 1" + ")" * 200, "too deep"),
        ("-" * 64 + "→-bid < 1", "more than 64 columns, numbers and operators"),
        ("1 + " * 32 + "→1 < bid", "more than 64 columns, numbers and operators"),
        ("→" + " < ".join(map(str, range(30))), "more than 64 columns, numbers and operators"),
        ("bid < 1" + " " * 1017 + "→ ", "more than 1024 characters"),
    ],
)
def test_an_error_points_at_the_character(marked, problem):
    text, position = marked.replace("→", ""), marked.index("→")
    with pytest.raises(WhereError) as refused:
        Where.parse(text)
    message = str(refused.value)
    assert (refused.value.position, message.partition(" at character ")[0]) == (position, f"where: {problem}")
    shown = message.partition(f" at character {position}: ")[2]
    before, after = text[max(0, position - 10) : position], text[position : position + 10]
    assert f"{repr(before)[1:-1]}→{repr(after)[1:-1]}" in shown
    assert len(message) < 500
    assert message.isprintable()


WORDS = [*COLUMNS, *"+-*/()<>", "<=", ">=", "==", "!=", "and", "or", "not", "abs", "abs(", "1", "2.5", "1e3", ".", "**"]
PIECES = st.sampled_from([*WORDS, " ", "\n", "\\", "lambda", "é", "1_0", "'", "#", ":=", "True", "{", "\0"])


def read_or_refuse(text: str) -> Where | WhereError:
    try:
        return Where.parse(text)
    except WhereError as error:
        return error


@given(st.text() | st.lists(PIECES, max_size=80).map("".join) | st.lists(st.sampled_from(WORDS)).map(" ".join))
@example("(" * 400)
@example("-" * 1000 + "1")
def test_any_text_is_a_condition_or_an_error_that_says_where(text):
    read = read_or_refuse(text)
    if isinstance(read, WhereError):
        assert 0 <= read.position <= len(text)
        assert str(read).encode()
    else:
        assert Where.parse(read.canonical) == read


@pytest.mark.parametrize(
    "text",
    [
        "(" * 1_000_000,
        "x" * 1_000_000,
        "not " * 64 + "bid",
        "(" * 60 + "bid < 1 and not abs bid" + ")" * 60,
        "not (" * 30 + "bid < not 1" + ")" * 30,
        "1e" + "9" * 1000 + " < bid",
        "9" * 1000 + " < bid",
        "bid" + " " * 1000 + "!",
        "é" * 1024,
    ],
    ids=lambda text: f"{text[:12]} ({len(text)})",
)
@pytest.mark.timeout(30)
def test_the_worst_of_texts_is_refused_in_few_steps(text):
    """What reading costs is in bench/test_where.py. Steps inside of a regular expression cannot be counted: where there
    are very many, a thousand times over do not come to their end."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        with pytest.raises(WhereError):
            Where.parse(text)
    finally:
        sys.setprofile(before)
    assert calls < 50 * MAX_NODES
    for _ in range(1000):
        with pytest.raises(WhereError):
            Where.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 64 + "bid < 1" + ")" * 64,
        "-1.7976931348623157e308<" + "+".join(["1.7976931348623157e308"] * 31),
        "-" + "*-".join(["1.7976931348623157e308"] * 21) + "<bid",
        "abs(" * 61 + "bid" + ")" * 61 + "<1",
        "not(" * 60 + "bid<1 " + ")" * 60,
        "-(1+" * 20 + "bid" + ")" * 20 + "<1",
        "<".join(["-2.2250738585072014e-308", *["ask_size"] * 14, "bid"]),
    ],
    ids=lambda text: text[:24],
)
def test_the_canonical_text_of_the_largest_condition_is_a_condition(text):
    where = Where.parse(text)
    assert len(where.canonical) <= MAX_CHARS
    assert Where.parse(where.canonical) == where


# ---- against an interpreter that goes row by row -------------------------------------------------------------------

# A tree is a column's name, (value, spelling), (operator, tree, ...), or ("chain", operators, trees).
Tree = Any

_OPERAND_RANKS = {"or": 0, "and": 1, "not": 2, "chain": 3, "+": 4, "-": 4, "*": 5, "/": 5, "sign": 6}

NUMBERS = st.sampled_from(
    [
        *[(0.0, text) for text in ("0", "0.0", ".0", "0e5")],
        *[(1.0, text) for text in ("1", "1.", "1.00", "1e0", "10e-1")],
        *[(2.5, text) for text in ("2.5", "25e-1", "0.25E+1")],
        *[(100.0, text) for text in ("100", "1e2")],
        (1e300, "1e300"),
        (0.1, ".1"),
    ]
)


def numeric(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.tuples(st.sampled_from("+-*/"), inner, inner) | st.tuples(
        st.sampled_from(["minus", "plus", "abs"]), inner
    )


NUMERIC = st.recursive(st.sampled_from(COLUMNS) | NUMBERS, numeric, max_leaves=4)
CHAINS = st.lists(
    st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), NUMERIC), min_size=1, max_size=3
).flatmap(
    lambda rest: NUMERIC.map(lambda first: ("chain", [op for op, _ in rest], [first, *(tree for _, tree in rest)]))
)
CONDITIONS = st.recursive(
    CHAINS,
    lambda inner: (
        st.tuples(st.just("not"), inner)
        | st.lists(inner, min_size=2, max_size=3).map(lambda trees: ("and", *trees))
        | st.lists(inner, min_size=2, max_size=3).map(lambda trees: ("or", *trees))
    ),
    max_leaves=5,
)


def size_of(tree: Tree) -> int:
    match tree:
        case str() | (float(), str()):
            return 1
        case ("chain", ops, trees):
            sizes = [size_of(tree) for tree in trees]
            return sum(a + b + 1 for a, b in pairwise(sizes)) + len(ops) - 1
        case (_, one):
            return size_of(one) + 1
        case (_, *trees):
            return sum(map(size_of, trees)) + len(trees) - 1
    raise AssertionError(tree)


def write(tree: Tree, dice: random.Random, within: int = -1) -> str:
    """As text: parentheses where they are needed and sometimes where not, blanks anywhere."""
    blank = lambda: dice.choice(["", "", " ", "\n ", "\t"])  # noqa: E731 - a name for what is only used here
    match tree:
        case str():
            rank, text = 7, tree
        case (float(), str() as spelling):
            rank, text = 7, spelling
        case ("chain", ops, trees):
            rank, text = 3, write(trees[0], dice, 3)
            for op, other in zip(ops, trees[1:], strict=True):
                text += f"{blank()}{op}{blank()}{write(other, dice, 3)}"
        case ("abs", one):
            rank, text = 7, f"abs{blank()}({write(one, dice)})"
        case ("minus" | "plus" as sign, one):
            rank, text = 6, f"{'-' if sign == 'minus' else '+'}{blank()}{write(one, dice, 5)}"
        case ("not", one):
            rank, text = 2, f"not {write(one, dice, 1)}"
        case ("and" | "or" as op, *trees):
            rank = _OPERAND_RANKS[op]
            text = f" {op} ".join(write(one, dice, rank) for one in trees)
        case (op, left, right):
            rank = _OPERAND_RANKS[op]
            # The left side of `a - b` may be a sum itself, the right one not.
            text = f"{write(left, dice, rank - 1)}{blank()}{op}{blank()}{write(right, dice, rank)}"
    if rank <= within or dice.random() < 0.1:
        return f"{blank()}({blank()}{text}{blank()}){blank()}"
    return text


def number_of(tree: Tree, row: dict[str, float]) -> float | None:
    """None = missing."""
    match tree:
        case "mid":
            return number_of(("/", ("+", "bid", "ask"), (2.0, "")), row)
        case "spread":
            return number_of(("-", "ask", "bid"), row)
        case "spread_bps":
            return number_of(("/", ("*", (10_000.0, ""), "spread"), "mid"), row)
        case str():
            value = row[tree]
        case (float() as value, str()):
            pass
        case (op, *trees):
            values = [number_of(one, row) for one in trees]
            if None in values or (op == "/" and values[1] == 0):
                return None
            a, b = (*values, 0.0)[:2]
            value = {
                "plus": lambda: a,
                "minus": lambda: -a,
                "abs": lambda: abs(a),
                "+": lambda: a + b,
                "-": lambda: a - b,
                "*": lambda: a * b,
                "/": lambda: a / b,
            }[op]()
    return None if math.isnan(value) else value


def truth_of(tree: Tree, row: dict[str, float]) -> bool:
    match tree:
        case ("not", one):
            return not truth_of(one, row)
        case ("and", *trees):
            return all(truth_of(one, row) for one in trees)
        case ("or", *trees):
            return any(truth_of(one, row) for one in trees)
        case ("chain", ops, trees):
            numbers = [number_of(one, row) for one in trees]
            return all(compare(op, a, b) for op, (a, b) in zip(ops, pairwise(numbers), strict=True))
    raise AssertionError(tree)


def compare(op: str, a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return False
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}[op]


MARKET = st.lists(
    st.tuples(
        st.sampled_from([QUOTE, TRADE]),
        *[st.sampled_from([MISSING, 0.0, 1.0, 2.5, -1.0, 100.0, 0.1, 1e300, 1e-300]) | st.floats(-10, 10)] * 6,
    ),
    min_size=1,
    max_size=8,
)
DICE = st.integers(0, 1 << 32).map(random.Random)


@given(CONDITIONS, MARKET, DICE)
def test_it_keeps_what_an_interpreter_that_goes_row_by_row_keeps(tree, market, dice):
    assume(size_of(tree) <= MAX_NODES)
    text = write(tree, dice)
    assume(len(text) <= MAX_CHARS)
    ticks = ticks_of(market)
    expected = [truth_of(tree, {name: float(tick[name]) for name in ticks.dtype.names[7:]}) for tick in ticks]
    where = Where.parse(text)
    assert where.holds(ticks).tolist() == expected
    again = Where.parse(where.canonical)
    assert (again, again.canonical) == (where, where.canonical)
    assert again.holds(ticks).tolist() == expected


def rewritten(tree: Tree, dice: random.Random) -> Tree:
    """The same condition in other words."""
    match tree:
        case str():
            new = tree
        case (float() as value, str()):
            new = (value, f"{value:.6e}")
        case ("chain", ops, trees):
            trees = [rewritten(one, dice) for one in trees]
            mirror = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
            pairs = []
            for op, (a, b) in zip(ops, pairwise(trees), strict=True):
                a, b, op = (b, a, mirror.get(op, op)) if dice.random() < 0.5 else (a, b, op)
                pairs.append(("chain", [op], [a, b]))
            pairs.append(dice.choice(pairs))
            new = ("and", *pairs)
        case ("and" | "or" as op, *trees):
            trees = [rewritten(one, dice) for one in dice.sample(trees, len(trees))]
            new = (op, trees[0], (op, *trees[1:], trees[0]))
        case ("+" | "*" as op, a, b):
            new = (op, rewritten(b, dice), rewritten(a, dice))
        case (op, *trees):
            new = (op, *(rewritten(one, dice) for one in trees))
    if new[0] in ("and", "or", "not") and dice.random() < 0.3:
        new = ("not", ("not", new))
    return new


@given(CONDITIONS, DICE)
def test_the_same_in_other_words_is_the_same(tree, dice):
    other = rewritten(tree, dice)
    assume(size_of(other) <= MAX_NODES)
    one, two = Where.parse(write(tree, dice)), Where.parse(write(other, dice))
    assert (one, hash(one), one.canonical) == (two, hash(two), two.canonical)
