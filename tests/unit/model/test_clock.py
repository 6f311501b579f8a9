import time

import pytest

from marketfeed.model import Clock, ManualClock, SystemClock


def test_a_manual_clock_stands_until_it_is_told_to_go_on() -> None:
    clock: Clock = ManualClock(now_ns=5, monotonic=2.0)
    assert (clock.now_ns(), clock.monotonic()) == (5, 2.0)
    assert (clock.now_ns(), clock.monotonic()) == (5, 2.0)


def test_a_manual_clock_moves_both_its_clocks_by_the_same_time() -> None:
    clock = ManualClock(now_ns=1_700_000_000_000_000_000, monotonic=10.0)
    clock.advance(0.000_000_001)
    assert clock.now_ns() == 1_700_000_000_000_000_001
    clock.advance(2.5)
    assert clock.now_ns() == 1_700_000_002_500_000_001
    assert clock.monotonic() == pytest.approx(12.500_000_001, abs=1e-12)


def test_a_manual_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="does not go back"):
        ManualClock().advance(-1.0)


def test_the_system_clock_is_the_machines_own() -> None:
    clock: Clock = SystemClock()
    before, after = time.time_ns(), clock.now_ns()
    assert before <= after <= time.time_ns()
    before_s, after_s = time.monotonic(), clock.monotonic()
    assert before_s <= after_s <= time.monotonic()
