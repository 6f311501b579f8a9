import numpy as np

from marketfeed.model import TICK, empty_ticks
from marketfeed.model.tick import RAW


def test_a_tick_is_80_bytes_without_padding_and_every_number_is_aligned() -> None:
    assert TICK.itemsize == RAW.itemsize == 80
    assert sum(TICK[name].itemsize for name in TICK.names) == 80
    assert all(TICK.fields[name][1] % TICK[name].itemsize == 0 for name in TICK.names)


def test_the_layout_is_what_other_processes_and_languages_read() -> None:
    assert {name: (TICK[name].str, TICK.fields[name][1]) for name in TICK.names} == {
        "ts_event": ("<i8", 0),
        "ts_recv": ("<i8", 8),
        "venue_seq": ("<u8", 16),
        "instrument": ("<u4", 24),
        "feed": ("<u2", 28),
        "kind": ("|u1", 30),
        "flags": ("|u1", 31),
        "bid": ("<f8", 32),
        "bid_size": ("<f8", 40),
        "ask": ("<f8", 48),
        "ask_size": ("<f8", 56),
        "price": ("<f8", 64),
        "size": ("<f8", 72),
    }


def test_an_empty_tick_has_no_prices_and_no_sizes() -> None:
    ticks = empty_ticks(3)
    assert ticks.shape == (3,)
    for name in ("bid", "bid_size", "ask", "ask_size", "price", "size"):
        assert np.isnan(ticks[name]).all()
    for name in ("ts_event", "ts_recv", "venue_seq", "instrument", "feed", "kind", "flags"):
        assert not ticks[name].any()
