"""WebRTC data channels (RFC 8831) on aiortc: what a lost packet delays is that packet, not the next quote.

A reliable channel is a session; its label is the address that a WebSocket would have, `/stream` or `/v2/{feed}`, and
what follows a `#` in it tells sessions apart. Messages are those of a WebSocket, cut so that none is longer than every
peer takes. An unreliable channel with the same label carries that session's ticks, and nothing else: each of its
messages fits into one packet and stands on its own. Only what is throttled may go that way. A lost quote is followed
by the next one soon; where none follows, the value is given once more over the reliable channel, about a second later.

::

    POST /webrtc/offer ──> Peer (ICE, DTLS, SCTP) ──channel──> WebRtcLink ──> Gate
                                                  ──channel──> ticks of that link

An offer is answered at once: no candidates follow it, ours is the address at which the client has reached this server.
A client's candidates that are names of multicast DNS are not looked up: its first packet tells where it is.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, Literal

import msgspec
import orjson
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import SessionDescription
from tornado.http1connection import HTTP1Connection
from tornado.web import RequestHandler

from marketfeed.stream import protocol
from marketfeed.stream.codes import CloseCode, ErrorCode
from marketfeed.stream.link import Took
from marketfeed.stream.protocol import Auth, Message
from marketfeed.stream.session import Session
from marketfeed.transports.base import EachLink, Gate
from marketfeed.transports.credentials import credentials
from marketfeed.transports.http import Refused, StreamingHandler, refused
from marketfeed.transports.jsonframe import ALONE, kind, split

log = logging.getLogger("marketfeed.webrtc")
# It tells of each pair of addresses that it tries.
logging.getLogger("aioice").setLevel(logging.WARNING)

#: Bytes of one message that every implementation takes (RFC 8831, 6.6).
_MESSAGE_BYTES = 16_000
#: Bytes of one that fits into a single packet: 1,200 of SCTP in all, as aiortc and browsers have it.
_PACKET_BYTES = 1_100
#: The client is given so long to see an ending.
_CLOSE_SECONDS = 5.0
#: Channels of one peer that wait for the session that they belong to.
_MOST_WAITING = 16
#: Addresses of its own that a client may name.
_MOST_CANDIDATES = 20
_TOO_LONG = 1009


class _Frame(bytes):
    """A payload, which is cut into messages once for all who get it."""

    def __init__(self, payload: bytes) -> None:
        self.ticks = kind(payload) not in ALONE
        self._messages: dict[int, list[str]] = {}

    def messages(self, most: int) -> list[str]:
        if most not in self._messages:
            self._messages[most] = [part.decode() for part in split(self, most)]
        return self._messages[most]


class WebRtcLink(EachLink):
    """One session: its reliable channel, and the unreliable one for its ticks where there is one."""

    def __init__(self, peer: Peer, channel: RTCDataChannel, gate: Gate) -> None:
        self.peer = peer
        self.name = f"{peer.name} {channel.label!r:.80}"
        self.channel = channel
        self.ticks: RTCDataChannel | None = None
        self.session: Session
        self.closing = False
        self._gate = gate
        self._full = False
        #: bytes that wait, and since when they are as many
        self._waiting = (0, 0.0)
        #: up to here a value that did not change any more was given once more; up to there all was given a second ago
        self._settled, self._given = 0, 0

    @staticmethod
    def wrap(payload: bytes, binary: bool, seq: int | None) -> bytes:
        return _Frame(payload)

    def send(self, frame: bytes) -> Took:
        assert isinstance(frame, _Frame)
        channel, most = self.channel, _MESSAGE_BYTES
        if frame.ticks and self.ticks is not None:
            channel, most = self.ticks, _PACKET_BYTES
        if self.closing or channel.readyState != "open":
            return Took.NOTHING
        if channel.bufferedAmount:
            self._full = True
            return Took.NOTHING
        try:
            for message in frame.messages(most):
                channel.send(message)
        except ValueError as error:
            # An answer with thousands of symbols. What it answers has been done.
            log.info("%s: %s", self.name, error)
            channel.send(
                _text(protocol.error(ErrorCode.SYMBOL_LIMIT, "done, but the answer is too long for a message"))
            )
        # It leaves with the loop's next turn; where it does not, the next frame finds it still there.
        return Took.MORE

    def drained(self) -> None:
        """What was sent over a channel has left."""
        if self._full:
            self._full = False
            self._gate.writable(self)

    # ---- from the client -----------------------------------------------------------------------------------------

    def receive(self, data: str | bytes) -> None:
        if self.closing:
            return
        if len(data) > self._gate.limits.message_bytes:
            self.session.closed()
            self.close(_TOO_LONG, "message too big")
            return
        if "since" in str(data) or "snapshot" in str(data):
            # Values that changed long ago may be on their way to it.
            self._settled = 0
        self._gate.receive(self, data)

    def carry(self, channel: RTCDataChannel) -> bool:
        """Have ticks go over this channel; False = they cannot."""
        if self.ticks is not None or any(options.max_hz is None for options in self.session.state.values()):
            return False
        self.ticks = channel
        self.session.lossy = True
        self._settled = self._given = self._gate.position(self) or 0
        channel.on("bufferedamountlow", self.drained)
        channel.on("message", self._not_here)
        channel.on("close", partial(self._lost, channel))
        return True

    def _not_here(self, data: str | bytes) -> None:
        self.session.tell(protocol.error(ErrorCode.SYNTAX, "commands go over the reliable channel"))

    def _lost(self, channel: RTCDataChannel) -> None:
        """From now on all goes over the reliable channel; what the other had may be lost."""
        if self.ticks is channel:
            self._settle(self._gate.position(self) or self._given)
            self.ticks, self.session.lossy = None, False
            self._full = True
            self.drained()

    # ---- its life ------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        channels = [channel for channel in (self.channel, self.ticks) if channel is not None]
        waiting = sum(channel.bufferedAmount for channel in channels)
        if not waiting or waiting != self._waiting[0]:
            self._waiting = (waiting, now)
        elif now - self._waiting[1] > self._gate.limits.write_seconds:
            log.warning("%s: took nothing for %.0f s", self.name, self._gate.limits.write_seconds)
            self.peer.end()
            return
        if self.ticks is not None and (position := self._gate.position(self)) is not None:
            self._settle(self._given)
            self._given = position

    def _settle(self, until: int) -> None:
        """Values that have not changed since then may have been lost, and nothing would follow them."""
        if self.closing or self.channel.readyState != "open" or self.channel.bufferedAmount or until <= self._settled:
            return
        payloads, self._settled = self._gate.hub.settled(self.session, self._settled, until)
        for payload in payloads:
            for message in _Frame(payload).messages(_MESSAGE_BYTES):
                self.channel.send(message)

    def close(self, code: CloseCode | int, reason: str) -> None:
        self.closing = True
        if self.channel.readyState == "open":
            self.channel.send(_text({"code": int(code), "reason": reason}, "close"))
        for channel in (self.ticks, self.channel):
            if channel is not None:
                channel.close()
        self.peer.closing(self)


class Peer:
    """One client's connection: channels come and go on it.

    It ends with the last of its sessions, and where there is none within the time that there is to authenticate.
    """

    def __init__(self, gate: Gate, peers: dict[Peer, None], name: str, given: Auth | None) -> None:
        self.name = name
        self._gate = gate
        self._given = given
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._links: dict[str, WebRtcLink] = {}
        self._waiting: dict[str, RTCDataChannel] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.Task[None] | None = None
        # Without an empty list it would ask a public STUN server for its address.
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connection.on("datachannel", self._opened)
        self._connection.on("connectionstatechange", self._changed)
        peers[self] = None
        self._expect()

    async def answer(self, offer: str, hosts: list[str]) -> str:
        """The answer to an offer; both are SDP.

        Args:
            hosts: the IP addresses at which the client may reach this server.
        """
        connection = self._connection
        await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        assert connection.sctp is not None
        # By itself it would listen at every address that this machine has, but for loopback.
        gathering = connection.sctp.transport.transport.iceGatherer._connection
        gather = gathering.get_component_candidates
        gathering.get_component_candidates = lambda component, addresses, timeout=5: gather(component, hosts, timeout)  # type: ignore[method-assign]  # it takes no addresses from outside
        answer = await connection.createAnswer()
        await connection.setLocalDescription(answer)
        return connection.localDescription.sdp

    def _changed(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            self.end()

    # ---- channels ------------------------------------------------------------------------------------------------

    def _opened(self, channel: RTCDataChannel) -> None:
        if channel.maxRetransmits is not None or channel.maxPacketLifeTime is not None:
            self._opened_unreliable(channel)
            return
        path = channel.label.partition("#")[0]
        feed = path.removeprefix("/v2/") if path.startswith("/v2/") else None
        if feed is None and path != "/stream":
            _refuse(channel, "the label of a channel is /stream or /v2/{feed}")
        elif feed is not None and not self._gate.has_feed(feed):
            _refuse(channel, f"no feed {feed[:120]!r}")
        elif channel.protocol not in ("", "marketfeed.json"):
            _refuse(channel, "the protocol of a channel is marketfeed.json")
        elif channel.label in self._links:
            _refuse(channel, "there is a channel of this label: tell them apart by what follows a #")
        else:
            self._admit(channel, feed)

    def _opened_unreliable(self, channel: RTCDataChannel) -> None:
        link = self._links.get(channel.label)
        if link is not None:
            if not link.carry(channel):
                _refuse(channel, "there is one, or the session has symbols without max_hz")
        elif len(self._waiting) < _MOST_WAITING and channel.label not in self._waiting:
            self._waiting[channel.label] = channel
            channel.on("close", lambda: self._waiting.pop(channel.label, None))
        else:
            _refuse(channel, "too many unreliable channels without a reliable one")

    def _admit(self, channel: RTCDataChannel, feed: str | None) -> None:
        link = WebRtcLink(self, channel, self._gate)
        self._links[channel.label] = link
        self._stop_expecting()
        channel.on("close", partial(self._closed, link))
        channel.on("message", link.receive)
        channel.on("bufferedamountlow", link.drained)
        link.session = self._gate.admit(link, link.name, "json", feed, self._given)
        waiting = self._waiting.pop(channel.label, None)
        if waiting is not None and waiting.readyState == "open":
            link.carry(waiting)
        self._gate.wake()

    def _closed(self, link: WebRtcLink) -> None:
        if self._links.get(link.channel.label) is not link:
            return
        del self._links[link.channel.label]
        if link.ticks is not None:
            # Not now: the library may be closing all of them, one after the other.
            self._loop.call_soon(link.ticks.close)
        if self._links or self._end is not None:
            self._gate.left(link)
        elif link.closing:
            # Who waits for it to be gone waits until the client has been told.
            self.end(link)
        else:
            self._gate.left(link)
            self._expect()

    # ---- its end -------------------------------------------------------------------------------------------------

    def _expect(self) -> None:
        """A session has to come soon."""
        self._stop_expecting()
        self._timer = self._loop.call_later(self._gate.limits.auth_seconds, self.end)

    def _stop_expecting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def closing(self, link: WebRtcLink) -> None:
        """Its channels are closing; should that take long, it is not waited for."""
        self._loop.call_later(_CLOSE_SECONDS, self._closed, link)

    def end(self, *leaving: WebRtcLink) -> None:
        """Close it, and with it all sessions."""
        self._stop_expecting()
        if self._end is None:
            self._end = self._loop.create_task(self._ended(leaving))

    async def _ended(self, leaving: tuple[WebRtcLink, ...]) -> None:
        try:
            await self._connection.close()
        finally:
            self._peers.pop(self, None)
            for link in [*leaving, *self._links.values()]:
                self._gate.left(link)
            self._links.clear()

    @property
    def idle(self) -> bool:
        """Whether it has no session."""
        return not self._links


class _Offer(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request: an `RTCSessionDescription` as a browser writes it, and who asks."""

    sdp: str
    type: Literal["offer"]
    auth: Auth | None = None


