"""Transports that need a package which not everybody has installed, and not everybody who has wants to serve."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from types import ModuleType
from typing import Any

from tornado.web import RequestHandler

from marketfeed.transports.base import Gate

Routes = list[tuple[str, type[RequestHandler], dict[str, Any]]]

#: Extra, which is the transport's module too -> the paths that it serves, and packages it is made of.
_TRANSPORTS = {
    "socketio": (r"/socket\.io/", {"socketio", "engineio"}),
    "webrtc": (r"/webrtc/offer", {"aiortc", "aioice"}),
}


class _Missing(RequestHandler):
    """Says what has to be installed."""

    def initialize(self, extra: str) -> None:
        self._extra = extra

    def prepare(self) -> None:
        self.set_status(501)
        self.finish(f"not installed on this server: pip install 'marketfeed[{self._extra}]'\n")


def load(without: Collection[str] = ()) -> dict[str, ModuleType | None]:
    """The module of each transport, by its name; None = it is not installed.

    Together they take half a second and 50 MiB, those ``without`` nothing.
    """
    found: dict[str, ModuleType | None] = {}
    for extra, (_, names) in _TRANSPORTS.items():
        if extra in without:
            continue
        try:
            found[extra] = import_module(f"marketfeed.transports.{extra}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in names:
                raise
            found[extra] = None
    return found


def routes(loaded: dict[str, ModuleType | None], gate: Gate) -> Routes:
    """Those of each transport that is installed, and for each other one the answer 501 that names its extra."""
    found: Routes = []
    for extra, module in loaded.items():
        found += [(_TRANSPORTS[extra][0], _Missing, {"extra": extra})] if module is None else module.routes(gate)
    return found
