"""Ticks and messages as bytes: one file an encoding.

::

    rows of TICK ──ticks()──> EncodedTicks ──frame(those wanted)──> payload of a frame of ticks
    messages (dict) ──messages()──────────────────────────────────> payload of a frame of messages

A tick is encoded once; every group that wants it has it in its own frame. No frame holds ticks and messages both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import Ticks
from marketfeed.stream.encoding.binary import BinaryEncoding
from marketfeed.stream.encoding.fields import FIELDS, check_fields
from marketfeed.stream.encoding.json import JsonEncoding
from marketfeed.stream.encoding.msgpack import MsgpackEncoding


class EncodedTicks(Protocol):
    """Some ticks, each of them encoded once."""

    def frame(self, places: Sequence[int] | None = None) -> bytes:
        """The payload of a frame of those at these places, ascending and each once; None = of all."""


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
    #: whether frames of ticks, and of messages, are binary ones
    BINARY_TICKS: bool
    BINARY_MESSAGES: bool
    #: whether a tick is a record: always whole, its instrument an id. So there are no `fields` to choose, and a session
    #: is told what the ids stand for before it gets them (:meth:`Session.introduce`).
    RECORDS: bool
    with_feed: bool

    def __init__(
        self, directory: InstrumentDirectory, with_feed: bool, fields: frozenset[str] | None = None
    ) -> None: ...

    def ticks(self, rows: Ticks, seqs: NDArray[np.uint64]) -> EncodedTicks:
        """These ticks, encoded. rows: shape (n,), TICK; seqs: shape (n,)."""

    def messages(self, messages: Sequence[dict[str, Any]]) -> bytes:
        """The payload of a frame of these messages, in this order."""


ENCODINGS: dict[str, type[Encoding]] = {cls.NAME: cls for cls in (JsonEncoding, MsgpackEncoding, BinaryEncoding)}

__all__ = [
    "ENCODINGS",
    "FIELDS",
    "BinaryEncoding",
    "EncodedTicks",
    "Encoding",
    "JsonEncoding",
    "MsgpackEncoding",
    "check_fields",
]
