"""The client library: a typed, reconnecting stream of quotes, trades and bars.

::

    Connection ──frames──> Session ──> Inbox ──> Feed (aio) ──> Message, ... or Batch, ...
      │  ^                   │                     SyncFeed (sync) = a Feed in a thread
      │  └────commands───────┘       Session: the protocol and the positions to resume from; pure
      └── Transport: one WebSocket connection

    Attached (attach) ──reads──> the memory of a server on the same machine; on Linux only, so it is imported by itself
"""

from marketfeed.client.aio import Feed, connect
from marketfeed.client.backoff import Backoff
from marketfeed.client.batch import Batch
from marketfeed.client.errors import (
    AttachError,
    BadMessage,
    ClientError,
    CommandError,
    ConnectionFailed,
    ConnectionRefused,
    WriterLost,
)
from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.messages import (
    Bar,
    Gap,
    Heartbeat,
    Message,
    Position,
    Quote,
    Rule,
    Subscription,
    Trade,
    UpdatedBar,
)
from marketfeed.client.state import State, StateChange
from marketfeed.client.sync import SyncFeed, connect_sync

__all__ = [
    "AttachError",
    "Backoff",
    "BadMessage",
    "Bar",
    "Batch",
    "ClientError",
    "CommandError",
    "ConnectionFailed",
    "ConnectionRefused",
    "Feed",
    "Gap",
    "Heartbeat",
    "InstrumentTable",
    "Message",
    "Position",
    "Quote",
    "Rule",
    "State",
    "StateChange",
    "Subscription",
    "SyncFeed",
    "Trade",
    "UpdatedBar",
    "WriterLost",
    "connect",
    "connect_sync",
]
