"""An HTTP server that never comes near the limit of open files, where Tornado's accept loop would spin."""

from __future__ import annotations

import logging
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application

log = logging.getLogger("marketfeed.server")


class LimitedServer(HTTPServer):
    """Closes what is accepted beyond a number of open sockets, whatever they are used for.

    Tornado's servers are made through ``initialize``, not ``__init__``.
    """

    def initialize(self, most: int, app: Application, **options: Any) -> None:  # type: ignore[override]  # one more
        super().initialize(app, **options)
        self._most = most
        self._open: set[IOStream] = set()
        self._look_at = 64
        self._told = False

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self._open) >= self._look_at:
            # Those that have closed are forgotten now and then, so that looking for them costs little.
            self._open = {other for other in self._open if not other.closed()}
            self._look_at = min(self._most, 2 * len(self._open) + 64)
        if len(self._open) >= self._most:
            if not self._told:
                self._told = True
                log.error("%d sockets are open: more are closed as they come", self._most)
            stream.close()
            return
        self._open.add(stream)
        super().handle_stream(stream, address)
