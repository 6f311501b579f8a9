"""Processes of the bench: started on their own CPU, asked what they used, ended by their own pid. Linux only."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_START_S = 20.0
_STOP_S = 5.0


class StartFailed(Exception):
    """A program that does not serve: the message has the last that it said."""


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue  # a thread that has just ended
    return found


def cpu_ns(pid: int) -> int:
    """User and system time of a process with all its threads, and of those that it started.

    From the process's CPU clock, as clock_getcpuclockid(3) names it: /proc/PID/stat has the same in steps of 10 ms.
    """
    return sum(time.clock_gettime_ns(~each << 3 | 2) for each in family(pid))


def waited_ns(pid: int) -> int:
    """How long a process's main thread was ready to run while its CPU ran something else: /proc/PID/schedstat."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])


def memory_bytes(pid: int) -> int:
    """Resident memory, shared pages counted in proportion (PSS), of a process and those that it started."""
    total = 0
    for each in family(pid):
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def raise_file_limit() -> None:
    """As many open files as this user may have; what is started later has them too."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """What is started here stays on this CPU, all its threads too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def server(
    command: Sequence[str], port: int, cpu: int, directory: Path, log: Path, environment: Mapping[str, str]
) -> Iterator[int]:
    """Start a program on a CPU, wait until it serves on its port, give its pid, and end it.

    Raises:
        StartFailed: it ended, or did not listen in time.
    """
    with log.open("wb") as output, pinned(cpu):
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    try:
        _wait_for(process, port, log)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + _START_S
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise StartFailed(f"it ended with status {process.returncode}{last_words(log)}")
        with socket.socket() as sock:
            if not sock.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.02)
    raise StartFailed(f"nothing listens on its port after {_START_S:g} s{last_words(log)}")


def last_words(log: Path) -> str:
    """The last lines that a program said."""
    lines = log.read_text(errors="replace").strip().splitlines()[-5:]
    return ": " + " | ".join(lines) if lines else ""
