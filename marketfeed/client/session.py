"""The client's half of the protocol, without I/O: frames in, messages for the user and commands for the server out.

::

    ask(commands, done)                  what the user wants: see :mod:`marketfeed.client.request`
    connected()                          the transport is open
    receive(frame) -> [Item, ...]        what the user gets of it: messages, or a chunk of records
    outgoing() -> [text, ...]            what is to be sent now; ask after each of the others
    disconnected()                       the transport is gone; connected() follows when there is a new one

After a new connection everything that was subscribed is asked for again from its position, so that each tick arrives
once and what is lost is told as a :class:`Gap`. Commands that had no answer yet are sent again behind that. A position
is the number of the last tick that came, or of a heartbeat: of a subscription that is quiet, be it for its ``where``,
only heartbeats tell how far it is. Where ticks do not come in order the server says so, and then where it is. A
snapshot that may not have come whole is asked for again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from marketfeed.client.batch import Chunk
from marketfeed.client.errors import BadMessage, ClientError, CommandError, ConnectionFailed, ConnectionRefused
from marketfeed.client.inbox import Item
from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.messages import (
    Error,
    Gap,
    Heartbeat,
    Instruments,
    Numbered,
    Place,
    Received,
    Subscription,
    Success,
    decode_frame,
)
from marketfeed.client.parts import Part, Parts
from marketfeed.client.request import Command, Request, resume
from marketfeed.stream.encoding.binary import BadFrame, read_frame

# Codes of `error` messages.
_AUTH_FAILED, _ALREADY_AUTHENTICATED, _AUTH_TIMEOUT, _INTERNAL = 402, 403, 404, 500
#: These answer no command: they say why the connection is about to end.
_UNASKED = frozenset({_AUTH_TIMEOUT, 406, 407})

#: RFC 6455, 7.4.1: we broke the protocol, or sent what the server does not take. Again would be the same again.
_OUR_FAULT = frozenset({1002, 1003, 1007, 1008, 1009, 1010})


class Credentials(NamedTuple):
    """`key` and `secret`, or `token`."""

    key: str = ""
    secret: str = ""
    token: str = ""

    def as_wire(self) -> dict[str, str]:
        """As an `auth` command."""
        if self.token:
            return {"action": "auth", "token": self.token}
        return {"action": "auth", "key": self.key, "secret": self.secret}


class Session:
    """One user's subscriptions, over any number of connections.

    Args:
        credentials: sent as soon as the server says it is there.
        feed: the feed of the ticks that name none, on `/v2/{feed}`.

    Attributes:
        epoch: the server's present life, once it has told.
        ready: the server takes commands.
        heartbeat: seconds between two heartbeats of this connection; None = it has none.
        last_error: what the server said that answers no command, on this connection.
        failure: why this connection cannot go on: a :class:`ConnectionFailed` where a new one may, else
            :class:`ConnectionRefused` (credentials) or :class:`CommandError` (it does not give again what was cut).
    """

    def __init__(self, credentials: Credentials | None = None, feed: str = "") -> None:
        self._credentials = credentials
        self._parts = Parts(feed)
        self._pending: deque[Command] = deque()
        self._outgoing: list[str] = []
        #: of the present life of the server
        self._instruments = InstrumentTable()
        self.epoch: int | None = None
        self.ready = False
        self.heartbeat: float | None = None
        #: the interval that the user asked for, and the same as long as this connection has to be asked for it
        self._wanted_heartbeat: float | None = None
        self._heartbeat_to_ask: float | None = None
        self.last_error: Error | None = None
        self.failure: ClientError | None = None

    # What the user wants.

    def ask(self, commands: Sequence[Command], done: Callable[[Subscription | CommandError], None]) -> None:
        """Have these carried out, one after the other. ``done`` is called once, by a later :meth:`receive`.

        Args:
            commands: of :func:`~marketfeed.client.request.subscribe` or :func:`~marketfeed.client.request.unsubscribe`.
        """
        request = Request(len(commands), done)
        for command in commands:
            command.request = request
        self._pending.extend(commands)
        if self.ready:
            self._write(commands)

    def _write(self, commands: Iterable[Command]) -> None:
        for command in commands:
            if self._heartbeat_to_ask is not None and command.action == "subscribe":
                if command.heartbeat is None:
                    command.heartbeat = self._heartbeat_to_ask
                self._heartbeat_to_ask = None
            self._outgoing.append(command.text())

    @property
    def waiting(self) -> bool:
        """Whether an answer is due from the server."""
        return bool(self._pending)

    @property
    def resumed(self) -> bool:
        """Whether all that was subscribed before a cut is subscribed again."""
        return self.ready and all(command.request is not None for command in self._pending)

    # What the transport tells.

    def connected(self) -> None:
        """A new transport is open."""
        self.ready = False
        self.last_error = self.failure = None
        self._outgoing.clear()

    def disconnected(self) -> None:
        """The transport is gone; whatever it did not deliver is asked for again on the next one."""
        self.ready = False
        self.heartbeat = None
        self._heartbeat_to_ask = self._wanted_heartbeat
        self._outgoing.clear()
        parts = self._parts.take_all()
        again = [command for part in parts for command in resume(part.names, part.options, part.place(), part.snapshot)]
        self._pending.extendleft(reversed(again))

    def outgoing(self) -> list[str]:
        """The texts to send now, in this order. They are handed out once."""
        texts, self._outgoing = self._outgoing, []
        return texts

    def receive(self, frame: str | bytes) -> list[Item]:
        """Take one frame in; returns what of it is for the user, in order. Look at :attr:`failure` afterwards.

        Text is an array of messages, bytes are records.

        Raises:
            BadMessage: it is not of this protocol.
        """
        if isinstance(frame, bytes):
            return self._records(frame)
        parts = self._parts
        sole = parts.sole
        messages: list[Item] = []
        for message in decode_frame(frame):
            if isinstance(message, Numbered):
                part = sole or parts.owner(message)
                if part is None:
                    pass
                elif part.snapshot or parts.held:
                    part.arrive(message.seq, parts.held)
                elif message.seq > part.position:
                    part.position = message.seq
                messages.append(message)
            else:
                told = self._control(message)
                if told is not None:
                    messages.append(told)
                sole = parts.sole
        return messages

    def _records(self, frame: bytes) -> list[Item]:
        try:
            ticks = read_frame(frame)
        except BadFrame as error:
            raise BadMessage(f"the server sent what is not this protocol: {error}") from None
        if not len(ticks):
            return []
        if not self._instruments.knows(ticks["instrument"]):
            raise BadMessage("the server sent ticks of an instrument that it had not told")
        chunk = Chunk(ticks, self._instruments)
        self._parts.arrive(chunk)
        return [chunk]

    def _control(self, message: Received) -> Gap | Heartbeat | None:
        match message:
            case Gap():
                self._parts.skip(message)
                return message
            case Heartbeat():
                self._parts.reach(message)
                return message
            case Place():
                self._parts.reach(message)
            case Subscription():
                return self._answered(message)
            case Instruments():
                self._instruments.tell(message.instruments)
            case Error():
                self._refused(message)
            case Success(msg="connected"):
                self.epoch = message.epoch
                if self.epoch is None or self.epoch != self._instruments.epoch:
                    self._instruments = InstrumentTable(self.epoch)
                if self._credentials is None:
                    self._begin()
                else:
                    self._outgoing.append(msgspec.json.encode(self._credentials.as_wire()).decode())
            case Success(msg="authenticated"):
                self._begin()
            case _:
                pass  # a success of another kind changes nothing here
        return None

    def _begin(self) -> None:
        if not self.ready:
            self.ready = True
            self._write(self._pending)

    def _answered(self, reply: Subscription) -> Gap | None:
        if not self.ready or not self._pending:
            return None
        command = self._pending.popleft()
        self.heartbeat = reply.heartbeat
        if command.heartbeat is not None:
            self._wanted_heartbeat = command.heartbeat or None
            self._heartbeat_to_ask = None
        if command.action == "unsubscribe":
            self._parts.remove(command.names)
        else:
            options = command.options.told(command.names, reply.rules)
            part = Part(options, set(command.names), reply.epoch, reply.seq or 0, command.snapshot)
            self._parts.add(part, anew=command.snapshot or command.since is not None)
        if command.request is not None:
            command.request.answer(reply)
        elif command.since is None:
            return Gap(0, None, "unnumbered")
        return None

    def _refused(self, error: Error) -> None:
        code, text = error.code, error.msg or "no reason given"
        if not self.ready:
            if code == _ALREADY_AUTHENTICATED:
                self._begin()
            elif code == _AUTH_TIMEOUT or code not in _UNASKED | {_INTERNAL}:
                self.failure = ConnectionRefused(code, text)
            else:
                self.last_error = error
        elif code == _AUTH_FAILED:
            self.failure = ConnectionRefused(code, text)
        elif code in _UNASKED or not self._pending:
            self.last_error = error
        elif (request := self._pending[0].request) is not None:
            self._pending.popleft()
            if self.heartbeat is None:
                self._heartbeat_to_ask = self._wanted_heartbeat
            request.fail(error)
        elif code == _INTERNAL:
            # It stays pending, and is asked for on the next connection.
            self.failure = ConnectionFailed(f"the server could not resume: {text} ({code})")
        else:
            self.failure = CommandError(code, f"the server does not resume after a cut: {text}")


def closed_for_good(code: int | None) -> bool:
    """Whether this close code says that connecting again would not help. None = the connection just broke."""
    return code is not None and (3500 <= code <= 3999 or code in _OUR_FAULT)
