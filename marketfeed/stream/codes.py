"""Every error a client can be told, and every way a connection can end. `docs/protocol.md` has a heading for each."""

from enum import IntEnum


class ErrorCode(IntEnum):
    """`code` of an `error` message; the numbers are those of Alpaca's market data stream."""

    SYNTAX = 400
    NOT_AUTHENTICATED = 401
    AUTH_FAILED = 402
    ALREADY_AUTHENTICATED = 403
    AUTH_TIMEOUT = 404
    SYMBOL_LIMIT = 405
    CONNECTION_LIMIT = 406
    #: never sent: who does not read is closed
    SLOW_CLIENT = 407
    NOT_ENTITLED = 409
    INTERNAL = 500


class CloseCode(IntEnum):
    """WebSocket close codes of our own (RFC 6455, 7.4.2). 3000-3499: connect again; 3500-3999: do not."""

    SHUTDOWN = 3000
    SLOW_CLIENT = 3001
    PONG_TIMEOUT = 3002
    CONNECTION_LIMIT = 3003
    INTERNAL = 3004
    AUTH_FAILED = 3500
    AUTH_TIMEOUT = 3501


class GapReason(IntEnum):
    """Why ticks could not be given; the name in lower case is the `reason` of a `gap` message."""

    #: the ring was overwritten before the subscriber could take them
    LAPPED = 1
    #: the position belongs to an earlier life of the server
    EPOCH = 2
    #: the client moved symbols to other options while it was behind with some of them
    MOVED = 3
    #: a defect of ours: it could not be written
    INTERNAL = 4


class ProtocolError(Exception):
    """A command that cannot be carried out; becomes an `error` message, and the connection goes on."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
