"""Questions over HTTP, as any client would ask them."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, NamedTuple

from tests.integration.processes import BOUND, status

ARROW = "application/vnd.apache.arrow.stream"


class Reply(NamedTuple):
    """What came."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def get(address: str, path: str, headers: dict[str, str] | None = None, **parameters: Any) -> Reply:
    """What the server answers, whatever its status."""
    query = urllib.parse.urlencode(parameters)
    request = urllib.request.Request(f"{address}{path}{'?' if query else ''}{query}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=BOUND) as answer:
            return Reply(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers, error.read())


def pages(address: str, path: str, **parameters: Any) -> list[Any]:
    """All of it, page by page."""
    got: list[Any] = []
    token: dict[str, str] = {}
    while True:
        reply = get(address, path, **parameters, **token)
        assert reply.status == 200, reply.body
        got.append(reply.json)
        if got[-1]["next_page_token"] is None:
            return got
        token = {"page_token": got[-1]["next_page_token"]}


def wait_until_played(address: str, feed: str) -> None:
    """A recording has been played to its end."""
    end = time.monotonic() + BOUND
    while status(address)["feeds"][feed]["state"] != "ended":
        assert time.monotonic() < end
        time.sleep(0.02)


def wait_for_ticks(address: str, count: int) -> None:
    """So many ticks have come."""
    end = time.monotonic() + BOUND
    while status(address)["seq"] < count:
        assert time.monotonic() < end
        time.sleep(0.02)
