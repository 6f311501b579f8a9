"""Everything that can go wrong for a client, by name."""


class ClientError(Exception):
    """The base of all errors of this package."""


class ConnectionFailed(ClientError, ConnectionError):
    """There is no connection: the server cannot be reached, or it went away and reconnecting is switched off."""


class ConnectionRefused(ClientError):
    """The server does not want this client, and connecting again would not help: wrong key, not allowed, ...

    Attributes:
        code: the code of the `error` message, the close code, or the HTTP status that said so.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class CommandError(ClientError):
    """The server answered a command with an error; what was subscribed before goes on.

    Attributes:
        code: as in docs/protocol.md, e.g. 400 = syntax, 401 = not authenticated, 405 = symbol limit.
        msg: the server's own words.
    """

    def __init__(self, code: int, msg: str) -> None:
        super().__init__(f"{msg} ({code})")
        self.code = code
        self.msg = msg


class BadMessage(ClientError):
    """The server sent something that is not this protocol."""


class AttachError(ClientError):
    """A server's memory cannot be read: no server shares that name, or its store is of another version."""


class WriterLost(AttachError):
    """The server whose memory is read has died, hangs, or was shut down: what is there will not change any more."""
