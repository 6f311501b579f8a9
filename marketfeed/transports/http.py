"""What the transports have in common whose clients come with plain HTTP requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import orjson
from tornado.web import HTTPError, RequestHandler

from marketfeed.stream import protocol
from marketfeed.stream.codes import ErrorCode, ProtocolError
from marketfeed.stream.protocol import Position, Subscribe
from marketfeed.stream.session import Session
from marketfeed.transports.base import Connection, Gate
from marketfeed.transports.credentials import credentials

#: So many commands may come with one request: each is answered, and so many answers may wait for a link.
MOST_COMMANDS = 64

#: The HTTP status of what is refused before anything is streamed; 400 of everything else.
_STATUS = {
    ErrorCode.NOT_AUTHENTICATED: 401,
    ErrorCode.AUTH_TIMEOUT: 401,
    ErrorCode.AUTH_FAILED: 403,
    ErrorCode.NOT_ENTITLED: 403,
    ErrorCode.CONNECTION_LIMIT: 503,
    ErrorCode.INTERNAL: 500,
}
#: Request headers that a page of another origin may set.
_HEADERS = "Authorization, APCA-API-KEY-ID, APCA-API-SECRET-KEY, Cache-Control, Content-Type, Last-Event-ID"
#: Seconds after which a client that found the server full, or going down, may come again.
_RETRY_SECONDS = 2

_POSITION = re.compile(r"(?:([0-9]{1,16}):)?([0-9]{1,19})")
_OPTIONS = {field.name: field.type for field in msgspec.structs.fields(Subscribe)}


class Refused(HTTPError):
    """What was asked for is not done; the answer is an `error` message with this HTTP status."""

    def __init__(self, message: protocol.Message, status: int | None = None) -> None:
        super().__init__(status or _STATUS.get(message["code"], 400))
        self.message = message


def refused(text: str, status: int = 400) -> Refused:
    """A request that is not possible as it is."""
    return Refused(protocol.error(ErrorCode.SYNTAX, text), status)


class StreamingHandler(RequestHandler):
    """Refuses in the protocol's own words, and answers pages of the server's own origin and of those it trusts."""

    gate: Gate

    def initialize(self, gate: Gate, **more: Any) -> None:
        self.gate = gate

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "application/json")
        self.set_header("Vary", "Origin")
        origin, trusted = self.request.headers.get("Origin"), self.settings.get("trusted_origins", [])
        if origin is not None and origin in trusted:
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Allow-Credentials", "true")
        elif "*" in trusted:
            self.set_header("Access-Control-Allow-Origin", "*")

    def prepare(self) -> None:
        origin = self.request.headers.get("Origin")
        # None is not a page, or one of our own that only reads.
        known = origin is None or "Access-Control-Allow-Origin" in self._headers
        if not known and urlsplit(origin).netloc.lower() != self.request.host.lower():
            raise refused("pages of this origin may not connect: --origin names those that may", 403)

    def options(self, *args: str, **kwargs: str) -> None:
        """What a browser asks before a page of another origin may ask more."""
        self.set_header("Access-Control-Allow-Methods", ", ".join(self.allowed_methods()))
        self.set_header("Access-Control-Allow-Headers", _HEADERS)
        self.set_header("Access-Control-Max-Age", "600")
        self.set_status(204)

    @classmethod
    def allowed_methods(cls) -> list[str]:
        """Those that this handler has."""
        names = ("get", "post", "delete", "options")
        return [name.upper() for name in names if getattr(cls, name) is not getattr(RequestHandler, name)]

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, Refused):
            message = error.message
        else:
            code = ErrorCode.INTERNAL if status_code >= 500 else ErrorCode.SYNTAX
            text = "internal error" if status_code >= 500 else (getattr(error, "log_message", None) or self._reason)
            message = protocol.error(code, text)
        if status_code == 401:
            # Bearer, though basic will do too: for that a browser would ask the user.
            self.set_header("WWW-Authenticate", 'Bearer realm="marketfeed"')
        elif status_code == 503:
            self.set_header("Retry-After", str(_RETRY_SECONDS))
        self.finish(orjson.dumps(message))

    def admit(self, link: Connection, name: str, feed: str | None, commands: Iterable[str], in_query: bool) -> Session:
        """Let a client in and carry out the commands that it came with; all of them, or none.

        Args:
            in_query: credentials may stand in the URL.

        Raises:
            Refused: one of them cannot be carried out, or it may not come in. The link is not the gate's then.
        """
        gate = self.gate
        if feed is not None and not gate.has_feed(feed):
            raise refused(f"no feed {feed[:120]!r}; there are: {', '.join(gate.hub.directory.feeds())}", 404)
        session = gate.admit(link, name, "json", feed, credentials(self.request, in_query))
        for command in commands:
            gate.receive(link, command)
        # What one of many is answered has to be known now.
        session.hurry(gate.clock())
        error = session.error
        if error is None and session.ended is not None:
            error = protocol.error(ErrorCode.CONNECTION_LIMIT, session.ended.name.lower())
        elif error is None and not session.authenticated:
            error = protocol.error(ErrorCode.NOT_AUTHENTICATED, "not authenticated")
        if error is not None:
            gate.left(link)
            raise Refused(error)
        return session


def split_commands(body: bytes) -> list[str]:
    """One command, or an array of them, each as text of its own.

    Raises:
        Refused: it is not JSON, or they are too many.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise refused(f"invalid JSON: {error}") from None
    return as_texts(found if isinstance(found, list) else [found])


def as_texts(commands: list[Any]) -> list[str]:
    """Each command as JSON.

    Raises:
        Refused: they are too many.
    """
    if len(commands) > MOST_COMMANDS:
        raise refused(f"at most {MOST_COMMANDS} commands with one request, not {len(commands)}")
    return [orjson.dumps(command).decode() for command in commands]


def parse_position(text: str) -> Position | None:
    """`epoch:seq`, or `0` for all that is still held; None = it is neither."""
    match = _POSITION.fullmatch(text)
    if match is None:
        return None
    epoch, seq = match.groups()
    return Position(int(seq), None if epoch is None else int(epoch))


def subscribe_of_query(query: Mapping[str, list[str]]) -> Subscribe | None:
    """The `subscribe` command that a URL's parameters are; None = they name nothing.

    They are the command's own keys: arrays are written with commas, or by naming the key again; `since` is a position
    `epoch:seq`, or a time. What is left empty is not given, but for `fields`: no field at all.

    Raises:
        ProtocolError: one of them is unknown, or its value is none.
    """
    given: dict[str, Any] = {}
    for name, values in query.items():
        if name not in _OPTIONS:
            raise ProtocolError(ErrorCode.SYNTAX, f"unknown parameter {name[:120]!r}; there are: {', '.join(_OPTIONS)}")
        if _OPTIONS[name] in (list[str], list[str] | None):
            items = [item for value in values for item in value.split(",") if item]
            if items or name == "fields":
                given[name] = items
        elif values[-1]:
            given[name] = values[-1]
    if not given:
        return None
    if "since" in given:
        position = parse_position(given["since"])
        given["since"] = msgspec.to_builtins(position) if position is not None else given["since"]
    try:
        return msgspec.convert(given, Subscribe, strict=False)
    except msgspec.ValidationError as error:
        raise ProtocolError(ErrorCode.SYNTAX, str(error)) from None
