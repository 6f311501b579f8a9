"""What may be asked of the server only by programs and pages of the same machine: to control its feeds.

::

    GET  /api/admin/feeds          {"replay": {"controls": ["pause", ...], "progress": {...}}, ...}
    POST /api/admin/feeds/{name}   {"control": "seek", "value": "2013-10-07T13:30:00Z"}; answers the feed's progress

A request must come from a loopback address, name a loopback address or `localhost` as its host, and come through no
proxy. So neither another machine, nor a page whose name was made to point here (DNS rebinding), nor any page of another
origin gets through: browsers tell a page's origin, and ask before they send another site's JSON.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson
from tornado.web import HTTPError, RequestHandler

from marketfeed.feed import FeedError
from marketfeed.ingest import FeedRunner

#: A proxy on this machine would make everybody look local.
_PROXIED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via")


def is_loopback(host: str) -> bool:
    """Whether a host, a name or an address without a port, is this machine's own."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def refusal(peer: str, headers: Mapping[str, str]) -> str:
    """Why a request may not control anything; "" = it may."""
    if not is_loopback(peer):
        return "only from the machine itself"
    if any(name in headers for name in _PROXIED):
        return "not through a proxy"
    host = headers.get("Host", "")
    if not is_loopback(_name_of(f"//{host}")):
        return "only under the name localhost or a loopback address"
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return "not from a page of another origin"
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return "not from a page of another origin"
    return ""


def _name_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


class _Local(RequestHandler):
    def initialize(self, runners: Mapping[str, FeedRunner]) -> None:
        self._runners = runners

    def prepare(self) -> None:
        why = refusal(self.request.remote_ip or "", self.request.headers)
        if why:
            raise HTTPError(403, reason=f"Refused: {why}")

    def write_error(self, status_code: int, **more: Any) -> None:
        self.answer({"error": self._reason})

    def answer(self, told: Mapping[str, Any]) -> None:
        """Answer as JSON that nobody keeps."""
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(orjson.dumps(told))

    def refuse(self, status: int, why: str) -> None:
        """Answer that it was not done."""
        self.set_status(status)
        self.answer({"error": why})


class _Feeds(_Local):
    """Every feed, what it can be told, and how it stands."""

    def get(self) -> None:
        self.answer(
            {name: {"controls": run.controls, "progress": run.progress()} for name, run in self._runners.items()}
        )


class _Feed(_Local):
    """Tells one feed what to do."""

    def post(self, name: str) -> None:
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            self.refuse(415, "the body is JSON: Content-Type: application/json")
            return
        if name not in self._runners:
            self.refuse(404, f"no feed {name!r}; there are: {', '.join(self._runners)}")
            return
        try:
            asked = orjson.loads(self.request.body)
        except ValueError:
            asked = None
        if not isinstance(asked, dict) or not isinstance(asked.get("control"), str):
            self.refuse(400, 'the body is {"control": NAME}, with "value" where it takes one')
            return
        value = asked.get("value")
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            self.refuse(400, "value is text or a number")
            return
        runner = self._runners[name]
        try:
            runner.control(asked["control"], None if value is None else str(value))
        except FeedError as error:
            self.refuse(400, str(error))
        else:
            self.answer(runner.progress())


def routes(runners: Mapping[str, FeedRunner]) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """The routes of these feeds, by name."""
    more = {"runners": runners}
    return [(r"/api/admin/feeds", _Feeds, more), (r"/api/admin/feeds/([^/]+)", _Feed, more)]
