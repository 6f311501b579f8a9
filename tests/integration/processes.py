"""Real servers as processes, and a proxy that cuts connections."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tests.integration.nursery import ROOT, Process

#: With these options a server whose clients want no bars numbers nothing but its feeds' ticks.
TICKS_ONLY = ("--minute-bars", "wanted")
#: Transports that take a server half a second to load: a test's server has those that the test names.
_SLOW = ("socketio", "webrtc")
#: Seconds that a server is given to go in good order.
_END_S = 0.5
#: Seconds that anything may take before a test is given up.
BOUND = 30.0


class Fake:
    """A running fake server (see fake_server.py)."""

    def __init__(self, process: Process, port: int) -> None:
        self._process = process
        self.url = f"ws://127.0.0.1:{port}/stream"

    def command(self) -> tuple[int, dict[str, Any]]:
        """The next command it got, and on which connection. The test's own timeout is the bound."""
        assert self._process.stdout is not None
        number, command = json.loads(self._process.stdout.readline())
        return number, command


@contextlib.contextmanager
def process(module: str, *arguments: str, **options: Any) -> Iterator[Process]:
    """A module of this project as a process, whose warnings are errors; it is killed in the end."""
    running = Process(module, arguments, **options)
    try:
        yield running
    finally:
        running.close()


@contextlib.contextmanager
def python(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """An interpreter of its own, for a script that must be the first to load something; it is killed in the end."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    running = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment, **options
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `marketfeed` says with these arguments, when it has come to its end."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with process("marketfeed", *arguments, stdout=out, stderr=err, env={**os.environ, **environment}) as running:
            status = running.wait(3 * BOUND)
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, status, out.read(), err.read())


@contextlib.contextmanager
def fake(*connections: list[list[Any]]) -> Iterator[Fake]:
    """A fake server that plays one script a connection."""
    with process("tests.integration.fake_server", json.dumps(connections)) as running:
        assert running.stdout is not None
        yield Fake(running, int(running.stdout.readline()))


def without(*transports: str) -> list[str]:
    """The transports that a server need not load for a test of these."""
    return [each for each in _SLOW if each not in transports]


def serve(*transports: str) -> list[str]:
    """The arguments of a process that serves; of the transports that take long to load only these."""
    return ["marketfeed", "serve", *(word for each in without(*transports) for word in ("--without", each))]


@contextlib.contextmanager
def server(*arguments: str, at: str = "0", transports: Collection[str] = ()) -> Iterator[str]:
    """A real server, on a free port by default; gives its http address. It may not fail when it is asked to go."""
    with process(*serve(*transports), "--port", at, "--log-level", "warning", *arguments) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line.startswith("marketfeed on "), line
        yield line.split()[-1]
        running.terminate()
        # One that waits for who is gone without a word takes longer, and is killed.
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert running.wait(_END_S) == 0


def stream_of(address: str) -> str:
    """The WebSocket address of every feed of a server."""
    return address.replace("http", "ws", 1) + "/stream"


def status(address: str) -> dict[str, Any]:
    """What the server says of itself."""
    with urllib.request.urlopen(f"{address}/api/status", timeout=BOUND) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


def certificate(directory: Path) -> tuple[Path, Path]:
    """A new certificate for 127.0.0.1 and its key, as PEM files in that directory."""
    key, made = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", made,
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


class Proxy:
    """Passes bytes on between clients and a server, and cuts them off when told.

    Args:
        port: of the server.
        at: where to listen, by default on a free port.
    """

    def __init__(self, port: int, at: int = 0) -> None:
        self._port = port
        self._at = at
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.connections = 0
        #: after so many bytes from the server everything is cut, again and again until there are none left
        self.cuts: list[int] = []
        #: cleared, nothing passes any more, and nobody is told
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self._at)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/stream"
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.flowing.set()
        # One that was accepted just before is a task some turns of the loop later.
        for _ in range(4):
            await asyncio.sleep(0)
        while self._tasks:
            self.cut()
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    async def busy(self) -> None:
        """Wait until there is something that could be cut."""
        async with asyncio.timeout(BOUND):
            while not self._writers:
                await asyncio.sleep(0.001)

    def cut(self) -> None:
        """Break every connection, without a word."""
        for writer in self._writers:
            writer.transport.abort()

    async def cut_and_back(self) -> None:
        """Break every connection, and wait until there is another: else the next cut may find nothing to break."""
        before = self.connections
        self.cut()
        async with asyncio.timeout(BOUND):
            while self.connections == before:
                await asyncio.sleep(0.001)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        # From here on a cut breaks it, also while there is no far side yet.
        both = {writer}
        self._writers |= both
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            both.add(far_writer)
            self._writers.add(far_writer)
            if writer.transport.is_closing():
                return
            await asyncio.gather(self._copy(reader, far_writer, writer), self._copy(far_reader, writer, None))
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()
            self._tasks.discard(task)

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter | None
    ) -> None:
        """Pass on what one side says; ``back`` is the way to who says it, if that is a client."""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                await self.flowing.wait()
                if back is not None and not self._passes(data, back):
                    continue
                if back is None and self.cuts:
                    self.cuts[0] -= len(data)
                    if self.cuts[0] < 0:
                        # The last of it comes, but for what is behind the cut.
                        writer.write(data[: self.cuts.pop(0)])
                        await writer.drain()
                        self.cut()
                        return
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def _passes(self, data: bytes, back: asyncio.StreamWriter) -> bool:
        """Whether the server gets this of a client."""
        return True


class Wall(Proxy):
    """A network that lets less through than HTTP promises.

    Args:
        upgrades: WebSockets pass; else they are refused.
        streams: event streams pass; else they are held back, as by a proxy that waits for their end.
    """

    def __init__(self, port: int, upgrades: bool = True, streams: bool = True) -> None:
        super().__init__(port)
        self.upgrades = upgrades
        self.streams = streams

    def _passes(self, data: bytes, back: asyncio.StreamWriter) -> bool:
        if not self.upgrades and b"\r\nupgrade: websocket\r\n" in data.lower():
            back.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        return self.streams or not data.startswith(b"GET /sse")