class OfferHandler(StreamingHandler):
    """`POST /webrtc/offer`: a connection is asked for."""

    def initialize(self, gate: Gate, peers: dict[Peer, None]) -> None:  # type: ignore[override]  # one more
        super().initialize(gate)
        self._peers = peers

    async def post(self) -> None:
        try:
            offer = msgspec.json.decode(self.request.body, type=_Offer)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise refused(str(error)) from None
        given = offer.auth or credentials(self.request)
        refusal = self.gate.refusal(given)
        if refusal is None and len(self._peers) >= self.gate.limits.peers:
            refusal = protocol.error(ErrorCode.CONNECTION_LIMIT, "connection limit exceeded")
        if refusal is not None:
            raise Refused(refusal)
        sdp = _acceptable(offer.sdp)
        peer = Peer(self.gate, self._peers, f"webrtc {self.request.remote_ip}", given)
        try:
            answer = await peer.answer(sdp, self._hosts())
        except Exception as problem:  # noqa: BLE001  # whatever a library finds that reads what a stranger wrote
            peer.end()
            log.info("%s: %r", peer.name, problem)
            raise refused(f"this offer cannot be answered: {problem}"[:200]) from None
        self.finish(orjson.dumps({"type": "answer", "sdp": answer}))

    def _hosts(self) -> list[str]:
        """By default the address at which this request came in."""
        hosts: list[str] = list(self.settings.get("webrtc_hosts", []))
        if not hosts:
            assert isinstance(self.request.connection, HTTP1Connection)
            host = self.request.connection.stream.socket.getsockname()[0]
            hosts = [host.removeprefix("::ffff:")]  # an IPv4 client of a socket that takes both
        return hosts


