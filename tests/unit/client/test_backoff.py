"""Pauses grow, with full jitter."""

import random

import pytest

from marketfeed.client.backoff import Backoff


def test_a_pause_lies_anywhere_below_a_bound_that_doubles_up_to_the_most() -> None:
    samples: list[list[float]] = [[] for _ in range(12)]
    for seed in range(2000):
        backoff = Backoff(random.Random(seed), base=0.5, most=30.0)
        for pauses in samples:
            pauses.append(backoff.next())
    for attempt, pauses in enumerate(samples):
        bound = min(30.0, 0.5 * 2**attempt)
        assert 0 <= min(pauses) < 0.02 * bound
        assert 0.98 * bound < max(pauses) <= bound
        assert sum(pauses) / len(pauses) == pytest.approx(bound / 2, rel=0.05)


def test_pauses_are_those_of_the_generator_handed_in() -> None:
    a, b = (Backoff(random.Random(7)) for _ in range(2))
    assert [a.next() for _ in range(5)] == [b.next() for _ in range(5)]


def test_after_a_success_it_begins_anew() -> None:
    backoff = Backoff(random.Random(1), base=1.0, most=1e9)
    for _ in range(5000):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 1.0


@pytest.mark.parametrize(("base", "most"), [(0, 1), (2, 1), (-1, 1)])
def test_bounds_that_make_no_sense_are_refused(base: float, most: float) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(random.Random(), base, most)
