"""The HTTP side: who may ask, what is asked, and the answer on its way."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import orjson
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler

from marketfeed.model.store import TickStore
from marketfeed.model.tick import BAR, QUOTE, TRADE
from marketfeed.server.history import answers, arrow, params
from marketfeed.server.history.answers import Answer, Form
from marketfeed.server.history.pace import Pace, TooMany
from marketfeed.server.history.params import BadRequest, SymbolLimits
from marketfeed.server.history.steps import InTime, OutOfTime, Steps
from marketfeed.server.history.tokens import TokenError, TokenExpired
from marketfeed.stream.subscription import is_glob
from marketfeed.transports.base import Gate
from marketfeed.transports.credentials import credentials

log = logging.getLogger("marketfeed.history")

_KINDS = {"quotes": QUOTE, "trades": TRADE, "bars": BAR}


class History:
    """What the handlers share: the store, and how much of it may be asked for.

    Args:
        requests: how many there may be at a time, of all clients.
        seconds: what takes longer to find out is cut short, or given up.
        write_seconds: a client that has not taken its answer after so long is cut.
    """

    def __init__(
        self,
        store: TickStore,
        gate: Gate,
        clock: Callable[[], float],
        requests: int,
        seconds: float,
        write_seconds: float,
    ) -> None:
        self.store = store
        self.gate = gate
        self.pace = Pace(requests, clock)
        self.seconds = seconds
        self.write_seconds = write_seconds
        self.limits = SymbolLimits(gate.limits.symbols, gate.limits.globs)


class _Refused(HTTPError):
    """Answered with a message in Alpaca's form."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(status)
        self.message = message
        self.headers = headers


class _Handler(RequestHandler, ABC):
    """Answers with what :meth:`work` gives. Errors are `{"message": ...}`, as Alpaca's are."""

    _gone = False

    def initialize(self, history: History) -> None:
        self._history = history
        # Kept, for the connection forgets it when an answer has been given.
        assert isinstance(self.request.connection, HTTP1Connection)
        self._stream = self.request.connection.stream

    def prepare(self) -> None:
        shown = credentials(self.request)
        if not self._history.gate.allows(shown):
            if shown is None:
                message = "authentication is needed: APCA-API-KEY-ID and APCA-API-SECRET-KEY, or a token"
                raise _Refused(401, message, WWW_Authenticate="Bearer")
            raise _Refused(403, "forbidden: these credentials are not known")
        if "feed" in self.path_kwargs:
            self.check_feed(self.path_kwargs["feed"])

    def check_feed(self, feed: str) -> None:
        """See that there is a feed of that name."""
        if not self._history.gate.has_feed(feed):
            raise _Refused(404, f"there is no feed {feed[:64]!r}")

    @abstractmethod
    def work(self, given: params.Given, form: Form, in_time: InTime) -> Steps[Answer]:
        """The steps to the answer."""

    async def get(self, **path: str) -> None:
        history = self._history
        if self._stream.closed():
            return  # a question that was sent ahead, by a client that was cut since
        deadline = history.pace.clock() + history.seconds
        try:
            with history.pace.place():
                form = Form(_wants_arrow(self.request), path.get("symbol"))
                work = self.work(self._given(path), form, lambda: not self._gone and history.pace.clock() < deadline)
                body, seq = await history.pace.run(work)
                self.set_header("Content-Type", arrow.MEDIA_TYPE if form.arrow else "application/json")
                self.set_header("Cache-Control", "no-store")
                self.set_header("Vary", "Accept")
                self.set_header("Marketfeed-Epoch", str(history.store.epoch))
                self.set_header("Marketfeed-Seq", str(seq))
                # It has its place until the client has taken it: answers that nobody takes are not piled up.
                await self._deliver(body)
        except TooMany:
            raise _Refused(429, "too many requests at a time", Retry_After="1") from None
        except (BadRequest, TokenError) as error:
            raise _Refused(400, str(error)) from None
        except TokenExpired as error:
            raise _Refused(410, str(error)) from None
        except OutOfTime:
            raise _Refused(503, f"takes longer than {history.seconds:g} s: ask for less") from None

    def _given(self, path: dict[str, str]) -> params.Given:
        try:
            given = {
                name: [value.decode() for value in values] for name, values in self.request.query_arguments.items()
            }
        except UnicodeDecodeError:
            raise BadRequest("parameters are UTF-8") from None
        if "symbol" in path:
            if "symbols" in given:
                raise BadRequest("symbols: the path names one")
            if "," in path["symbol"] or is_glob(path["symbol"]):
                raise BadRequest("the path names one symbol")
            given["symbols"] = [path["symbol"]]
        return given

    async def _deliver(self, body: bytes) -> None:
        history = self._history
        try:
            async with asyncio.timeout(history.write_seconds):
                await self.finish(body)
        except StreamClosedError:
            return
        except TimeoutError:
            history.pace.stats.cut += 1
            log.warning("http %s: did not take its answer for %.0f s", self.request.remote_ip, history.write_seconds)
            self._stream.close()
            return
        history.pace.stats.answered += 1

    def compute_etag(self) -> str | None:
        """None: it would be made of all of the body, and what is asked for now is not what was."""
        return None

    def on_connection_close(self) -> None:
        self._gone = True

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        message = self._reason
        if isinstance(error, _Refused):
            message = error.message
            for name, value in error.headers.items():
                self.set_header(name.replace("_", "-"), value)
        self.set_header("Content-Type", "application/json")
        self.finish(orjson.dumps({"message": message}))


