"""Which instruments a selection takes, held against a matcher that is written out."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from marketfeed.model import QUOTE, TRADE
from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.stream.subscription import Options, Rule, Selection, check_pattern, is_glob

FEEDS = ["sim", "s"]


def directory_of(*instruments: tuple[str, str]) -> InstrumentDirectory:
    """(feed, symbol) each; ids from 0 in this order. Both feeds are always there."""
    directory = InstrumentDirectory.on_heap(max(1, len(instruments)))
    for feed in FEEDS:
        directory.add_feed(feed)
    for feed, symbol in instruments:
        directory.add(directory.add_feed(feed), symbol)
    return directory


def taken(directory: InstrumentDirectory, *rules: Rule, feed: str | None = None, begin: int = 0) -> list[str]:
    """feed:SYMBOL of the quotes that these rules take."""
    found = Selection(feed, rules).resolve(directory, begin)
    assert len(found) == len(set(found))
    symbols, feed_of, feeds = directory.symbols(), directory.feed_of(), directory.feeds()
    return sorted(f"{feeds[feed_of[i]]}:{symbols[i]}" for kind, i in found if kind == QUOTE)


def take(pattern: str) -> Rule:
    return Rule(QUOTE, pattern, True)


def leave(pattern: str) -> Rule:
    return Rule(QUOTE, pattern, False)


def glob_matches(pattern: str, text: str) -> bool:
    """`*` any run, `?` any one, all else itself. The textbook table, filled row by row."""
    row = [True] + [False] * len(text)
    for letter in pattern:
        before, row = row, [row[0] and letter == "*"] + [False] * len(text)
        for n, c in enumerate(text, 1):
            row[n] = before[n] or row[n - 1] if letter == "*" else before[n - 1] and letter in ("?", c)
    return row[-1]


def naive(directory: InstrumentDirectory, feed: str | None, rules: frozenset[Rule], begin: int) -> set[tuple[int, int]]:
    """Every rule held against every instrument."""
    found = set()
    for i, (symbol, feed_id) in enumerate(zip(directory.symbols(), directory.feed_of(), strict=True)):
        name = directory.feeds()[feed_id]
        if i < begin or feed not in (None, name):
            continue
        for kind in (QUOTE, TRADE):
            ranked = []
            for rule in rules:
                if rule.kind != kind:
                    continue
                full = f"{name}:{symbol}"
                if not is_glob(rule.pattern):
                    if rule.pattern == full:
                        ranked.append(((0, 0, ""), rule.take))
                    elif rule.pattern == symbol:
                        ranked.append(((1, 0, ""), rule.take))
                elif glob_matches(rule.pattern, symbol) or (":" in rule.pattern and glob_matches(rule.pattern, full)):
                    letters = sum(c not in "*?" for c in rule.pattern)
                    ranked.append(((2, -letters, rule.pattern), rule.take))
            if ranked and min(ranked)[1]:
                found.add((kind, i))
    return found


NAMES = st.text("ABs:[]!-", min_size=1, max_size=4)
PATTERNS = st.text("ABs:[]!-*?", min_size=1, max_size=6) | st.sampled_from(["*", "s:*", "sim:*", "s:A", "sim:A", "*:A"])
RULES = st.dictionaries(st.tuples(st.sampled_from([QUOTE, TRADE]), PATTERNS), st.booleans(), max_size=6).map(
    lambda rules: frozenset(Rule(kind, pattern, take) for (kind, pattern), take in rules.items())
)


@given(
    st.lists(st.tuples(st.sampled_from(FEEDS), NAMES), max_size=8, unique=True),
    st.sampled_from([None, *FEEDS, "nowhere"]),
    RULES,
    st.integers(0, 9),
)
@example([("s", "A"), ("sim", "A")], None, frozenset({take("A"), leave("s:A")}), 0)
@example([("sim", "s:A"), ("s", "A")], None, frozenset({take("s:A")}), 0)
def test_a_selection_takes_what_a_loop_over_all_rules_and_instruments_takes(instruments, feed, rules, begin):
    directory = directory_of(*instruments)
    begin = min(begin, len(directory))
    selection = Selection(feed, rules)
    found = selection.resolve(directory, begin)
    assert len(found) == len(set(found))
    assert set(found) == naive(directory, feed, rules, begin)
    for kind in (QUOTE, TRADE):
        if selection.takes_all(kind):
            of_kind = {i for k, i in selection.resolve(directory) if k == kind}
            feeds = directory.feeds()
            assert of_kind == {i for i, f in enumerate(directory.feed_of()) if feed in (None, feeds[f])}
    if not found:
        return
    # Whoever it takes it can be asked for when that one is new: by a glob, or by one of the two names it goes by.
    for _, i in found:
        symbol, name = directory.symbols()[i], directory.feeds()[directory.feed_of()[i]]
        assert selection.has_globs() or {symbol, f"{name}:{symbol}"} & selection.names()


@given(RULES)
def test_selections_are_equal_when_their_rules_are_whatever_their_order(rules):
    forth, back = Selection("s", sorted(rules)), Selection("s", sorted(rules, reverse=True))
    assert forth == back
    assert hash(forth) == hash(back)
    assert forth != Selection(None, rules)
    assert forth != Selection("s", rules ^ {Rule(QUOTE, "other", True)})
    assert forth != rules


MARKET = [("sim", "AAPL"), ("sim", "BTC-USD"), ("sim", "BTC-EUR"), ("s", "AAPL"), ("s", "BTC-USD"), ("s", "BRK[A]")]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([take("AAPL")], ["s:AAPL", "sim:AAPL"]),
        ([take("sim:AAPL")], ["sim:AAPL"]),
        ([take("aapl")], []),
        ([take("BTC-*")], ["s:BTC-USD", "sim:BTC-EUR", "sim:BTC-USD"]),
        ([take("BTC-???")], ["s:BTC-USD", "sim:BTC-EUR", "sim:BTC-USD"]),
        ([take("BTC-??")], []),
        ([take("s:BTC-*")], ["s:BTC-USD"]),
        ([take("s*:AAPL")], ["s:AAPL", "sim:AAPL"]),
        ([take("s?m:*")], ["sim:AAPL", "sim:BTC-EUR", "sim:BTC-USD"]),
        ([take("s*AAPL")], []),  # without a colon it is held against the symbol alone
        ([take("BRK[A]")], ["s:BRK[A]"]),
        ([take("BRK[*")], ["s:BRK[A]"]),
        ([take("BRK[AB]*")], []),
        ([take("*[A]")], ["s:BRK[A]"]),
        ([take("*]")], ["s:BRK[A]"]),
        ([take("[!A]*")], []),
        ([take("*"), leave("AAPL")], ["s:BRK[A]", "s:BTC-USD", "sim:BTC-EUR", "sim:BTC-USD"]),
        ([leave("*"), take("AAPL")], ["s:AAPL", "sim:AAPL"]),
        ([take("AAPL"), leave("s:AAPL")], ["sim:AAPL"]),
        ([leave("AAPL"), take("s:AAPL")], ["s:AAPL"]),
        ([take("B*"), leave("BTC-*")], ["s:BRK[A]"]),
        ([leave("B*"), take("BTC-*")], ["s:BTC-USD", "sim:BTC-EUR", "sim:BTC-USD"]),
        ([leave("s:*"), take("*")], ["sim:AAPL", "sim:BTC-EUR", "sim:BTC-USD"]),
        ([], []),
    ],
)
def test_the_most_specific_rule_decides(rules, expected):
    assert taken(directory_of(*MARKET), *rules) == expected


def test_the_feed_of_a_selection_is_a_wall():
    directory = directory_of(*MARKET)
    assert taken(directory, take("*"), feed="s") == ["s:AAPL", "s:BRK[A]", "s:BTC-USD"]
    assert taken(directory, take("s:AAPL"), feed="s") == ["s:AAPL"]
    assert taken(directory, take("sim:AAPL"), take("sim:*"), feed="s") == []
    assert taken(directory, take("*"), feed="nowhere") == []


def test_a_symbol_with_a_colon_of_its_own_is_found_by_both_names():
    directory = directory_of(("sim", "FX:EUR"), ("s", "EUR"))
    assert taken(directory, take("FX:EUR")) == ["sim:FX:EUR"]
    assert taken(directory, take("sim:FX:EUR")) == ["sim:FX:EUR"]
    assert taken(directory, take("FX:*")) == ["sim:FX:EUR"]
    assert taken(directory, take("EUR")) == ["s:EUR"]


def test_only_instruments_from_the_beginning_asked_for_are_looked_at():
    directory = directory_of(*MARKET)
    assert taken(directory, take("*"), begin=4) == ["s:BRK[A]", "s:BTC-USD"]
    assert taken(directory, take("AAPL"), begin=1) == ["s:AAPL"]
    assert taken(directory, take("*"), begin=len(MARKET)) == []


def test_quotes_and_trades_are_selected_each_for_themselves():
    directory = directory_of(*MARKET)
    selection = Selection(None, [Rule(QUOTE, "AAPL", True), Rule(TRADE, "*", True), Rule(TRADE, "AAPL", False)])
    found = selection.resolve(directory)
    assert [i for kind, i in found if kind == QUOTE] == [0, 3]
    assert sorted(i for kind, i in found if kind == TRADE) == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([take("*")], True),
        ([take("*"), take("AAPL")], True),
        ([take("*"), leave("AAPL")], False),
        ([take("*"), leave("A*")], False),
        ([leave("*"), take("A*")], False),
        ([take("AAPL")], False),
        ([take("sim:*")], False),
        ([Rule(TRADE, "*", True)], False),
        ([], False),
    ],
)
def test_all_is_taken_only_by_a_star_from_which_nothing_is_taken_away(rules, expected):
    assert Selection(None, rules).takes_all(QUOTE) is expected


@pytest.mark.parametrize("pattern", ["AAPL", "*", "?", "feed:SYMBOL", "BRK[A]", "日経", "A" * 65, "é" * 32, "'\"<>&\\"])
def test_what_may_name_something_is_a_pattern(pattern):
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["", "A" * 66, "é" * 33, "A B", "A,B", "A\tB", "A\n", "\0", " ", "\u00a0", "\u200b", "\ud800", "\x7f"]
)
def test_what_cannot_name_anything_is_refused(pattern):
    with pytest.raises(ValueError, match="a symbol has"):
        check_pattern(pattern)


@given(st.text())
def test_every_text_is_a_pattern_or_a_value_error_and_a_pattern_can_be_held_against_anything(text):
    refused = None
    try:
        check_pattern(text)
    except ValueError as error:
        refused = str(error)
    if refused is None:
        Selection(None, [take(text)]).resolve(directory_of(*MARKET))
    else:
        # It goes back to the client: whatever the text was, it can be written, and is not long.
        assert len(refused.encode()) < 1000


def test_globs_that_invite_backtracking_take_no_longer_than_others():
    """Of any length that a client may send, against the longest names: a matcher that tries every split takes years."""
    directory = directory_of(("sim", "a" * 32), ("sim", "a" * 31 + "b"), ("s", "ab" * 16))
    for pattern in ("*a" * 5 + "*b", "*a" * 31 + "*b", "*?" * 31 + "*c", "a*" * 32 + "c", "?*" * 32 + "c", "*" * 64):
        expected = [(QUOTE, i) for i, symbol in enumerate(directory.symbols()) if glob_matches(pattern, symbol)]
        assert Selection(None, [take(pattern)]).resolve(directory) == expected


def test_options_are_told_as_they_were_given():
    assert Options().as_message() == {}
    assert Options(max_hz=0.5).as_message() == {"max_hz": 0.5}
