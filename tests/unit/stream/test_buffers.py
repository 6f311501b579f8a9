"""What is put together in buffers for many wires leaves them apart again, wherever a buffer ends."""

from __future__ import annotations

import pytest

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
