"""Which instruments symbols and globs mean."""

import fnmatch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.server.history.params import SymbolsQuery
from marketfeed.server.history.select import select, symbol_page
from marketfeed.server.history.steps import OutOfTime
from tests.unit.server.history.support import always, done, store_of

NAMES = st.lists(st.text("AB-1", min_size=1, max_size=4), max_size=12, unique=True)
PATTERNS = st.lists(st.text("AB-1*?", min_size=1, max_size=4), min_size=1, max_size=4)


@given(NAMES, NAMES, PATTERNS)
def test_selected_is_what_matches_in_that_feed(of_a, of_b, patterns):
    directory = store_of(a=of_a, b=of_b).directory
    selected = done(select(directory, 1, patterns, always))
    expected = [any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in of_b]
    assert selected.tolist() == [False] * len(of_a) + expected


def test_globs_for_which_there_is_no_time_are_given_up():
    directory = store_of(a=["A0", "A1"]).directory
    with pytest.raises(OutOfTime):
        done(select(directory, 0, ["A?"], lambda: False))
    assert np.array_equal(done(select(directory, 0, ["A1"], lambda: False)), [False, True])


@given(NAMES, NAMES, st.text("AB-1*?", min_size=1, max_size=3), st.integers(1, 5), st.sampled_from([None, "a", "b"]))
def test_pages_of_instruments_are_all_that_match_each_once(of_a, of_b, match, limit, feed):
    directory = store_of(a=of_a, b=of_b).directory
    query = SymbolsQuery(match, feed, limit, None)
    found, place = [], 0
    while place is not None:
        page = done(symbol_page(directory, query, place, always))
        assert len(page.ids) <= limit
        found += page.ids
        place = page.place
    every = [("a", name) for name in of_a] + [("b", name) for name in of_b]
    expected = [
        i for i, (of, name) in enumerate(every) if feed in (None, of) and fnmatch.fnmatchcase(name, match)
    ]  # fmt: skip
    assert found == expected


def test_a_glob_with_a_colon_names_the_feed_too():
    directory = store_of(a=["X1", "X2"], b=["X1"]).directory
    assert done(symbol_page(directory, SymbolsQuery("b:X*", None, 10, None), 0, always)).ids == [2]
    assert done(symbol_page(directory, SymbolsQuery("*:X1", None, 10, None), 0, always)).ids == [0, 2]


def test_instruments_that_come_later_are_on_a_later_page():
    store = store_of(a=["A0", "A1"])
    query = SymbolsQuery("*", None, 1, None)
    page = done(symbol_page(store.directory, query, 0, always))
    store.directory.add(0, "A2")
    assert done(symbol_page(store.directory, query._replace(limit=9), page.place, always)).ids == [1, 2]
