"""Which rows may be published: a wrong price is worse than none."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.tick import QUOTE, TRADE, Ticks

_DAY_NS = 86_400_000_000_000


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
    kind that is neither quote nor trade, a price that is missing (both sides of a quote, the price of a trade) or
    infinite, a size that is negative or infinite.
    """
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
