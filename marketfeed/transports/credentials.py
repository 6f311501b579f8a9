"""Who a request comes from, as it says itself."""

from __future__ import annotations

import base64
import binascii

from tornado.httputil import HTTPServerRequest

from marketfeed.stream.protocol import Auth


def credentials(request: HTTPServerRequest, in_query: bool = False) -> Auth | None:
    """Those of the headers: Alpaca's pair, a bearer token, or basic (key and secret). None = it gives none.

    Args:
        in_query: `?key=` and `?secret=`, or `?token=`, will do too: a browser's `EventSource` cannot set headers. What
            stands in a URL is written to the logs of proxies, so a token given there should be worth little.
    """
    headers = request.headers
    key, secret = _utf8(headers.get("APCA-API-KEY-ID", "")), _utf8(headers.get("APCA-API-SECRET-KEY", ""))
    if key or secret:
        return Auth(key=key, secret=secret)
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Auth(token=_utf8(value.strip()))
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return Auth()
        return Auth(key=name, secret=password)
    if in_query:
        key, secret, token = (
            request.query_arguments.get(name, [b""])[-1].decode(errors="replace") for name in ("key", "secret", "token")
        )
        if key or secret or token:
            return Auth(key=key, secret=secret, token=token)
    return None


def _utf8(value: str) -> str:
    """A header's bytes, which Tornado reads as Latin-1, read as UTF-8."""
    return value.encode("latin-1").decode(errors="replace")
