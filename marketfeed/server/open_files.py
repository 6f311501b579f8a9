"""How many files and sockets this process may have open, and what clients may use of them."""

from __future__ import annotations

import logging
import resource

from marketfeed.server.config import Config
from marketfeed.transports.base import Limits

log = logging.getLogger("marketfeed.server")

#: Descriptors kept free for files, the listening socket and libraries.
_SPARE_DESCRIPTORS = 64


def descriptors() -> int:
    """How many files and sockets this process may have open: as many as it may be allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def client_limits(config: Config, hosts: int) -> tuple[Limits, int]:
    """What clients may use, and how many connections may be accepted.

    Args:
        hosts: addresses at which each WebRTC connection has a socket of its own; 0 = one.
    """
    sockets_each = max(1, hosts)
    peers = min(config["max_peers"], descriptors() // 4 // sockets_each)
    spare = _SPARE_DESCRIPTORS + peers * sockets_each
    limits = Limits(
        connections=_connections(config["max_connections"], spare),
        symbols=config["max_symbols"],
        globs=config["max_globs"],
        rules=config["max_rules"],
        message_bytes=config["max_message"],
        write_seconds=config["write_timeout"],
        poll_seconds=config["poll_timeout"],
        compression=config["compression"] == "deflate",
        peers=peers,
    )
    return limits, descriptors() - spare


def _connections(wanted: int, spare: int) -> int:
    """How many sessions there may be, so that there is room to turn others away in order."""
    possible = descriptors() - spare - _SPARE_DESCRIPTORS
    if possible < wanted:
        log.warning("at most %d connections instead of %d: the limit of open files", possible, wanted)
        return max(1, possible)
    return wanted
