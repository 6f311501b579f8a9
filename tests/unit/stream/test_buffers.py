"""What is put together in buffers for many wires leaves them apart again, wherever a buffer ends."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

import marketfeed.stream.frames as made_here
from tests.unit.stream.support import QUOTE, Market


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("buffer_bytes", [1, 700, 4 << 20], ids=["a buffer each", "some buffers", "one buffer"])
@pytest.mark.parametrize("clients", [1, 2], ids=["one a group", "two a group"])
def test_each_wire_gets_its_frame_and_not_a_byte_more(monkeypatch, encoding, buffer_bytes, clients):
    monkeypatch.setattr(made_here, "_BUFFER_BYTES", buffer_bytes)
    market = Market()
    names = [f"S{n}" for n in range(7)]
    links = {}
    for n, name in enumerate(names):
        market.instrument(name)
        for _ in range(clients):
            session, link = market.session(encoding=encoding)
            market.command(session, action="subscribe", quotes=names[n:])
            links[link] = n
    market.run(1.0)
    before = {link: len(link.frames) for link in links}
    market.publish(*[(name, QUOTE, 1.0) for name in names])
    market.run(1.0)
    alone = Market()
    for name in names:
        alone.instrument(name)
    expected = []
    for n in range(len(names)):
        session, link = alone.session(encoding=encoding, wired=False)
        alone.command(session, action="subscribe", quotes=names[n:])
        link.frames.clear()
        expected.append(link)
    alone.publish(*[(name, QUOTE, 1.0) for name in names])
    alone.run(1.0)
    for link, n in links.items():
        payloads = [frame.partition(b" ")[2] for frame in expected[n].frames]
        assert link.frames[before[link] :] == [type(link).wrap(payload, encoding != "json", 1) for payload in payloads]
        assert not link.full, "told that it is full"


@given(
    groups=st.lists(st.lists(st.sampled_from([0, 1, 2, 99]), min_size=1, max_size=4), min_size=1, max_size=5),
    buffer_bytes=st.sampled_from([1, 700, 4 << 20]),
)
def test_whoever_took_less_than_all_is_the_one_who_gets_the_rest(groups, buffer_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_here, "_BUFFER_BYTES", buffer_bytes)
        market = Market()
        clients = []
        for n, rooms in enumerate(groups):
            market.instrument(f"S{n}")
            for room in rooms:
                session, link = market.session()
                market.command(session, action="subscribe", quotes=[f"S{n}"])
                clients.append((session, link, n, room))
        market.run(1.0)
        for _, link, _, room in clients:
            link.room = room
        for _ in range(3):
            market.publish(*[(f"S{n}", QUOTE, 1.0) for n in range(len(groups))])
            market.run(1.0)
        for session, link, _, _ in clients:
            link.drain(session)
        market.run(1.0)
        for _, link, n, _ in clients:
            assert [(tick["S"], tick["seq"]) for tick in link.ticks()] == [
                (f"S{n}", n + 1 + len(groups) * again) for again in range(3)
            ]
