"""Each frame says where its subscriber is: whoever resumes there is given what is left, and nothing twice."""

from __future__ import annotations

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given

from marketfeed.stream.group import FRAME_TICKS
from tests.unit.stream.support import QUOTE, TRADE, Market


def ticks_of(frame: bytes) -> list[dict]:
    return [message for message in orjson.loads(frame.partition(b" ")[2]) if message["T"] in "qt"]


@given(
    options=st.fixed_dictionaries(
        {}, optional={"max_hz": st.just(100.0), "where": st.just("price > 3"), "snapshot": st.just(True)}
    ),
    steps=st.lists(st.sampled_from(["tick", "burst", "run", "stall", "drain"]), max_size=30),
)
def test_whoever_resumes_at_a_frames_position_is_given_what_is_left(options: dict, steps: list[str]) -> None:
    market = Market(1024, 8)
    session, link = market.session(wired=False)
    market.publish(("A", TRADE, 9.0))
    market.command(session, action="subscribe", trades=["A", "B"], **options)
    for n, step in enumerate([*steps, "drain", "run"]):
        if step == "tick":
            market.publish(("AB"[n % 2], TRADE, n % 7))
        elif step == "burst":
            market.publish(*[("ABC"[k % 3], TRADE, k % 7) for k in range(n)])
        elif step == "run":
            market.run(0.02)
        elif step == "stall":
            link.room = 1
        else:
            link.drain(session)
    market.run(0.1)
    wish = {key: value for key, value in options.items() if key != "snapshot"}
    for place, position in enumerate(link.positions()):
        assert (position is not None) == bool(ticks_of(link.frames[place]))
        if position is None:
            continue
        again, resumed = market.session(wired=False)
        since = {"epoch": market.store.epoch, "seq": position}
        market.command(again, action="subscribe", trades=["A", "B"], since=since, **wish)
        market.run(0.1)
        left = [tick for frame in link.frames[place + 1 :] for tick in ticks_of(frame)]
        assert all(tick["seq"] > position for tick in left)
        if "max_hz" in wish:
            left = sorted({tick["S"]: tick for tick in left}.values(), key=lambda tick: tick["seq"])
            # What a symbol was meanwhile is not told again: the condition is asked of what it is now.
            span = market.store.read(0)
            newest = set({i: seq for seq, i in enumerate(span.ticks["instrument"].tolist(), span.first)}.values())
            left = [tick for tick in left if tick["seq"] in newest]
        assert resumed.ticks() == left
        again.closed()


def test_of_a_snapshot_in_several_frames_only_the_last_moves_the_position() -> None:
    market = Market(8192, 4096)
    symbols = [f"S{n}" for n in range(FRAME_TICKS + 10)]
    market.publish(*[(symbol, QUOTE, 1.0) for symbol in symbols])
    session, link = market.session(wired=False)
    market.command(session, action="subscribe", quotes=["*"], snapshot=True)
    market.run()
    assert [p for p, frame in zip(link.positions(), link.frames, strict=True) if ticks_of(frame)] == [
        None,
        len(symbols),
    ]


@pytest.mark.parametrize("options", [{}, {"max_hz": 50.0}])
def test_of_a_burst_in_several_frames_each_moves_the_position(options: dict) -> None:
    market = Market(8192, 4096)
    session, link = market.session(wired=False)
    market.command(session, action="subscribe", quotes=["*"], **options)
    market.publish(*[(f"S{n}", QUOTE, 1.0) for n in range(FRAME_TICKS + 10)])
    market.run(1.0)
    assert [position for position in link.positions() if position] == [FRAME_TICKS, FRAME_TICKS + 10]
