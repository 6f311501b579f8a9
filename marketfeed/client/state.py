"""Where a connection stands."""

from __future__ import annotations

import enum
from typing import NamedTuple


class State(enum.StrEnum):
    """Where the connection stands."""

    CONNECTING = "connecting"
    #: Connected, and all that was subscribed is subscribed again.
    CONNECTED = "connected"
    #: Lost; the next attempt follows after a pause.
    WAITING = "waiting"
    CLOSED = "closed"


class StateChange(NamedTuple):
    """What `on_state` is told: ``reason`` is why the last connection ended, ``delay`` the pause in seconds."""

    state: State
    reason: str = ""
    delay: float = 0.0
