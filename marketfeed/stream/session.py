"""One client's connection, without the connection: its commands in, what it is told out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from marketfeed.model.steps import Steps
from marketfeed.stream import protocol
from marketfeed.stream.codes import CloseCode, ErrorCode, ProtocolError
from marketfeed.stream.link import Link, Took
from marketfeed.stream.positions import Found
from marketfeed.stream.subscription import Options, Rule, Selection, is_glob

if TYPE_CHECKING:
    from marketfeed.stream.encoding import Encoding
    from marketfeed.stream.group import Subscriber
    from marketfeed.stream.hub import Hub

log = logging.getLogger("marketfeed.session")

#: So many messages besides ticks may wait for a link that is full; a client that asks on without reading is cut.
_OUTBOX_MESSAGES = 64

#: So many instruments are told in one message, some 40 bytes each, so that it stays below what clients accept.
_INTRODUCED_AT_ONCE = 2_000

_FASTEST_HEARTBEAT = 0.1

#: So many commands, of so many bytes together, may wait for one that takes several steps. For more it is done at once.
_WAITING_COMMANDS, _WAITING_BYTES = 64, 1 << 16

#: Says whether these credentials are good.
Authenticate = Callable[[protocol.Auth], bool]


class _Search(NamedTuple):
    """A `subscribe` whose time is looked for."""

    command: protocol.Subscribe
    steps: Steps[Found]


class Session:
    """What the server knows of one client.

    Args:
        hub: where its subscriptions live.
        link: its way out.
        encoding: how it is written to.
        name: for the log.
        feed: only this feed's instruments; None = every feed's.
        authenticate: None = everybody may subscribe.
        max_symbols: how many symbols and globs it may have at a time.
        max_globs: how many of them may be globs, each of which is held against every instrument.
        max_rules: of how many different options they may be, each of which is a subscriber of its own.
    """

    def __init__(
        self,
        hub: Hub,
        link: Link,
        encoding: Encoding,
        name: str,
        feed: str | None = None,
        authenticate: Authenticate | None = None,
        max_symbols: int = 10_000,
        max_globs: int = 100,
        max_rules: int = 100,
    ) -> None:
        self.hub = hub
        self.link = link
        self.encoding = encoding
        self.name = name
        self.feed = feed
        self.authenticated = authenticate is None
        self._authenticate = authenticate
        self._max_symbols = max_symbols
        self._max_globs = max_globs
        self._max_rules = max_rules
        #: (kind, pattern) -> how it is wanted
        self.state: dict[tuple[int, str], Options] = {}
        self.subscribers: list[Subscriber] = []
        self.can_take = True
        #: its ticks tell where it is: it was told nothing else by a `position` message
        self.placed = True
        #: waits to be served by the hub
        self.servable = False
        self._outbox: list[protocol.Message] = []
        # Where ticks name their instrument by its id: by id, whether it was told what that stands for, and those that
        # it is still to be told. Neither grows beyond the directory.
        self._introduced = bytearray()
        self._to_introduce: deque[int] = deque()
        #: seconds between two heartbeats; 0 = none are wanted
        self.heartbeat = 0.0
        #: the first error that it was told
        self.error: protocol.Message | None = None
        #: why it is about to be ended: nothing is told any more, and the hub ends it when nothing else is going on
        self.doomed: CloseCode | None = None
        #: why it was ended by us
        self.ended: CloseCode | None = None
        #: its link may lose ticks: only of throttled symbols, which do not need each one
        self.lossy = False
        #: a `subscribe` that looks for its time, and the commands that came after it, which wait
        self._search: _Search | None = None
        self._waiting: deque[str | bytes] = deque()
        self._closed = False

    # ---- from the client -----------------------------------------------------------------------------------------

    def start(self, version: str, credentials: protocol.Auth | None = None) -> None:
        """The connection is there; ``credentials`` are those of its handshake."""
        self.tell(protocol.connected(self.hub.store.epoch, version))
        if credentials is not None:
            self._answer(lambda: self._auth(credentials))

    def receive(self, data: str | bytes, now: float) -> None:
        """A message came: text is JSON, bytes are msgpack. Whatever it is, it is answered."""
        if self._closed or self.doomed is not None:
            return
        if self._search is None:
            self._command(data, now)
            return
        self._waiting.append(data)
        if len(self._waiting) > _WAITING_COMMANDS or sum(map(len, self._waiting)) > _WAITING_BYTES:
            self.hurry(now)

    @property
    def looking(self) -> bool:
        """Whether a command of it is still looked into."""
        return self._search is not None

    def look_on(self, now: float) -> None:
        """Take one step of what takes several; at its end the commands that wait behind it are carried out."""
        if self._search is not None:
            self._answer(lambda: self._look(now))
        while self._waiting and self._search is None:
            self._command(self._waiting.popleft(), now)

    def hurry(self, now: float) -> None:
        """Carry out at one go whatever other commands wait for."""
        while self._waiting and not self._closed:
            self.look_on(now)

    def _command(self, data: str | bytes, now: float) -> None:
        self._answer(lambda: self._carry_out(protocol.decode_command(data), now))
        # At once: a client that sends on and on does not wait for the hub to run.
        self.end_if_doomed()

    def _carry_out(self, command: protocol.Command, now: float) -> None:
        if isinstance(command, protocol.Auth):
            self._auth(command)
        elif not self.authenticated:
            raise ProtocolError(ErrorCode.NOT_AUTHENTICATED, "not authenticated")
        elif isinstance(command, protocol.Subscribe):
            self._subscribe(command, now)
        else:
            self._unsubscribe(command, now)

    def _answer(self, do: Callable[[], None]) -> None:
        """Do something that the client asked for; whatever comes of it, it is told."""
        try:
            do()
        except ProtocolError as error:
            # A line for the first, so that nobody can fill the log; and as a literal, so that nobody can forge a line.
            log.log(logging.DEBUG if self.error else logging.INFO, "%s: %d %r", self.name, error.code, str(error))
            self.tell(protocol.error(error.code, str(error)))
        except Exception:
            log.exception("%s: a command failed", self.name)
            self.tell(protocol.error(ErrorCode.INTERNAL, "internal error"))

    def _auth(self, command: protocol.Auth) -> None:
        if self._authenticate is None:
            self.tell(protocol.authenticated())
        elif self.authenticated:
            raise ProtocolError(ErrorCode.ALREADY_AUTHENTICATED, "already authenticated")
        elif self._authenticate(command):
            self.authenticated = True
            self.tell(protocol.authenticated())
        else:
            log.warning("%s: auth failed", self.name)
            self.end(CloseCode.AUTH_FAILED, protocol.error(ErrorCode.AUTH_FAILED, "auth failed"))

    def auth_timeout(self) -> None:
        """It had its time to authenticate."""
        if not self.authenticated:
            self.end(CloseCode.AUTH_TIMEOUT, protocol.error(ErrorCode.AUTH_TIMEOUT, "auth timeout"))

    def _subscribe(self, command: protocol.Subscribe, now: float) -> None:
        keys, options = command.patterns(), command.options()
        if command.heartbeat and command.heartbeat < _FASTEST_HEARTBEAT:
            raise ProtocolError(ErrorCode.SYNTAX, f"heartbeat is 0 or at least {_FASTEST_HEARTBEAT} s")
        if options.fields is not None and self.encoding.RECORDS:
            raise ProtocolError(ErrorCode.SYNTAX, f"fields: {self.encoding.NAME} sends whole records, without a choice")
        if command.snapshot and isinstance(command.since, str):
            raise ProtocolError(ErrorCode.SYNTAX, "snapshot and a time as since exclude each other")
        if self.lossy and command.max_hz is None:
            raise ProtocolError(ErrorCode.SYNTAX, "ticks go over an unreliable channel: give max_hz")
        wanted = self.state.keys() | set(keys)
        if len(wanted) > self._max_symbols:
            raise ProtocolError(ErrorCode.SYMBOL_LIMIT, f"symbol limit exceeded: {self._max_symbols} at a time")
        if sum(is_glob(pattern) for _, pattern in wanted) > self._max_globs:
            raise ProtocolError(ErrorCode.SYMBOL_LIMIT, f"glob limit exceeded: {self._max_globs} at a time")
        self._check_rules(set(keys), options)
        if isinstance(command.since, str):
            steps = self.hub.locate(self, keys, options, protocol.parse_time(command.since))
            self._search = _Search(command, steps)
            self._look(now)
        else:
            self._start(command, command.since, now)

    def _look(self, now: float) -> None:
        """One step; where it is the last, the subscription begins."""
        search, self._search = self._search, None
        assert search is not None
        try:
            next(search.steps)
        except StopIteration as end:
            self._start(search.command, end.value, now)
        else:
            self._search = search
            self.hub.look_on(self)

    def _start(self, command: protocol.Subscribe, since: protocol.Position | Found | None, now: float) -> None:
        keys, options = command.patterns(), command.options()
        started = self.hub.subscribe(self, keys, options, command.snapshot, since, now)
        if command.heartbeat is not None:
            self.heartbeat = command.heartbeat
            self.hub.beat(self, now)
        self._tell_state(started.seq, started.recovered)
        if started.gap is not None:
            self.tell(started.gap)
        if self.encoding.RECORDS:
            # The hub gives nobody a tick of these before it runs again.
            wanted_now = Selection(self.feed, {Rule(kind, pattern, True) for kind, pattern in keys})
            self.introduce(i for _, i in wanted_now.resolve(self.hub.directory))

    def _check_rules(self, keys: set[tuple[int, str]], options: Options) -> None:
        """See that there is room for these options: those of whom these keys are all that there is make some."""
        others = {subscriber.options for subscriber in self.subscribers if not subscriber.keys <= keys}
        if len(others | {options}) > self._max_rules:
            raise ProtocolError(
                ErrorCode.SYMBOL_LIMIT, f"rule limit exceeded: {self._max_rules} different options at a time"
            )

    def _unsubscribe(self, command: protocol.Unsubscribe, now: float) -> None:
        gaps = self.hub.unsubscribe(self, command.patterns(), now)
        self._tell_state(self.hub.store.ring.head, None)
        for gap in gaps:
            self.tell(gap)

    def _tell_state(self, seq: int, recovered: bool | None) -> None:
        self.tell(protocol.subscription(self.state, self.hub.store.epoch, seq, recovered, self.heartbeat))

    def position(self) -> int | None:
        """All that it asked for up to here has been given to its link, or told as a gap. None = not to be said now.

        A snapshot that is on its way is of use only as a whole, and a gap that is still to be told must not be lost.
        """
        if self._closed or self.doomed is not None or self._outbox or self.looking:
            return None
        if any(subscriber.until is not None for subscriber in self.subscribers):
            return None
        return self.reached

    @property
    def reached(self) -> int:
        """Everything up to here has been given to it, or told as lost: where the furthest behind is."""
        return min([subscriber.position for subscriber in self.subscribers], default=self.hub.store.ring.head)

    def closed(self) -> None:
        """The connection has gone. May be called twice."""
        self._closed = True
        self._outbox.clear()
        self._waiting.clear()
        self._search = None
        self._to_introduce.clear()
        self.hub.drop(self)

    # ---- to the client -------------------------------------------------------------------------------------------

    def tell(self, message: protocol.Message) -> None:
        """Send a message that is not a tick, now or as soon as the link takes one."""
        if self._closed or self.doomed is not None:
            return
        if message["T"] == "error" and self.error is None:
            self.error = message
        self._outbox.append(message)
        if len(self._outbox) > _OUTBOX_MESSAGES:
            log.warning("%s: does not read its answers", self.name)
            self._outbox.clear()
            self.hub.failed(self, CloseCode.SLOW_CLIENT)
        else:
            self._flush_outbox()

    def introduce(self, ids: Iterable[int]) -> None:
        """Tell what these instruments' ids stand for, each once, before any tick that is sent after this."""
        if self._closed or self.doomed is not None:
            return
        known = self._introduced
        known.extend(bytes(len(self.hub.directory) - len(known)))
        for i in ids:
            if not known[i]:
                known[i] = True
                self._to_introduce.append(i)
        self._flush_outbox()

    def writable(self) -> None:
        """The link takes frames again, after it had said that it does not."""
        if self._closed or self.doomed is not None:
            return
        self.can_take = True
        self._flush_outbox()
        if self.can_take:
            self.hub.writable(self)

    def give(self, frame: bytes) -> Took:
        """Send a frame over the link. One that fails is a defect, but one client's: the others go on."""
        try:
            return self.link.send(frame)
        except Exception:
            log.exception("%s: its link failed", self.name)
            self.hub.failed(self)
            return Took.NOTHING

    def end_if_doomed(self) -> None:
        """Close, if that was put off until nothing else is going on."""
        if self.doomed is not None:
            self.end(self.doomed)

    def end(self, code: CloseCode, message: protocol.Message | None = None) -> None:
        """Tell why, if it can be told, and close."""
        if message is not None:
            self.tell(message)
        self._finish(code, code.name.lower().replace("_", " "))

    def _finish(self, code: CloseCode, reason: str) -> None:
        if not self._closed:
            self.ended = code
            self.closed()
            try:
                self.link.close(code, reason)
            except Exception:
                log.exception("%s: its link could not be closed", self.name)

    def _flush_outbox(self) -> None:
        """Send all that waits. Ticks come behind it: while something waits, the link is full, and takes no tick."""
        while self.can_take and (self._outbox or self._to_introduce):
            # One a frame: a client's limit for a frame must hold for many answers too.
            if self._outbox:
                took = self._send(self._outbox[0])
                if took is not Took.NOTHING:
                    del self._outbox[0]
            else:
                ids = list(islice(self._to_introduce, _INTRODUCED_AT_ONCE))
                took = self._send(protocol.instruments(self.hub.directory, ids, self.encoding.with_feed))
                if took is not Took.NOTHING:
                    for _ in ids:
                        self._to_introduce.popleft()
            if took is not Took.MORE:
                self.hub.stalled(self)

    def _send(self, message: protocol.Message) -> Took:
        encoding = self.encoding
        return self.give(self.link.wrap(encoding.messages([message]), encoding.BINARY_MESSAGES, None))
