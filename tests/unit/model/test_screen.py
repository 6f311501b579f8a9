import math

import numpy as np
import pytest

from marketfeed.model import QUOTE, TRADE, empty_ticks
from marketfeed.model.screen import screen
from marketfeed.model.tick import Ticks

NOW = 1_700_000_000_000_000_000
DAY = 86_400_000_000_000
INSTRUMENTS = 4


def good_rows() -> Ticks:
    """A quote, a trade, a quote without an ask, a crossed quote, one without sizes, a price below zero."""
    ticks = empty_ticks(6)
    ticks["ts_event"] = [0, NOW, NOW + DAY, NOW, NOW, NOW]
    ticks["kind"] = [QUOTE, TRADE, QUOTE, QUOTE, QUOTE, TRADE]
    ticks["instrument"] = [0, 1, 2, 3, 3, 3]
    ticks["bid"] = [10, np.nan, 10, 11, 10, np.nan]
    ticks["ask"] = [11, np.nan, np.nan, 10, 10, np.nan]
    ticks["bid_size"] = [0, np.nan, 1, 1, np.nan, np.nan]
    ticks["ask_size"] = [1, np.nan, np.nan, 1, np.nan, np.nan]
    ticks["price"] = [np.nan, 10, np.nan, np.nan, np.nan, -37.63]
    ticks["size"] = [np.nan, 1, np.nan, np.nan, np.nan, np.nan]
    return ticks


def test_good_rows_pass_untouched() -> None:
    batch = good_rows()
    before = batch.tobytes()
    assert screen(batch, NOW, INSTRUMENTS) == (None, {})
    assert batch.tobytes() == before


def test_no_rows_pass() -> None:
    assert screen(empty_ticks(0), NOW, INSTRUMENTS) == (None, {})


BAD = [
    ("time before 1970", 0, {"ts_event": -1}),
    ("time beyond tomorrow", 0, {"ts_event": NOW + DAY + 1}),
    ("unknown instrument", 0, {"instrument": INSTRUMENTS}),
    ("unknown instrument", 0, {"instrument": 2**32 - 1}),
    ("unknown kind", 0, {"kind": 0}),
    # A bar: the service itself makes them, and no feed.
    ("unknown kind", 0, {"kind": 3}),
    ("unknown kind", 0, {"kind": 4}),
    ("no price", 0, {"bid": math.nan, "ask": math.nan}),
    ("no price", 1, {"price": math.nan}),
    ("infinite price", 0, {"bid": math.inf}),
    ("infinite price", 0, {"ask": -math.inf}),
    ("infinite price", 1, {"price": math.inf}),
    ("negative size", 0, {"bid_size": -1}),
    ("negative size", 0, {"ask_size": -0.5}),
    ("negative size", 1, {"size": -1}),
    ("infinite size", 0, {"bid_size": math.inf}),
    ("infinite size", 0, {"ask_size": math.inf}),
    ("infinite size", 1, {"size": math.inf}),
]


@pytest.mark.parametrize(("reason", "row", "change"), BAD)
def test_a_bad_row_is_refused_with_its_reason_and_the_others_pass(
    reason: str, row: int, change: dict[str, float]
) -> None:
    batch = good_rows()
    for column, value in change.items():
        batch[column][row] = value
    good, refused = screen(batch, NOW, INSTRUMENTS)
    assert refused == {reason: (1, row)}
    assert good is not None
    assert good.tolist() == [number != row for number in range(len(batch))]


def test_a_row_with_two_faults_counts_once() -> None:
    batch = good_rows()
    batch["ts_event"][0] = -5
    batch["bid"][0] = math.inf
    _, refused = screen(batch, NOW, INSTRUMENTS)
    assert refused == {"time before 1970": (1, 0)}


def test_each_reason_has_its_own_count_and_its_own_first_row() -> None:
    batch = np.concatenate((good_rows(), good_rows()))
    batch["bid_size"][[2, 3]] = -1
    batch["price"][[7, 11]] = math.nan
    batch["ts_event"][3] = -1
    good, refused = screen(batch, NOW, INSTRUMENTS)
    assert refused == {"time before 1970": (1, 3), "no price": (2, 7), "negative size": (1, 2)}
    assert good is not None
    assert np.flatnonzero(~good).tolist() == [2, 3, 7, 11]
