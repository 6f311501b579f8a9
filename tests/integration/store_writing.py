"""A store's writer as a process (see store_writer.py)."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.integration.processes import ROOT
from tests.integration.store_writer import pattern

PATTERN = pattern()


class Writer:
    """The writing process."""

    def __init__(self, path: Path, ticks: int, *share: str) -> None:
        command = [sys.executable, "-m", "tests.integration.store_writer", str(path), str(ticks), *share]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def freeze(self) -> None:
        """Let it stand wherever it is."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """End it. Returns the head it came to."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        head = int(self._line())
        assert self._process.wait(10) == 0
        return head

    def kill(self) -> None:
        self._process.kill()  # SIGKILL
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def writing(path: Path, ticks: int, *share: str) -> Iterator[Writer]:
    writer = Writer(path, ticks, *share)
    try:
        yield writer
    finally:
        writer.kill()


def expected(seqs: NDArray[np.int64]) -> NDArray[np.void]:
    """The rows with those sequence numbers."""
    return PATTERN[(seqs - 1) % len(PATTERN)]
