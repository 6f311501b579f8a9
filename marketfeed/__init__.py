"""Market data streaming.

::

    feeds ──batches──> ingest ──> model (one store) ──> stream (hub) ──> transports ──> clients
      sim, replay,      stamps     ring: every tick       lanes, groups    WebSocket      marketfeed.client,
      venues            ts_recv    latest: last of each   one frame each   ...            alpaca-py, browsers

Data flows only to the right. Two things travel back: what a client asks for, and "can you take more?".
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marketfeed import client
    from marketfeed.client import connect, connect_sync
    from marketfeed.client.attach import attach

__all__ = ["attach", "client", "connect", "connect_sync"]


def __getattr__(name: str) -> Any:
    # Only on use, so that the command line and a server need not load what a client needs.
    if name in __all__:
        from importlib import import_module

        # Attaching is for Linux alone; the other clients are not.
        module = import_module("marketfeed.client.attach" if name == "attach" else "marketfeed.client")
        return module if name == "client" else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