def _acceptable(sdp: str) -> str:
    """An offer of data channels and nothing else, without the candidates that are of no use.

    Raises:
        Refused: it is not.
    """
    lines = [line for line in sdp.splitlines() if line.strip() != "a=end-of-candidates"]
    candidates = [line for line in lines if line.startswith("a=candidate:")]
    unused = {line for line in candidates if ".local " in line} | set(candidates[_MOST_CANDIDATES:])
    # A client whose candidates are all left out is heard all the same, for the end of them is not told.
    sdp = "\r\n".join(line for line in lines if line not in unused) + "\r\n"
    try:
        media = SessionDescription.parse(sdp).media
    except Exception as problem:  # noqa: BLE001  # as above
        raise refused(f"sdp: {problem!r}"[:200]) from None
    if [part.kind for part in media] != ["application"]:
        raise refused("sdp: an offer of one data channel connection (m=application), and of nothing else, is answered")
    ice, dtls = media[0].ice, media[0].dtls
    if ice is None or dtls is None or not (ice.usernameFragment and ice.password and dtls.fingerprints):
        raise refused("sdp: an offer has ice-ufrag, ice-pwd and fingerprint")
    return sdp


def _text(message: Message, key: str | None = None) -> str:
    return orjson.dumps([message] if key is None else {key: message}).decode()


def _refuse(channel: RTCDataChannel, text: str) -> None:
    channel.send(_text(protocol.error(ErrorCode.SYNTAX, text)))
    channel.close()


def routes(gate: Gate) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """What this transport serves."""
    peers: dict[Peer, None] = {}

    def close() -> None:
        for peer in list(peers):
            if peer.idle:
                peer.end()

    gate.at_close.append(close)
    return [(r"/webrtc/offer", OfferHandler, {"gate": gate, "peers": peers})]
