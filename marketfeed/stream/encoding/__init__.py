"""Ticks and messages as bytes: one file an encoding.

::

    rows of TICK ──ticks()──> one piece of bytes a tick ──frame()──> payload of a frame
    messages (dict) ──messages()─────────────────────────────────────────────┘

A tick is encoded once; every group that wants it joins the same piece into its own frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import Ticks
from marketfeed.stream.encoding.fields import FIELDS, check_fields
from marketfeed.stream.encoding.json import JsonEncoding
from marketfeed.stream.encoding.msgpack import MsgpackEncoding


class Encoding(Protocol):
    """One way to write messages. Equal instances are one instance: a hub makes each once.

    Args:
        directory: whose ids the ticks carry.
        with_feed: whether each tick tells its feed (`f`).
        fields: what :func:`check_fields` gave: a tick has `T`, `S`, `seq`, its feed, and of these keys those that its
            kind has. None = every key.
    """

    #: as in `?encoding=` and in the subprotocol `marketfeed.NAME`
    NAME: str
    #: whether its frames are binary ones
    BINARY: bool
    #: between two pieces of a frame, and behind the last
    SEPARATOR: bytes
    END: bytes
    #: whether what a payload begins with depends on how many pieces it has
    COUNTED: bool
    with_feed: bool

    def __init__(
        self, directory: InstrumentDirectory, with_feed: bool, fields: frozenset[str] | None = None
    ) -> None: ...

    def ticks(self, rows: Ticks, seqs: NDArray[np.uint64]) -> list[bytes]:
        """Each tick on its own. rows: shape (n,), TICK; seqs: shape (n,)."""

    def messages(self, messages: Sequence[dict[str, Any]]) -> list[bytes]:
        """Each message on its own."""

    def begin(self, count: int) -> bytes:
        """What a payload of so many pieces begins with."""

    def frame(self, pieces: Sequence[bytes]) -> bytes:
        """The payload of a frame of these ticks and messages, in this order: begin, pieces with separators, end."""


ENCODINGS: dict[str, type[Encoding]] = {cls.NAME: cls for cls in (JsonEncoding, MsgpackEncoding)}

__all__ = ["ENCODINGS", "FIELDS", "Encoding", "JsonEncoding", "MsgpackEncoding", "check_fields"]
