"""Frames that were made with one join are those that a join each would have made."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import marketfeed.stream.frames as made_here
from marketfeed.model import empty_ticks
from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.stream.encoding import ENCODINGS, Encoding
from marketfeed.stream.encoding.pieces import Layout, Pieces
from marketfeed.stream.frames import Framer
from marketfeed.stream.lane import Wanted
from marketfeed.transports.websocket import WebSocketLink


class Wrapped:
    """A link type whose frames cannot be made by what stands before them."""

    head = None

    @staticmethod
    def wrap(payload: bytes, binary: bool, seq: int | None) -> bytes:
        return b"<%d %d " % (binary, seq) + payload + b">"


PIECES = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8)


@st.composite
def wishes(draw):
    """Pieces, and which of them each group wants."""
    pieces = draw(PIECES)
    places = st.lists(st.integers(0, len(pieces) - 1), min_size=1, unique=True).map(sorted)
    return pieces, draw(st.lists(places, min_size=1, max_size=12))


def layout_of(encoding: Encoding) -> Layout:
    encoded = encoding.ticks(empty_ticks(0), np.zeros(0, np.uint64))
    assert isinstance(encoded, Pieces)
    return encoded.layout


def wanted_of(groups: list[list[int]]) -> Wanted:
    bounds = np.cumsum([0, *map(len, groups)])
    return Wanted(np.arange(len(groups)), bounds, np.array([n for group in groups for n in group]))


@pytest.mark.parametrize("link_type", [WebSocketLink, Wrapped])
@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("buffer_bytes", [1, 700, 4 << 20], ids=["a buffer each", "some buffers", "one buffer"])
@given(st.lists(wishes(), min_size=1, max_size=3))
def test_a_frame_is_what_its_group_alone_would_get(link_type, encoding, buffer_bytes, flushes):
    encoding = ENCODINGS[encoding](InstrumentDirectory.on_heap(1), False)
    layout = layout_of(encoding)
    framer = Framer(encoding, link_type)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_here, "_BUFFER_BYTES", buffer_bytes)
        for seq, (pieces, groups) in enumerate(flushes):
            frames = []
            for made in framer.frames(wanted_of(groups), Pieces(pieces, layout), seq):
                count = len(range(len(groups))[made.groups])
                assert made.groups.start == len(frames)
                assert len(made.begins) == len(made.lengths) == count
                frames += [made.frame(n) for n in range(count)]
                parts = zip(made.begins.tolist(), made.lengths.tolist(), strict=True)
                assert [made.buffer[begin : begin + n] for begin, n in parts] == frames[-count:]
            alone = [layout.frame([pieces[n] for n in group]) for group in groups]
            assert frames == [link_type.wrap(payload, encoding.BINARY_TICKS, seq) for payload in alone]


def test_what_opens_frames_is_not_kept_without_end(monkeypatch):
    monkeypatch.setattr(made_here, "_KEPT", 10)
    encoding = ENCODINGS["json"](InstrumentDirectory.on_heap(1), False)
    layout = layout_of(encoding)
    framer = Framer(encoding, WebSocketLink)
    for n in range(1, 100):
        for made in framer.frames(wanted_of([[0], [1]]), Pieces([b"x" * n, b"y" * 2 * n], layout), 1):
            assert made.frame(1).endswith(b"[" + b"y" * 2 * n + b"]")
    assert len(framer._opens) <= 12
