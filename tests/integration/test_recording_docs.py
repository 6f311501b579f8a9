"""The examples of docs/recording.md, run as they stand there, in an order in which each finds what it needs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.processes import BOUND, ROOT, cli, process, server, status, stream_of
from tests.integration.test_record import files, serving, until

DOC = (ROOT / "docs" / "recording.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", DOC, re.DOTALL)
    for line in block.splitlines()
]
SCRIPTS = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)


def starting(*words: str) -> list[list[str]]:
    """The commands that begin so, without the program's name."""
    return [command[1:] for command in COMMANDS if command[1 : 1 + len(words)] == list(words)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a recording of two feeds in `ticks`, as the examples want it, and a file to convert."""
    path = tmp_path_factory.mktemp("docs")
    rows = "".join(f"2013-10-07T13:{number // 60:02d}:{number % 60:02d}Z,AIG,{number}\n" for number in range(3_600))
    (path / "aig.csv").write_text("time,symbol,price\n" + rows)
    return path


def in_folder(folder: Path, *arguments: str) -> list[str]:
    """The same command, with its relative paths in this folder."""
    return [re.sub(r"(?<![\w/])(ticks|aig)(?=$|[/?])", rf"{folder}/\1", argument) for argument in arguments]


def test_every_command_of_the_document_is_one_that_is_run_here() -> None:
    assert all(command[0] == "marketfeed" for command in COMMANDS)
    counts = [len(starting(*words)) for words in (("record",), ("serve",), ("replay-control",))]
    assert counts == [3, 3, 5]
    assert sum(counts) == len(COMMANDS)


def test_recording_a_feed_and_reading_it(folder: Path) -> None:
    feeds = in_folder(folder, *starting("record", "--feed")[0])
    with process("marketfeed", *feeds) as running:
        until(lambda: list((folder / "ticks").glob(".*.journal")))
        until(lambda: next((folder / "ticks").glob(".*.journal")).stat().st_size > 50_000)
        running.send_signal(signal.SIGINT)
        assert running.wait(BOUND) == 0
    done = subprocess.run(
        [sys.executable, "-c", SCRIPTS[0]], cwd=folder, capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "SIM-" in done.stdout


def test_recording_a_server(folder: Path) -> None:
    (command,) = [command for command in starting("record") if command[1].startswith("ws:")]
    target = folder / "of_server"
    with server() as address:
        words = [word.replace("ws://127.0.0.1:8000/stream", stream_of(address)) for word in command[:-1]]
        with process("marketfeed", *words, str(target)) as running:
            until(lambda: target.exists() and list(target.glob(".*.journal")))
            running.send_signal(signal.SIGINT)
            assert running.wait(BOUND) == 0
    assert len(files(target)) == 1


def test_converting_a_recording(folder: Path) -> None:
    (command,) = [command for command in starting("record") if "aig_quote.zip" in command[2]]
    (folder / "ticks").mkdir(exist_ok=True)
    shutil.copy(folder / "aig.csv", folder / "ticks" / "aig_quote.zip")  # its content tells the format
    done = cli(*in_folder(folder, *command))
    (folder / "ticks" / "aig_quote.zip").unlink()
    assert done.returncode == 0, done.stderr
    assert "recorded 3,600 ticks in 1 file" in done.stdout


def test_serving_a_recording_and_its_replays(tmp_path: Path) -> None:
    recording, replaying, both = (in_folder(tmp_path, *command[1:]) for command in starting("serve"))
    with serving(*recording, "--feed", "a=sim?symbols=5&rate=500", "--feed", "b=sim?symbols=5&rate=500") as (
        running,
        address,
    ):
        until(lambda: status(address)["recording"]["rows"])
        running.terminate()
        assert running.wait(BOUND) == 0
    with server(*both) as address:
        # The example's start lies before this recording: so it begins at once.
        until(lambda: all(feed["ticks"] for feed in status(address)["feeds"].values()))
    with process("marketfeed", "serve", "--port", "0", *replaying, stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        errors = running.stderr.read()
    # Both have the same symbols.
    assert "say feed=" in errors


def test_controlling_a_replay(folder: Path) -> None:
    with server("--feed", f"replay:{folder / 'aig.csv'}") as address:
        told = []
        for command in starting("replay-control"):
            words = [word.replace("http://127.0.0.1:8000", address) for word in command]
            done = cli(*words)
            assert done.returncode == 0, done.stderr
            told.append(json.loads(done.stdout))
        assert [answer["state"] for answer in told[:4]] == ["playing", "paused", "paused", "paused"]
        assert told[2]["time"] == "2013-10-07T13:30:00.000000000Z"
        assert told[3]["speed"] == 60
        until(lambda: status(address)["feeds"]["replay"]["progress"]["ticks"] > 60)
