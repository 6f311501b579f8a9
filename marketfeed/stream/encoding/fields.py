"""Which keys of a tick or a bar a subscriber may choose between, and the columns they come from."""

from collections.abc import Sequence

#: Key on the wire -> column, in the order in which they are written.
QUOTE_FIELDS = {"bp": "bid", "bs": "bid_size", "ap": "ask", "as": "ask_size"}
TRADE_FIELDS = {"p": "price", "s": "size"}
BAR_FIELDS = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "n": "count", "vw": "vwap"}

#: The keys that `fields` may name, of ticks and in all; `t` is in each.
TICK_FIELDS = (*QUOTE_FIELDS, *TRADE_FIELDS, "t")
FIELDS = (*TICK_FIELDS, *BAR_FIELDS)
#: What a message is, and of what: always sent (`f` only where the feed is told at all), whether `fields` names it or
#: not. So are a bar's `sec` and `from`, where it has them.
ALWAYS = ("T", "S", "seq", "f")


def check_fields(names: Sequence[str]) -> frozenset[str]:
    """The keys that are sent besides :data:`ALWAYS`; of no names, none.

    Raises:
        ValueError: one of the names is not a key of any tick or bar.
    """
    for name in names:
        if name not in FIELDS and name not in ALWAYS:
            raise ValueError(f"unknown field {name[:32]!r}: there are {', '.join(FIELDS)}; always {', '.join(ALWAYS)}")
    return frozenset(names) - frozenset(ALWAYS)
