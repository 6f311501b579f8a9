"""Bars as messages, for the encodings: they are few, and need no templates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.bars import BAR_RECORD, DEFAULT_SECONDS, FROM_QUOTES
from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import UPDATED_BAR, Ticks
from marketfeed.stream.encoding.fields import BAR_FIELDS


def bar_messages(
    rows: Ticks,
    seqs: NDArray[np.uint64],
    directory: InstrumentDirectory,
    with_feed: bool,
    fields: frozenset[str] | None,
) -> list[dict[str, Any]]:
    """Each bar as a message, in which `t` is in ns since the Unix epoch. What is not there is 0, as Alpaca writes it.

    Args:
        rows: shape (n,), TICK: bars as they lie in the ring.
        seqs: shape (n,).
        fields: only these of the keys that may be left out; None = all.
    """
    bars = rows.view(BAR_RECORD)
    symbols, feed_of, feeds = directory.symbols(), directory.feed_of(), directory.feeds()
    columns = {key: column for key, column in BAR_FIELDS.items() if fields is None or key in fields}
    values = [np.nan_to_num(bars[column]).tolist() for column in columns.values()]
    with_time = fields is None or "t" in fields
    messages: list[dict[str, Any]] = []
    rest = zip(
        bars["instrument"].tolist(),
        bars["kind"].tolist(),
        bars["flags"].tolist(),
        bars["seconds"].tolist(),
        bars["ts_event"].tolist(),
        seqs.tolist(),
        strict=True,
    )
    for n, (instrument, kind, flags, seconds, time, seq) in enumerate(rest):
        message = {"T": "u" if kind == UPDATED_BAR else "b", "S": symbols[instrument]}
        for key, column in zip(columns, values, strict=True):
            message[key] = column[n]
        if with_time:
            message["t"] = time
        message["seq"] = seq
        if seconds != DEFAULT_SECONDS:
            message["sec"] = seconds
        if flags & FROM_QUOTES:
            message["from"] = "quotes"
        if with_feed:
            message["f"] = feeds[feed_of[instrument]]
        messages.append(message)
    return messages
