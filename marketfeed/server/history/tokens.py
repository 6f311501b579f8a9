"""Page tokens: where the next page begins. They hold all that is needed, so that nothing is kept of a request."""

from __future__ import annotations

import base64
import binascii
import struct
from hashlib import blake2b
from typing import NamedTuple

_FORM = struct.Struct("<BQQq8s")
_VERSION = 1


class TokenError(ValueError):
    """This is no token, or not one of this request."""


class TokenExpired(Exception):
    """The token is one of another life of the server."""


class Token(NamedTuple):
    """A place between two items."""

    #: of the life of the server
    epoch: int
    #: nothing beyond this sequence number is meant, on any page: it was the head at the first page
    until: int
    #: where to go on; what it counts is the business of who made it
    place: int

    def encode(self, query: str) -> str:
        """As text. ``query`` stands for everything else that was asked for."""
        packed = _FORM.pack(_VERSION, *self, _digest(query))
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode(text: str, query: str, epoch: int, head: int) -> Token:
    """The token that this text is.

    Args:
        query: what is asked for besides, which is what was asked for with the first page.
        epoch, head: of the store.

    Raises:
        TokenError: it is none, or one of another request.
        TokenExpired: it is one of another life of the server.
    """
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        version, *fields, digest = _FORM.unpack(packed)
    except (ValueError, binascii.Error, struct.error):
        raise TokenError("page_token is none of this server's") from None
    token = Token(*fields)
    if version != _VERSION:
        raise TokenError("page_token is none of this server's")
    if token.epoch != epoch:
        raise TokenExpired("page_token is of another life of the server: ask for the first page again")
    if digest != _digest(query):
        raise TokenError("page_token is of another request: only limit may differ from the page before")
    if token.until > head or token.place < 0:
        raise TokenError("page_token is none of this server's")
    return token


def _digest(query: str) -> bytes:
    return blake2b(query.encode(errors="surrogatepass"), digest_size=8).digest()
