"""Links that fail; without a loop."""

from __future__ import annotations

import pytest

from marketfeed.stream.codes import CloseCode
from marketfeed.stream.link import Took
from marketfeed.stream.session import Session
from tests.unit.stream.support import QUOTE, ListLink, WiredLink


class FailingLink(ListLink):
    """One in which there is a defect."""

    failing = False

    def send(self, frame: bytes) -> Took:
        if self.failing:
            raise RuntimeError("a defect of this link")
        return super().send(frame)

    def finish(self, frame: bytes, sent: int) -> bool:
        raise RuntimeError("a defect of this link")

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        raise RuntimeError("and another one")


class FailingWiredLink(FailingLink, WiredLink):
    """The same where frames come by the sender."""


@pytest.mark.parametrize("when", ["a frame", "the rest of a frame", "a frame of its own", "a heartbeat"])
def test_a_link_that_fails_costs_nobody_else_a_tick(market, when):
    before, told_before = market.session(wired=when == "the rest of a frame")
    market.command(before, action="subscribe", quotes=["AAPL"])
    link = FailingWiredLink(len(market._wired)) if when == "the rest of a frame" else FailingLink()
    if isinstance(link, FailingWiredLink):
        market._wired.append(link)
    session = Session(market.hub, link, market.hub.encoding("json", True), "failing")
    market.command(session, action="subscribe", quotes=["AAPL"], heartbeat=5.0 if when == "a heartbeat" else 0)
    after, told_after = market.session()
    market.command(after, action="subscribe", quotes=["AAPL"], max_hz=100)
    market.run(1.0)
    if when == "a frame of its own":
        link.full = True
        market.hub.stalled(session)
        market.publish(("AAPL", QUOTE, 1.0))
        market.run(1.0)
        link.failing = True
        link.drain(session)
    elif when == "a heartbeat":
        link.failing = True
        market.run(5.0)
    elif when == "the rest of a frame":
        link.room = 1
    else:
        link.failing = True
    market.publish(("AAPL", QUOTE, 1.0))
    market.run(1.0)
    market.publish(("AAPL", QUOTE, 2.0))
    market.run(1.0)
    head = market.store.ring.head
    for told in (told_before, told_after):
        assert told.seqs() == list(range(1, head + 1))
    assert session.ended is CloseCode.INTERNAL
    assert not session.subscribers
    assert link.closed is not None
