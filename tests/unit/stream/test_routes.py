"""The inverted index says what a dict of sets says, whatever was added and taken away before."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from marketfeed.stream.routes import Routes

CELLS = st.integers(0, 12)
STEPS = st.lists(
    st.tuples(st.just("add"), st.lists(CELLS, max_size=40, unique=True))
    | st.tuples(st.just("more"), st.lists(CELLS, max_size=4, unique=True))
    | st.tuples(st.just("retire"), st.integers(0, 100))
    | st.tuples(st.just("ask"), st.lists(CELLS, max_size=8)),
    max_size=40,
)


@given(STEPS)
def test_each_cell_leads_to_those_who_want_it(steps):
    routes = Routes()
    wanted: dict[int, set[int]] = {}
    for step, argument in steps:
        if step == "add":
            slot = routes.new()
            assert slot not in wanted, "a slot that somebody has"
            wanted[slot] = set(argument)
            routes.add(slot, argument)
        elif step == "more" and wanted:
            slot = max(wanted)
            new = [cell for cell in argument if cell not in wanted[slot]]
            wanted[slot] |= set(new)
            routes.add(slot, new)
        elif step == "retire" and wanted:
            slot = sorted(wanted)[argument % len(wanted)]
            del wanted[slot]
            routes.retire(slot)
        elif step == "ask":
            places, slots = routes.wanting(np.array(argument, np.int64))
            found = sorted(pair for pair in zip(places.tolist(), slots.tolist(), strict=True) if pair[1] in wanted)
            assert found == sorted(
                (n, slot) for n, cell in enumerate(argument) for slot, cells in wanted.items() if cell in cells
            )


def test_slots_are_dense_and_used_again():
    routes = Routes()
    for _ in range(1000):
        slot = routes.new()
        routes.add(slot, [1, 2, 3])
        routes.retire(slot)
        routes.wanting(np.array([1]))
    assert routes.new() < 50


def test_what_was_taken_away_does_not_pile_up():
    routes = Routes()
    kept = routes.new()
    routes.add(kept, [7])
    for n in range(2000):
        slot = routes.new()
        routes.add(slot, [n % 5])
        routes.retire(slot)
        places, _ = routes.wanting(np.array([0, 1, 2, 3, 4]))
        assert len(places) < 200
    assert routes.wanting(np.array([7]))[1].tolist() == [kept]
