"""A ring that is full: 1,048,576 ticks of 1,000 symbols, every fifth a trade, in an hour."""

import numpy as np

from marketfeed.model import QUOTE, TRADE, TickStore, empty_ticks

TICKS, SYMBOLS = 1 << 20, 1_000
BEGIN, HOUR_NS = 1_700_006_400 * 10**9, 3_600 * 10**9


def full_ring() -> TickStore:
    """Lapped by a little, so that its oldest part is looked at too."""
    store = TickStore.create(TICKS)
    feed = store.directory.add_feed("sim")
    for n in range(SYMBOLS):
        store.directory.add(feed, f"SIM-{n:04d}")
    n = TICKS + TICKS // 64
    random = np.random.default_rng(1)
    batch = empty_ticks(n)
    batch["instrument"] = random.zipf(1.3, n) % SYMBOLS
    batch["ts_event"] = BEGIN + np.arange(n) * HOUR_NS // n
    batch["kind"] = np.where(random.random(n) < 0.2, TRADE, QUOTE)
    quotes = batch["kind"] == QUOTE
    price = np.round(100 + random.random(n), 2)
    batch["bid"], batch["ask"] = np.where(quotes, price, np.nan), np.where(quotes, price + 0.01, np.nan)
    batch["bid_size"], batch["ask_size"] = np.where(quotes, 100, np.nan), np.where(quotes, 200, np.nan)
    batch["price"], batch["size"] = np.where(quotes, np.nan, price), np.where(quotes, np.nan, 10)
    store.publish(batch)
    return store
