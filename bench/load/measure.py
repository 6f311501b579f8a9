"""One program, one workload: start both processes, get one result, end both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.load.client import Order
from bench.load.process import StartFailed, free_port, last_words, pinned, server
from bench.load.programs import ROOT, Job, Program
from bench.load.ticks import Market, play
from bench.load.workloads import Workload

#: A load client that used more of its CPU than this may have been what was measured.
CLIENT_CPU = 0.9
#: Or one that had not yet read what came so long ago.
BEHIND_MS = 50.0
#: Less than this part of what is offered: the server could not.
DELIVERED = 0.97
#: Server or load client waited for its CPU longer than this: the machine is not quiet, the latency is not theirs.
WAITED = 0.05
#: Connecting, subscribing and percentiles take time of their own.
_OVERHEAD_S = 120.0


@dataclass(frozen=True)
class Settings:
    """How long, and where."""

    seconds: float
    warmup_s: float
    verify_s: float
    server_cpu: int
    client_cpu: int


@dataclass
class Result:
    """What one run gave. Without an error ``values`` has what :mod:`bench.load.client` measured, and ``offered``."""

    workload: str
    program: str
    values: dict[str, Any]
    error: str = ""

    @property
    def bottleneck(self) -> bool:
        """The load client, not the server, was at its limit: the run counts for nothing."""
        return bool(self.values.get("client_cpu", 0.0) > CLIENT_CPU or self.values.get("behind_ms", 0.0) > BEHIND_MS)

    @property
    def counts(self) -> bool:
        """Whether the numbers say something about the server."""
        return not self.error and not self.bottleneck

    @property
    def note(self) -> str:
        """What a reader must know beside the numbers."""
        if self.error:
            return self.error
        if self.bottleneck:
            return "load client was the bottleneck: counts for nothing"
        notes = []
        if "delivered" in self.values and self.values["delivered"] < DELIVERED * self.values["offered"]:
            notes.append(f"delivered only {self.values['delivered'] / self.values['offered']:.0%}")
        if self.values.get("waited", 0.0) > WAITED:
            notes.append(f"waited {self.values['waited']:.0%} of the time for a CPU that ran something else")
        return "; ".join(notes)


class Desk:
    """Runs programs one after the other; each workload's market is written once."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self._directory = directory
        self._markets: dict[str, tuple[Market, Path, float]] = {}

    def market(self, workload: Workload) -> tuple[Market, Path, float]:
        """The ticks, the file they are in, and how many updates/s they offer."""
        if workload.name not in self._markets:
            market = play(workload)
            path = self._directory / f"{workload.name}.ticks"
            market.write(path)
            self._markets[workload.name] = market, path, market.offered(workload)
        return self._markets[workload.name]

    def run(self, program: Program, workload: Workload) -> Result:
        """Measure; what goes wrong is in the result."""
        settings = self.settings
        market, ticks, offered = self.market(workload)
        port = free_port()
        job = Job(workload, market, ticks, port, self._directory)
        log = self._directory / "server.log"
        try:
            with server(program.command(job), port, settings.server_cpu, ROOT, log, program.environment) as pid:
                order = Order(
                    port=port,
                    dialect=program.dialect,
                    path=program.path,
                    server_pid=pid,
                    symbols=market.symbols,
                    subscriptions=list(workload.subscriptions()),
                    max_hz=workload.max_hz,
                    verify_s=settings.verify_s,
                    warmup_s=settings.warmup_s,
                    seconds=settings.seconds,
                    # A sample costs as much as a read; at many small reads one of a few will do.
                    sample_every=1 if workload.each is None else 7,
                )
                values = self._client(order)
        except (StartFailed, subprocess.SubprocessError) as error:
            return Result(workload.name, program.name, {}, f"failed: {error}")
        if "error" in values:
            return Result(workload.name, program.name, {}, f"failed: {values['error']}{last_words(log)}")
        return Result(workload.name, program.name, values | {"offered": offered})

    def _client(self, order: Order) -> dict[str, Any]:
        with pinned(self.settings.client_cpu):
            done = subprocess.run(
                [sys.executable, "-m", "bench.load.client"],
                cwd=ROOT,
                input=json.dumps(asdict(order)).encode(),
                capture_output=True,
                timeout=_OVERHEAD_S + order.seconds + order.warmup_s,
                check=False,
            )
        if done.returncode:
            return {"error": "load client: " + done.stderr.decode(errors="replace").strip()[-500:]}
        values: dict[str, Any] = json.loads(done.stdout)
        return values


@contextmanager
def desk(settings: Settings) -> Iterator[Desk]:
    """A desk, and its files for as long as it is open."""
    with TemporaryDirectory(prefix="marketfeed-bench-") as directory:
        yield Desk(settings, Path(directory))


def two_cpus() -> tuple[int, int]:
    """A CPU for the server and another for the load; the same one where there is no other."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[0], cpus[1 if len(cpus) > 1 else 0]
