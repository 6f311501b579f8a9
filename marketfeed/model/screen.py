"""Which rows may be published: a wrong price is worse than none."""

from math import inf, isnan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.tick import QUOTE, TRADE, Ticks, rows_of

_DAY_NS = 86_400_000_000_000
_FEW = 64

least, most = np.minimum.reduce, np.maximum.reduce


class Refused(NamedTuple):
    """The rows of a batch that were refused for one reason."""

    #: how many
    rows: int
    #: index of the first of them
    first: int


def screen(batch: Ticks, now_ns: int, instruments: int) -> tuple[NDArray[np.bool_] | None, dict[str, Refused]]:
    """Look at a batch, shape (n,), TICK, at this time, when the directory has so many instruments.

    Returns which rows are good, shape (n,), None = all are; and what was refused, by reason. A row is refused for the
    first of these that holds: a time before 1970 or beyond tomorrow, an instrument that the directory does not have, a
    kind that is neither quote nor trade (bars are made here: no feed gives one), a price that is missing (both sides
    of a quote, the price of a trade) or infinite, a size that is negative or infinite.
    """
    if _all_good(batch, now_ns, instruments):
        return None, {}
    kind = batch["kind"]
    quotes = kind == QUOTE
    bid, ask, price = batch["bid"], batch["ask"], batch["price"]
    ts = batch["ts_event"]
    checks = {
        "time before 1970": ts < 0,
        "time beyond tomorrow": ts > now_ns + _DAY_NS,
        "unknown instrument": batch["instrument"] >= instruments,
        "unknown kind": ~quotes & (kind != TRADE),
        "no price": np.where(quotes, np.isnan(bid) & np.isnan(ask), np.isnan(price)),
        "infinite price": np.isinf(bid) | np.isinf(ask) | np.isinf(price),
        "negative size": (batch["bid_size"] < 0) | (batch["ask_size"] < 0) | (batch["size"] < 0),
        "infinite size": np.isinf(batch["bid_size"]) | np.isinf(batch["ask_size"]) | np.isinf(batch["size"]),
    }
    refused: dict[str, Refused] = {}
    good: NDArray[np.bool_] | None = None
    for reason, bad in checks.items():
        if not bad.any():
            continue
        good = np.ones(len(batch), np.bool_) if good is None else good
        bad = bad & good
        count = int(np.count_nonzero(bad))
        if count:
            refused[reason] = Refused(count, int(np.argmax(bad)))
            good &= ~bad
    return good, refused


def _all_good(batch: Ticks, now_ns: int, instruments: int) -> bool:
    """Whether no row can be refused; the usual case, in a fifth of the time."""
    # A few rows are looked at one by one: a dozen calls into numpy would take longer than they do.
    if len(batch) <= _FEW:
        latest = now_ns + _DAY_NS
        for ts, _, _, instrument, _, kind, _, bid, bid_size, ask, ask_size, price, size in rows_of(batch):
            if not (0 <= ts <= latest and instrument < instruments):
                return False
            priced = bid == bid or ask == ask if kind == QUOTE else kind == TRADE and price == price
            if not priced or inf in (abs(bid), abs(ask), abs(price), bid_size, ask_size, size):
                return False
            if bid_size < 0 or ask_size < 0 or size < 0:
                return False
        return True
    kind, ts = batch["kind"], batch["ts_event"]
    if not (least(ts) >= 0 and most(ts) <= now_ns + _DAY_NS and most(batch["instrument"]) < instruments):
        return False
    if least(kind) < QUOTE or most(kind) > TRADE:
        return False
    # Seen as ten f8 a row, the last six are bid, bid_size, ask, ask_size, price, size. fmin and fmax pass over NaN.
    numbers = np.ascontiguousarray(batch).view(np.float64).reshape(len(batch), -1)[:, 4:]
    smallest, largest = np.fmin.reduce(numbers).tolist(), np.fmax.reduce(numbers).tolist()
    if inf in largest or -inf in smallest or any(size < 0 for size in smallest[1::2]):
        return False
    # Nothing is infinite: the sum is NaN just where one of them is.
    prices = np.where(kind == QUOTE, np.fmax(numbers[:, 0], numbers[:, 2]), numbers[:, 4])
    return not isnan(np.add.reduce(prices))
