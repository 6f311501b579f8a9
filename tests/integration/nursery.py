"""Processes that run a Python module, there at once: a process that has loaded what servers load forks them.

::

    test ──arguments, descriptors──> nursery ──fork──> keeper ──fork──> the module, as `python -m` runs it
      └────────────<──pid, exit status──────────────────┘

A test's server is a process like any other, but for the half second of two cores that Python and its imports take.
What Python reads of the environment when it starts (PYTHON..., TZ) is the nursery's.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]

#: What takes long to load. Its threads are native, and are there again after a fork, or not missed.
_LOADED = (
    "marketfeed.cli",
    "marketfeed.server.run",
    "marketfeed.client",
    "feeds.sim",
    "feeds.replay",
    "marketfeed.transports.socketio",
    "marketfeed.transports.webrtc",
    "pyarrow.parquet",
    "rich.live",
    "uvloop",
)
_NUMBER = struct.Struct("i")


class Process:
    """A forked module, used as :class:`subprocess.Popen` is.

    Args:
        module: its name.
        arguments: what follows in `sys.argv`.
        stdin, stdout, stderr: files, PIPE, or DEVNULL.
        env: all of its environment.
    """

    def __init__(
        self,
        module: str,
        arguments: tuple[str, ...],
        *,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.PIPE,
        stderr: int | IO[Any] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.returncode: int | None = None
        with contextlib.ExitStack() as given:

            def side(wanted: int | IO[Any] | None, mode: str, inherited: int) -> tuple[int, IO[str] | None]:
                """Its descriptor, and our end of the pipe."""
                if wanted == subprocess.PIPE:
                    reading, writing = os.pipe()
                    theirs, ours = (reading, writing) if mode == "w" else (writing, reading)
                    given.callback(os.close, theirs)
                    return theirs, open(ours, mode)
                if wanted == subprocess.DEVNULL:
                    return given.enter_context(open(os.devnull, "r+")).fileno(), None
                return inherited if wanted is None else wanted if isinstance(wanted, int) else wanted.fileno(), None

            read, self.stdin = side(stdin, "w", 0)
            written, self.stdout = side(stdout, "r", 1)
            complained, self.stderr = side(stderr, "r", 2)
            self._keeper, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            given.enter_context(theirs)
            request = json.dumps([module, arguments, dict(os.environ if env is None else env)]).encode()
            socket.send_fds(_nursery(), [request], [theirs.fileno(), read, written, complained])
        self.pid = self._told()

    def _told(self) -> int:
        told = self._keeper.recv(_NUMBER.size)
        if not told:
            raise RuntimeError("the nursery, or this process's keeper, has ended; why stands on its standard error")
        number: int = _NUMBER.unpack(told)[0]
        return number

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        if self.returncode is None:
            self._keeper.settimeout(timeout)
            try:
                self.returncode = self._told()
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0) from None
        return self.returncode

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Does nothing where it has ended: its number is kept for it until it is let go of."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill it, and let go of what was held for it."""
        self.kill()
        self.wait()
        for pipe in (self.stdin, self.stdout, self.stderr, self._keeper):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # the last of what was written for it
                    pipe.close()


@functools.cache
def _nursery() -> socket.socket:
    """The way to this process's nursery, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        running = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", __name__, str(theirs.fileno())],
            # How its standard output is buffered, here is decided for all.
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )  # fmt: skip

    def end() -> None:
        ours.close()
        running.wait()

    atexit.register(end)
    return ours


# ---- in the nursery


def _become(module: str, arguments: list[str], environment: dict[str, str], descriptors: list[int]) -> None:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _keep(pid: int, teller: socket.socket) -> NoReturn:
    """Tell of a child's begin and its end, and keep its number for it until nobody asks any more."""
    with contextlib.suppress(BrokenPipeError):
        teller.send(_NUMBER.pack(pid))
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        teller.send(_NUMBER.pack(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status))
        teller.recv(1)
    os._exit(0)


def _main(channel: socket.socket) -> None:
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and they end this
    for name in _LOADED:
        importlib.import_module(name)
    gc.freeze()  # what is shared stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    with channel:
        while True:
            request, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 4)
            if not request:
                return
            if os.fork() == 0:
                break
            for descriptor in descriptors:
                os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    teller = socket.socket(fileno=descriptors[0])
    if pid := os.fork():
        for descriptor in descriptors[1:]:
            os.close(descriptor)
        _keep(pid, teller)
    teller.close()
    signal.signal(signal.SIGINT, interrupted)
    _become(*json.loads(request), descriptors[1:])


if __name__ == "__main__":
    _main(socket.socket(fileno=int(sys.argv[1])))
