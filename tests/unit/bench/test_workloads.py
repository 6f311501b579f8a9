"""What is asked of every program is the same, and is what it says."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bench.load.programs import typical
from bench.load.ticks import Market, play
from bench.load.workloads import WORKLOADS, Workload
from bench.peers.common import Audience, Config


def test_each_workload_has_the_subscribers_it_names() -> None:
    for workload in WORKLOADS.values():
        subscriptions = list(workload.subscriptions())
        assert len(subscriptions) == workload.subscribers
        for wanted in subscriptions:
            if workload.each is None:
                assert wanted is None
            else:
                assert wanted is not None
                assert len(set(wanted)) == workload.each
                assert all(0 <= symbol < workload.symbols for symbol in wanted)


def test_random_choices_are_the_same_at_every_call_and_differ_between_subscribers() -> None:
    first, second = (list(WORKLOADS["C"].subscriptions()) for _ in range(2))
    assert first == second
    assert len({tuple(wanted or ()) for wanted in first}) == len(first)


@pytest.fixture(scope="module")
def market() -> Market:
    return play(Workload("small", subscribers=3, symbols=20, each=5, rate=1_000))


def test_the_market_is_the_feed_at_its_rate_in_order_of_time(market: Market) -> None:
    seconds = market.period_ns / 1e9
    assert len(market.rows) == pytest.approx(1_000 * seconds, rel=0.01)
    assert np.all(np.diff(market.rows[:, 0]) >= 0)
    assert 0 <= market.rows[0, 0] <= market.rows[-1, 0] < market.period_ns
    assert set(market.rows[:, 2].astype(int).tolist()) <= {1, 2}
    assert np.isfinite(market.rows).all()
    assert len(market.symbols) == 20


def test_the_file_of_a_market_is_its_rows(market: Market, tmp_path: Path) -> None:
    market.write(tmp_path / "ticks")
    assert np.array_equal(np.fromfile(tmp_path / "ticks", "<f8").reshape(-1, 7), market.rows)


def test_what_is_offered_is_what_a_plain_loop_counts(market: Market) -> None:
    workload = Workload("small", subscribers=3, symbols=20, each=5, rate=1_000)
    wanted = [set(one or ()) for one in workload.subscriptions()]
    symbols = market.rows[:, 1].astype(int).tolist()
    total = sum(symbol in one for one in wanted for symbol in symbols)
    assert market.offered(workload) == pytest.approx(total / (market.period_ns / 1e9))


def test_what_is_offered_at_most_so_often_is_each_symbols_latest_once_an_interval(market: Market) -> None:
    workload = Workload("small", subscribers=3, symbols=20, each=5, rate=1_000, max_hz=10)
    total = 0
    for one in workload.subscriptions():
        seen = {
            (offset // 100_000_000, symbol, kind)
            for offset, symbol, kind in market.rows[:, :3].tolist()
            if symbol in (one or ())
        }
        total += len(seen)
    assert market.offered(workload) == pytest.approx(total / (market.period_ns / 1e9))


def test_the_floors_update_is_of_the_mean_length(market: Market) -> None:
    text = typical(market)
    assert json.loads(text)["T"] in ("q", "t")
    assert 80 < len(text) < 140


def config(batch: bool, conflate: bool = False) -> Config:
    return Config(
        json.dumps(
            {
                "port": 0,
                "ticks": "",
                "period_ns": 1,
                "symbols": ["A", "B", "C"],
                "interval_ms": 5,
                "conflate": conflate,
                "batch": batch,
            }
        )
    )


def audience(batch: bool, conflate: bool = False) -> Audience:
    found = Audience(config(batch, conflate))
    for member, names in (("all", ["*"]), ("ab", ["A", "B"]), ("also ab", ["A", "B"]), ("c", ["C"])):
        found.subscribe(member, json.dumps({"action": "subscribe", "quotes": names, "trades": names}))
    return found


def received(found: Audience, ticks: list[tuple[int, int, bytes]]) -> dict[str, list[int]]:
    got: dict[str, list[int]] = {"all": [], "ab": [], "also ab": [], "c": []}
    for payload, members in found.payloads(ticks):
        for member in members:
            got[member] += json.loads(payload)
    return got


TICKS = [(0, 1, b"1"), (2, 1, b"2"), (1, 2, b"3"), (0, 1, b"4"), (0, 2, b"5")]


@pytest.mark.parametrize("batch", [False, True])
def test_a_peer_sends_each_subscriber_its_ticks_in_order_however_it_packs_them(batch: bool) -> None:
    found = audience(batch)
    for _ in range(2):
        assert received(found, TICKS) == {"all": [1, 2, 3, 4, 5], "ab": [1, 3, 4, 5], "also ab": [1, 3, 4, 5], "c": [2]}


def test_a_batching_peer_builds_one_payload_for_all_that_want_the_same() -> None:
    assert len(audience(batch=True).payloads(TICKS)) == 3
    assert len(audience(batch=False).payloads(TICKS)) == len(TICKS)


@pytest.mark.parametrize("batch", [False, True])
def test_a_conflating_peer_sends_the_latest_of_each_symbol_in_order_of_time(batch: bool) -> None:
    got = received(audience(batch, conflate=True), TICKS)
    assert got == {"all": [2, 3, 4, 5], "ab": [3, 4, 5], "also ab": [3, 4, 5], "c": [2]}
    assert all(a < b for one in got.values() for a, b in pairwise(one))


def test_who_has_left_gets_nothing_more() -> None:
    found = audience(batch=True)
    found.leave("ab")
    assert received(found, TICKS)["ab"] == []
    assert received(found, TICKS)["also ab"] == [1, 3, 4, 5]