def _wants_arrow(request: HTTPServerRequest) -> bool:
    """Whether Arrow is asked for by name, and JSON not more.

    Raises:
        _Refused: it is, and there is no pyarrow.
    """
    weights = {}
    for part in request.headers.get("Accept", "").split(","):
        media_type, *options = (piece.strip() for piece in part.lower().split(";"))
        weight = next((option[2:] for option in options if option.startswith("q=")), "1")
        try:
            weights[media_type] = float(weight)
        except ValueError:
            weights[media_type] = 1.0
    wanted = weights.get(arrow.MEDIA_TYPE, 0.0)
    if not wanted > weights.get("application/json", 0.0):
        return False
    if not arrow.available():
        raise _Refused(406, f"{arrow.MEDIA_TYPE} needs pyarrow on the server: pip install 'marketfeed[arrow]'")
    return True


class RangeHandler(_Handler):
    """Quotes, trades or bars between two times."""

    def work(self, given: params.Given, form: Form, in_time: InTime) -> Steps[Answer]:
        history, feed, kind = self._history, self.path_kwargs["feed"], _KINDS[self.path_kwargs["kind"]]
        if kind == BAR:
            return answers.bars(history.store, params.bars_query(feed, given, history.limits), form, in_time)
        return answers.ticks(history.store, params.ticks_query(feed, kind, given, history.limits), form, in_time)


class LatestHandler(_Handler):
    """The last quote, trade or minute bar of symbols."""

    def work(self, given: params.Given, form: Form, in_time: InTime) -> Steps[Answer]:
        history, feed, kind = self._history, self.path_kwargs["feed"], _KINDS[self.path_kwargs["kind"]]
        return answers.latest(history.store, feed, kind, params.latest_query(given, history.limits), form, in_time)


class SnapshotsHandler(_Handler):
    """Everything that is last of symbols."""

    def work(self, given: params.Given, form: Form, in_time: InTime) -> Steps[Answer]:
        history, feed = self._history, self.path_kwargs["feed"]
        return answers.snapshots(history.store, feed, params.latest_query(given, history.limits), form, in_time)


class SymbolsHandler(_Handler):
    """Which instruments there are."""

    def work(self, given: params.Given, form: Form, in_time: InTime) -> Steps[Answer]:
        query = params.symbols_query(given)
        if query.feed is not None:
            self.check_feed(query.feed)
        return answers.symbols(self._history.store, query, form, in_time)


def routes(history: History) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """What is served, each with a variant for one symbol where Alpaca has one."""
    kind, shared = "(?P<kind>quotes|trades|bars)", {"history": history}
    feed, symbol = "/v2/(?P<feed>[^/]+)", "(?P<symbol>[^/]+)"
    return [
        (f"{feed}/{kind}", RangeHandler, shared),
        (f"{feed}/{kind}/latest", LatestHandler, shared),
        (f"{feed}/snapshots", SnapshotsHandler, shared),
        (f"{feed}/{symbol}/{kind}", RangeHandler, shared),
        (f"{feed}/{symbol}/{kind}/latest", LatestHandler, shared),
        (f"{feed}/{symbol}/snapshot", SnapshotsHandler, shared),
        ("/api/symbols", SymbolsHandler, shared),
    ]
