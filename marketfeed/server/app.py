"""What is served where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import orjson
from tornado.web import Application, RequestHandler

from marketfeed.transports import longpoll, sse, upgrade
from marketfeed.transports.base import Gate
from marketfeed.transports.http import StreamingHandler

#: Pattern, handler, and what the handler is made with.
Route = tuple[str, type[RequestHandler], dict[str, Any]]

SEE = [
    "/stream",
    "/v2/{feed}",
    "/v2/{feed}/snapshots",
    "/v2/{feed}/quotes",
    "/sse",
    "/poll",
    "/socket.io/",
    "/webrtc/offer",
    "/client/marketfeed.js",
    "/api/symbols",
    "/api/status",
]


class _Json(RequestHandler):
    """Answers with what a function returns, as JSON."""

    def initialize(self, answer: Callable[[], dict[str, Any]]) -> None:
        self._answer = answer

    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(orjson.dumps(self._answer()))


class _Script(StreamingHandler):
    """The client for pages, of this server's own version: a browser asks each time whether it has changed (by ETag)."""

    def initialize(self, script: bytes) -> None:  # type: ignore[override]  # it lets nobody in, so it needs no gate
        self._script = script

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-cache")

    def get(self) -> None:
        self.set_header("Content-Type", "text/javascript; charset=UTF-8")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(self._script)

    head = get


def _quiet(handler: RequestHandler) -> None:
    """Requests are not logged one by one: a thousand clients that connect are not a thousand lines."""


def make_app(
    gate: Gate,
    status: Callable[[], dict[str, Any]],
    origins: Sequence[str],
    hosts: Sequence[str] = (),
    more: Sequence[Route] = (),
) -> Application:
    """Every route of the server.

    Args:
        status: what `/api/status` answers.
        origins: pages of these may connect besides our own; "*" = any.
        hosts: addresses of this server for WebRTC; none = the one that a request came to.
        more: what is served besides streams for everybody.
    """
    script = resources.files("marketfeed.client") / "js" / "marketfeed.js"
    return Application(
        [
            *upgrade.routes(gate),
            *sse.routes(gate),
            *longpoll.routes(gate),
            *more,
            (
                r"/",
                _Json,
                {"answer": lambda: {"service": "marketfeed", "see": SEE}},
            ),
            (r"/api/status", _Json, {"answer": status}),
            (r"/client/marketfeed\.js", _Script, {"script": script.read_bytes()}),
        ],
        trusted_origins=list(origins),
        webrtc_hosts=list(hosts),
        log_function=_quiet,
    )
