"""The clients of bench.transports: what they count, and that each of them is served."""

from __future__ import annotations

import asyncio
import dataclasses

import hypothesis.strategies as st
import pytest
from hypothesis import given

from bench.load.receivers import RECEIVERS, Answers, Flow, Meter, Order, measure
from tests.integration.processes import BOUND, process

UPDATE = b'{"T":"q","t":"2026-01-01T00:00:00.000000001Z"},'


@given(st.integers(0, 5), st.lists(st.integers(0, 300), max_size=8))
def test_updates_are_counted_once_however_the_bytes_come(n: int, cuts: list[int]) -> None:
    data, meter = b"[" + UPDATE * n + b"]", Meter()
    flow, begin = Flow(meter), 0
    for cut in [*sorted(cuts), len(data)]:
        flow.take(data[begin:cut])
        begin = max(begin, cut)
    assert (meter.updates, meter.bytes) == (n, len(data))


@given(st.lists(st.integers(0, 200), max_size=6))
def test_the_next_answer_is_asked_for_when_one_is_whole(cuts: list[int]) -> None:
    body = b'{"cursor":7,"messages":[1,2,3]}'
    data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX: y\r\n\r\n%b" % (len(body), body)
    answers, begin, asked = Answers("/poll/x"), 0, []
    for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        if cut > begin:
            asked.append((cut, answers.fed(data[begin:cut])))
            begin = cut
    assert [request for cut, request in asked if cut < len(data)] == [b""] * (len(asked) - 1)
    assert asked[-1][1].startswith(b"GET /poll/x?cursor=7 HTTP/1.1\r\n")


@pytest.mark.parametrize("transport", RECEIVERS)
def test_a_transport_is_measured(transport: str) -> None:
    with process("marketfeed", "serve", "--port", "0", "--feed", "sim?symbols=10&rate=500") as running:
        assert running.stdout is not None
        port = int(running.stdout.readline().rpartition(":")[2])
        order = Order(transport, port, running.pid, 3, {"quotes": ["*"], "trades": ["*"]}, 0.2, 1.0)
        values = asyncio.run(asyncio.wait_for(measure(order), BOUND))
        assert "error" not in values
        assert values["delivered"] > 0
        assert values["bytes"] > 60
        assert values["latency_ms"]["p50"] > 0
        refused = asyncio.run(measure(dataclasses.replace(order, subscribe={"quotes": ["none"]})))
        assert "no update came" in refused["error"]


def test_the_command_line_names_every_transport() -> None:
    from click.testing import CliRunner

    from bench.transports import main

    told = CliRunner().invoke(main, ["--transports", "pigeon"])
    assert told.exit_code == 2
    assert all(name in told.output for name in RECEIVERS)
