"""Who may subscribe."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from marketfeed.stream.protocol import Auth
from marketfeed.stream.session import Authenticate


def authenticator(keys: Iterable[str]) -> Authenticate | None:
    """Accepts each `KEY:SECRET` as a pair, and `KEY:SECRET` or a lone `TOKEN` as a token. No keys = None.

    Raises:
        ValueError: an empty key, secret or token.
    """
    tokens = []
    for text in keys:
        key, colon, secret = text.partition(":")
        if not key or (colon and not secret):
            raise ValueError("a key is KEY:SECRET or TOKEN, with nothing left empty")
        tokens.append(text.encode())
    if not tokens:
        return None

    def authenticate(given: Auth) -> bool:
        text = (given.token or f"{given.key}:{given.secret}").encode(errors="surrogatepass")
        # Every key is compared, in constant time, so that the time taken tells nothing.
        return sum(hmac.compare_digest(text, token) for token in tokens) > 0

    return authenticate
