"""``python -m bench.deflate``: what compression costs and saves with many subscribers that want the same."""

from __future__ import annotations

import selectors
import socket
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich import box
from rich.console import Console
from rich.table import Table
from websockets.sync.client import connect

from bench.load import wire
from bench.load.measure import two_cpus
from bench.load.process import cpu_ns, free_port, memory_bytes, pinned, server
from bench.load.programs import ROOT
from bench.load.report import machine

SUBSCRIBERS = 100
_OFFER = b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
#: Name, module to run, value of the setting.
PROGRAMS = (
    ("none", "marketfeed", "off"),
    ("shared", "marketfeed", "deflate"),
    ("per connection", "bench.peers.deflate_each", "deflate"),
)


@dataclass
class Measured:
    """One program at one rate, over the window."""

    #: updates that reached all subscribers together, per second
    updates: float
    #: us of server CPU an update
    cpu: float
    #: bytes an update, frame headers included
    octets: float
    #: of the server's CPU
    busy: float
    #: MiB, all of the server
    memory: float
    #: the load's CPU
    load: float


class Readers:
    """All subscribers but one: they count bytes and look at nothing."""

    def __init__(self) -> None:
        self.octets = 0
        self._selector = selectors.DefaultSelector()
        self._done = False

    def subscribe(self, port: int, command: bytes) -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        request, _ = wire.upgrade("127.0.0.1", "/v2/sim")
        sock.sendall(request.replace(b"\r\n\r\n", _OFFER + b"\r\n"))
        sock.sendall(command)
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ)

    def run(self) -> None:
        buffer = bytearray(1 << 20)
        while not self._done:
            for key, _ in self._selector.select(0.1):
                self.octets += key.fileobj.recv_into(buffer)

    def close(self) -> None:
        self._done = True
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()


def measure(module: str, compression: str, rate: int, seconds: float, directory: Path) -> Measured:
    """Start the program, have all subscribe, and look at the window.

    One subscriber is a library's client, which inflates and is told when the server does not do it right; what
    it counts is what each of the others is given too.
    """
    server_cpu, client_cpu = two_cpus()
    port = free_port()
    arguments = [module, "serve", "--port", str(port), "--compression", compression, "--log-level", "warning"]
    arguments += ["--feed", f"sim?symbols=100&rate={rate}&seed=5"]
    command = wire.frame(wire.TEXT, b'{"action":"subscribe","quotes":["*"],"trades":["*"]}')
    with ExitStack() as stack:
        enter = stack.enter_context
        pid = enter(server([sys.executable, "-m", *arguments], port, server_cpu, ROOT, directory / "log", {}))
        enter(pinned(client_cpu))
        readers = Readers()
        for _ in range(SUBSCRIBERS - 1):
            readers.subscribe(port, command)
        reading = threading.Thread(target=readers.run)
        reading.start()
        stack.callback(readers.close)
        stack.callback(reading.join)
        stack.callback(setattr, readers, "_done", True)
        client = enter(connect(f"ws://127.0.0.1:{port}/v2/sim", max_size=None, compression="deflate"))
        client.send('{"action":"subscribe","quotes":["*"],"trades":["*"]}')

        def count(until: float) -> int:
            updates = 0
            while time.monotonic() < until:
                updates += client.recv(timeout=10).count('"t":"')
            return updates

        count(time.monotonic() + 1.0)
        begun, cpu, octets, load = time.monotonic(), cpu_ns(pid), readers.octets, time.process_time()
        updates = count(begun + seconds) * SUBSCRIBERS
        took = time.monotonic() - begun
        cpu, octets, load = cpu_ns(pid) - cpu, readers.octets - octets, time.process_time() - load
        return Measured(
            updates=updates / took,
            cpu=cpu / 1000 / updates,
            octets=octets / (updates * (SUBSCRIBERS - 1) / SUBSCRIBERS),
            busy=cpu / 1e9 / took,
            memory=memory_bytes(pid) / (1 << 20),
            load=load / took,
        )


@click.command()
@click.option("--rate", "rates", type=int, multiple=True, default=(500, 10_000), show_default=True, help="Ticks/s.")
@click.option("--seconds", type=float, default=5.0, show_default=True, help="The window.")
def main(rates: tuple[int, ...], seconds: float) -> None:
    """Shared compression beside none, and beside one compressor a connection: 100 subscribers of all of 100 symbols."""
    console = Console()
    with TemporaryDirectory(prefix="marketfeed-bench-") as directory:
        for rate in rates:
            table = Table("compression", box=box.SIMPLE_HEAD, pad_edge=False, title=f"{rate:,} ticks/s")
            for heading in ("CPU us", "bytes", "updates/s", "CPU", "MiB", "load CPU"):
                table.add_column(heading, justify="right")
            for name, module, compression in PROGRAMS:
                got = measure(module, compression, rate, seconds, Path(directory))
                table.add_row(
                    name,
                    f"{got.cpu:.3f}",
                    f"{got.octets:.1f}",
                    f"{got.updates:,.0f}",
                    f"{got.busy:.0%}",
                    f"{got.memory:.0f}",
                    f"{got.load:.0%}",
                )
            console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in machine().items()), highlight=False)


if __name__ == "__main__":
    main()
