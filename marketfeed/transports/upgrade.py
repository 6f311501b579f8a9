"""The opening handshake (RFC 6455, 4.2): an HTTP request becomes a WebSocket, or is told why not.

Nothing of the request is kept once it has: a connection is its link and its stream.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tornado.web import HTTPError, RequestHandler

from marketfeed.stream.encoding import ENCODINGS
from marketfeed.transports import rfc6455, rfc7692
from marketfeed.transports.base import Gate
from marketfeed.transports.credentials import credentials
from marketfeed.transports.websocket import WebSocketLink, deflating

log = logging.getLogger("marketfeed.websocket")

_SUBPROTOCOL = "marketfeed."
_VERSION = "13"


class StreamHandler(RequestHandler):
    """`/stream` and `/v2/{feed}`.

    Args:
        gate: where clients are let in.
        links: the type of a link by the window that was agreed on, bits; 0 = no compression.
    """

    def initialize(self, gate: Gate, links: Mapping[int, type[WebSocketLink]]) -> None:
        self._gate = gate
        self._links = links

    def check_origin(self, origin: str) -> bool:
        """Whether pages of this origin, which is not ours, may connect."""
        return "*" in self.settings.get("trusted_origins", []) or self.check_trusted_origin(origin)

    def get(self, feed: str | None = None) -> None:
        if feed is not None and not self._gate.has_feed(feed):
            raise HTTPError(404, "no feed %r", feed)
        asked = self.get_query_argument("encoding", None)
        if asked is not None and asked not in ENCODINGS:
            raise HTTPError(400, "no encoding %r", asked)
        self._check_upgrade()
        accept = rfc6455.accept_of(self.request.headers.get("Sec-WebSocket-Key", ""))
        if accept is None:
            raise HTTPError(400, "Sec-WebSocket-Key is not 16 bytes in base64")
        try:
            offers = rfc7692.parse_extensions(self.request.headers.get("Sec-WebSocket-Extensions", ""))
        except ValueError as error:
            raise HTTPError(400, "Sec-WebSocket-Extensions: %s", error) from None
        agreed = rfc7692.agree(offers) if self._gate.limits.compression else None
        subprotocol = self._subprotocol()
        encoding = subprotocol.removeprefix(_SUBPROTOCOL) if subprotocol else asked or self._by_content_type()

        self.set_status(101)
        self.clear_header("Content-Type")
        self.set_header("Upgrade", "websocket")
        self.set_header("Connection", "Upgrade")
        self.set_header("Sec-WebSocket-Accept", accept)
        if subprotocol:
            self.set_header("Sec-WebSocket-Protocol", subprotocol)
        if agreed is not None:
            self.set_header("Sec-WebSocket-Extensions", agreed.header)
        self.finish()
        stream = self.detach()
        if stream.closed():
            return  # it did not wait for the answer
        stream.set_nodelay(True)
        name = f"ws {self.request.remote_ip}"
        link = self._links[agreed.bits if agreed else 0](stream, name, self._gate)
        try:
            self._gate.admit(link, name, encoding, feed, credentials(self.request))
        except BaseException:
            stream.close()  # nobody else knows of it any more
            raise
        link.start()
        self._gate.wake()

    def _check_upgrade(self) -> None:
        """Whether this asks for a WebSocket of our version, from where it may."""
        headers = self.request.headers
        if "websocket" not in _tokens(headers.get("Upgrade", "")) or self.request.version == "HTTP/1.0":
            raise HTTPError(426, "this is a WebSocket: upgrade to it")
        if "upgrade" not in _tokens(headers.get("Connection", "")):
            raise HTTPError(400, "Connection is not Upgrade")
        # Tornado's own check, which knows of Sec-Fetch-Site: no page of another origin unless it is trusted.
        if self._check_cross_origin(self.check_origin) is not None:
            raise HTTPError(403, "not from this origin")
        if headers.get("Sec-WebSocket-Version", "").strip() != _VERSION:
            raise HTTPError(426, "this is version %s of the WebSocket protocol", _VERSION)

    def write_error(self, status_code: int, **more: Any) -> None:
        """Say what is wrong, in words."""
        if status_code == 426:
            self.set_header("Upgrade", "websocket")
            self.set_header("Connection", "Upgrade")
            self.set_header("Sec-WebSocket-Version", _VERSION)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.set_header("X-Content-Type-Options", "nosniff")
        error = more["exc_info"][1] if "exc_info" in more else None
        words = error.get_message() if isinstance(error, HTTPError) else None
        self.finish(f"{words or self._reason}\n")

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """A request that is wrong is told to who made it, and is no line of the log: there may be thousands."""
        if isinstance(value, HTTPError):
            log.debug("ws %s: %d %s", self.request.remote_ip, value.status_code, value.get_message())
        else:
            super().log_exception(typ, value, tb)

    def _subprotocol(self) -> str | None:
        """The first that the client offers and that we speak; None = none is agreed on, and that is all right."""
        offered = [name.strip() for name in self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        ours = {_SUBPROTOCOL + name for name in ENCODINGS}
        return next((name for name in offered if name in ours), None)

    def _by_content_type(self) -> str:
        return "msgpack" if self.request.headers.get("Content-Type") == "application/msgpack" else "json"


def _tokens(header: str) -> list[str]:
    return [token.strip().lower() for token in header.split(",")]


def routes(gate: Gate) -> list[tuple[str, type[StreamHandler], dict[str, Any]]]:
    """What this transport serves."""
    links = {0: WebSocketLink}
    links |= {bits: deflating(bits) for bits in range(rfc7692.LEAST_BITS, rfc7692.WINDOW_BITS + 1)}
    arguments = {"gate": gate, "links": links}
    return [
        (r"/stream", StreamHandler, arguments),
        (r"/v2/(?P<feed>[^/]+)", StreamHandler, arguments),
    ]
