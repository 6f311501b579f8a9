"""The language of ``where``: which rows of TICK a subscriber wants, as a condition over their columns.

::

    bid_size >= 100 and (spread_bps < 5 or not 10 <= mid <= 20)

- Columns: ``bid ask bid_size ask_size price size`` as they are in TICK, and ``mid = (bid + ask) / 2``,
  ``spread = ask - bid``, ``spread_bps = 10_000 * spread / mid``. Numbers are written as ``1``, ``0.5`` or ``2e3``.
- Operators, with the precedence they have in Python: ``or``, ``and``, ``not``, ``< <= > >= == !=`` (also in a chain:
  ``1 < bid < 2``), ``+ -``, ``* /``, a sign, ``abs(...)``.

A number may be missing: a side that a quote does not have, a size that the venue does not tell, the price of a quote,
the bid of a trade. Whatever is computed from a missing number is missing too, and so is a division by zero. **A
comparison with a missing number is false**, also ``!=``. From there on there is only true and false: ``not`` turns the
one into the other. So ``size < 100`` keeps no quote, and ``not size < 100`` keeps every quote and the trades of 100 and
more. Numbers are f8: what is too large for one is infinite, and compares so.

The text is parsed by :mod:`ast` and never compiled or evaluated: the tree is turned into numpy calls node by node, by a
list of the nodes that may be in it. Text, nodes and depth are bounded before.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.tick import Ticks

#: Columns, numbers and operators that a condition may have; a chain counts as the comparisons it stands for.
MAX_NODES = 64
#: Its longest text, in characters. The canonical text of so many nodes is shorter.
MAX_CHARS = 1024
#: As deep as its parentheses may be; no canonical text is deeper.
_MAX_DEPTH = MAX_NODES
_TOO_MANY = f"more than {MAX_NODES} columns, numbers and operators"
#: So many conditions stay parsed.
_KEPT = 256
#: So many characters before and behind an error are shown.
_SHOWN = 24


class WhereError(ValueError):
    """A text that is not a condition.

    Attributes:
        position: which character of the text is wrong, from 0; its length: something is missing at its end.
    """

    def __init__(self, problem: str, text: str, position: int) -> None:
        before, after = text[max(0, position - _SHOWN) : position], text[position : position + _SHOWN]
        # repr: whatever a client writes stays one printable line.
        super().__init__(f"where: {problem} at character {position}: {repr(before)[1:-1]}→{repr(after)[1:-1]}")
        self.position = position


class _Columns(dict[str, NDArray[np.float64]]):
    """The columns of some ticks, each made when it is first asked for."""

    def __init__(self, ticks: Ticks) -> None:
        super().__init__()
        self._ticks = ticks

    def __missing__(self, name: str) -> NDArray[np.float64]:
        derive = _DERIVED.get(name)
        column: NDArray[np.float64] = self._ticks[name] if derive is None else derive(self)
        self[name] = column
        return column


#: Gives a value for each tick, shape (n,), or one for all: f8 or bool.
_Value = Callable[[_Columns], Any]


def _divide(a: Any, b: Any) -> Any:
    return np.divide(a, np.where(b == 0, np.nan, b))


def _differ(a: Any, b: Any) -> Any:
    # Not `a != b`: that is true where one is NaN.
    return (a < b) | (a > b)


_DERIVED: dict[str, _Value] = {
    "mid": lambda columns: (columns["bid"] + columns["ask"]) / 2,
    "spread": lambda columns: columns["ask"] - columns["bid"],
    "spread_bps": lambda columns: _divide(10_000 * columns["spread"], columns["mid"]),
}
#: What a condition may speak of.
COLUMNS = ("bid", "ask", "bid_size", "ask_size", "price", "size", *_DERIVED)

# How tightly the parts of a condition bind, as in Python. Up to _COMPARISON they are true or false, beyond numbers.
_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _SIGN, _ATOM = range(8)

#: sign, how tightly it binds, whether its sides may change places, what it does
_ARITHMETIC: dict[type[ast.operator], tuple[str, int, bool, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", _SUM, True, operator.add),
    ast.Sub: ("-", _SUM, False, operator.sub),
    ast.Mult: ("*", _PRODUCT, True, operator.mul),
    ast.Div: ("/", _PRODUCT, False, _divide),
}
#: sign, whether its sides may change places, what it does
_COMPARISONS: dict[type[ast.cmpop], tuple[str, bool, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("<", False, operator.lt),
    ast.LtE: ("<=", False, operator.le),
    ast.Eq: ("==", True, operator.eq),
    ast.NotEq: ("!=", True, _differ),
}
#: These are written the other way round.
_MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Gt: ast.Lt, ast.GtE: ast.LtE}


class _Part(NamedTuple):
    """A condition, or a number in one, with all that it consists of."""

    #: canonical
    text: str
    #: how tightly it binds
    rank: int
    nodes: int
    value: _Value
    #: of `and`, `or`, `not` and a sign: what it is made of
    operands: tuple[_Part, ...] = ()

    def within(self, rank: int) -> str:
        """Its text as an operand of something that binds so tightly."""
        return f"({self.text})" if self.rank < rank else self.text


class Where:
    """A condition that can be asked which ticks it holds for. Equal conditions, however they are written, are equal:
    blanks, parentheses, the spelling of numbers, the direction of comparisons and the order of operands do not matter.

    Make one with :meth:`parse`.

    Attributes:
        canonical: the condition as text, the same for all that are equal; it parses to an equal one.
    """

    __slots__ = ("_value", "canonical")

    def __init__(self, canonical: str, value: _Value) -> None:
        self.canonical = canonical
        self._value = value

    @staticmethod
    def parse(text: str) -> Where:
        """Read a condition.

        Raises:
            WhereError: it is none, or too long; says what is wrong and at which character.
        """
        return _parse(text)

    def holds(self, ticks: Ticks) -> NDArray[np.bool_]:
        """For which of these ticks, shape (n,), TICK, it is true: shape (n,)."""
        with np.errstate(all="ignore"):
            value = self._value(_Columns(ticks))
        return value if isinstance(value, np.ndarray) else np.full(len(ticks), value, np.bool_)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Where) and self.canonical == other.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)

    def __repr__(self) -> str:
        return f"Where({self.canonical!r})"


@lru_cache(maxsize=_KEPT)
def _parse(text: str) -> Where:
    _check_words(text)
    body = text.lstrip(" \t\r\n")
    parts = _Parts(text, len(text) - len(body))
    try:
        # What is a blank to this language must not be a new line to Python's.
        tree = ast.parse(body.translate({ord(c): " " for c in "\t\r\n"}), mode="eval")
    except SyntaxError as error:
        raise parts.error("invalid syntax", max(0, (error.offset or 0) - 1)) from None
    except (RecursionError, MemoryError):  # the depth that a parser can go to is its own affair
        raise WhereError("too deep", text, 0) from None
    whole = parts.condition(tree.body)
    if whole.nodes > MAX_NODES:
        raise WhereError(_TOO_MANY, text, 0)
    return Where(whole.text, whole.value)


# ---- the words --------------------------------------------------------------------------------------------------

_WORD = re.compile(
    r"""(?P<blank>[ \t\r\n]+)
    | (?P<number>[0-9.](?:[eE][+-]|[\w.])*)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<sign><=|>=|==|!=|[-+*/<>()])
    | (?P<other>.)""",
    re.ASCII | re.DOTALL | re.VERBOSE,
)
_NUMBER = re.compile(r"(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
#: These stand between values, before a value, and either way.
_INFIX = {"and", "or", "<", "<=", ">", ">=", "==", "!=", "*", "/"}
_PREFIX = {"not", "abs", "("}
_EITHER = {"+", "-"}


def _check_words(text: str) -> None:
    """See that a condition may consist of these words, that they are not too many, and that values and operators take
    turns: what is left to be seen after this is in the tree."""
    if len(text) > MAX_CHARS:
        raise WhereError(f"more than {MAX_CHARS} characters", text, MAX_CHARS)
    nodes = 0
    opened: list[int] = []
    after_value = False
    for match in _WORD.finditer(text):
        word, position = match.group(), match.start()
        if match.lastgroup == "blank":
            continue
        if match.lastgroup == "other":
            raise WhereError(f"unexpected {word!r}", text, position)
        if match.lastgroup == "number":
            if not _NUMBER.fullmatch(word):
                raise WhereError(f"not a number: {word[:32]!r}", text, position)
            if not math.isfinite(float(word)):
                raise WhereError("too large a number", text, position)
        if match.lastgroup == "name" and word not in _INFIX | _PREFIX and word not in COLUMNS:
            raise WhereError(f"unknown column {word[:32]!r}", text, position)
        if word == ")" and not opened:
            raise WhereError("')' without '('", text, position)
        if after_value and word not in _INFIX | _EITHER | {")"}:
            raise WhereError("expected an operator", text, position)
        if not after_value and (word in _INFIX or word == ")"):
            raise WhereError("expected a column or a number", text, position)
        if word == "(":
            opened.append(position)
        elif word == ")":
            opened.pop()
        else:
            nodes += 1
        if nodes > MAX_NODES:
            raise WhereError(_TOO_MANY, text, position)
        if len(opened) > _MAX_DEPTH:
            raise WhereError("too deep", text, position)
        after_value = word not in _INFIX | _PREFIX | _EITHER
    if not after_value:
        raise WhereError("expected a column or a number", text, len(text))
    if opened:
        raise WhereError("'(' is never closed", text, opened[-1])


# ---- the tree ---------------------------------------------------------------------------------------------------


class _Parts:
    """Turns syntax tree nodes into parts; what is not named here cannot be in a condition.

    Args:
        text: the whole text.
        begin: which of its characters the parsed one begins with.
    """

    def __init__(self, text: str, begin: int) -> None:
        self._text = text
        self._begin = begin

    def error(self, problem: str, offset: int) -> WhereError:
        """Something is wrong at this character of the parsed text."""
        return WhereError(problem, self._text, min(self._begin + offset, len(self._text)))

    def condition(self, node: ast.expr) -> _Part:
        """What is true or false."""
        part = self._part(node)
        if part.rank > _COMPARISON:
            raise self.error("expected a condition, not a number,", node.col_offset)
        return part

    def _number(self, node: ast.expr) -> _Part:
        part = self._part(node)
        if part.rank <= _COMPARISON:
            raise self.error("expected a number, not a condition,", node.col_offset)
        return part

    def _part(self, node: ast.expr) -> _Part:
        match node:
            case ast.Name(id=name) if name in COLUMNS:
                return _Part(name, _ATOM, 1, operator.itemgetter(name))
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return _constant(float(value))
            case ast.Call(func=ast.Name(id="abs"), args=[argument], keywords=[]):
                return _abs(self._number(argument))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._number(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _negative(self._number(operand))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _not(self.condition(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _arithmetic(type(op), self._number(left), self._number(right))
            case ast.BoolOp(op=op, values=values):
                return _joined(_AND if isinstance(op, ast.And) else _OR, [self.condition(value) for value in values])
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [self._number(side) for side in (left, *others)]
                if all(type(op) in _COMPARISONS or type(op) in _MIRRORED for op in ops):
                    pairs = zip(ops, pairwise(sides), strict=True)
                    return _joined(_AND, [_comparison(type(op), a, b) for op, (a, b) in pairs])
        raise self.error("not part of a condition", node.col_offset)


def _constant(number: float) -> _Part:
    text = str(int(number)) if number.is_integer() and number < 1e16 else repr(number)
    return _Part(text, _ATOM, 1, lambda _: number)


def _abs(part: _Part) -> _Part:
    value = part.value
    return _Part(f"abs({part.text})", _ATOM, part.nodes + 1, lambda columns: abs(value(columns)))


def _negative(part: _Part) -> _Part:
    if part.text == "0":  # there is one zero: -0.0 equals it
        return part
    if part.rank == _SIGN:
        return part.operands[0]
    value = part.value
    return _Part(f"-{part.within(_SIGN)}", _SIGN, part.nodes + 1, lambda columns: -value(columns), (part,))


def _not(part: _Part) -> _Part:
    if part.rank == _NOT:
        return part.operands[0]
    value = part.value
    text = f"not {part.within(_NOT)}"
    return _Part(text, _NOT, part.nodes + 1, lambda columns: np.logical_not(value(columns)), (part,))


def _arithmetic(op: type[ast.operator], a: _Part, b: _Part) -> _Part:
    sign, rank, either_way, do = _ARITHMETIC[op]
    if either_way and b.text < a.text:
        a, b = b, a
    left, right = a.value, b.value
    text = f"{a.within(rank)} {sign} {b.within(rank + 1)}"
    return _Part(text, rank, a.nodes + b.nodes + 1, lambda columns: do(left(columns), right(columns)))


def _comparison(op: type[ast.cmpop], a: _Part, b: _Part) -> _Part:
    if op in _MIRRORED:
        op, a, b = _MIRRORED[op], b, a
    sign, either_way, do = _COMPARISONS[op]
    if either_way and b.text < a.text:
        a, b = b, a
    left, right = a.value, b.value
    text = f"{a.text} {sign} {b.text}"
    return _Part(text, _COMPARISON, a.nodes + b.nodes + 1, lambda columns: do(left(columns), right(columns)))


def _joined(rank: int, parts: list[_Part]) -> _Part:
    """All of them, or any of them: in one order, without repetitions."""
    flat = [operand for part in parts for operand in (part.operands if part.rank == rank else (part,))]
    operands = tuple(part for _, part in sorted({part.text: part for part in flat}.items()))
    if len(operands) == 1:
        return operands[0]
    join = operator.and_ if rank == _AND else operator.or_
    first, *others = (part.value for part in operands)

    def value(columns: _Columns) -> Any:
        result = first(columns)
        for other in others:
            result = join(result, other(columns))
        return result

    text = (" and " if rank == _AND else " or ").join(part.within(rank) for part in operands)
    return _Part(text, rank, sum(part.nodes for part in operands) + len(others), value, operands)
