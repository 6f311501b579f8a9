"""`marketfeed tail` as a user runs it: in a pipe, and on a terminal."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.clients import HELLO, free_port, reply
from tests.integration.nursery import Process
from tests.integration.processes import BOUND, ROOT, TICKS_ONLY, cli, fake, process, server, stream_of


def tail(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return cli("tail", *arguments, **environment)


def test_a_pipe_gets_one_message_a_line_with_the_keys_of_the_wire() -> None:
    with server("--feed", "sim?symbols=20&rate=2000") as address:
        done = tail(stream_of(address), "--quotes", "SIM-000*,SIM-0010", "--max-hz", "10", "--count", "50")
    assert (done.returncode, done.stderr) == (0, "")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(messages) == 50
    assert {message["T"] for message in messages} == {"q"}
    assert set(messages[0]) == {"T", "S", "bp", "bs", "ap", "as", "t", "seq", "f"}
    assert {message["S"] for message in messages} <= {*(f"SIM-{i:04d}" for i in range(11))}


def test_without_symbols_it_takes_all_quotes_and_trades() -> None:
    with server(*TICKS_ONLY, "--feed", "sim?symbols=20&rate=2000") as address:
        done = tail(stream_of(address), "--count", "500", "--since", "0")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert [message["seq"] for message in messages] == list(range(1, 501))
    assert {message["T"] for message in messages} == {"q", "t"}


def test_a_message_is_there_as_soon_as_it_came() -> None:
    script = [HELLO, ["expect"], reply(0), ["quotes", "A", 1, 1]]
    with fake(script) as there, process("marketfeed", "tail", there.url) as running:
        assert running.stdout is not None
        assert json.loads(running.stdout.readline())["seq"] == 1
        running.send_signal(signal.SIGINT)
        assert running.wait(BOUND) == 130


def test_gaps_are_lines_too_and_do_not_count_as_ticks() -> None:
    gap = {"T": "gap", "from": 1, "to": 9, "reason": "lapped"}
    with fake([HELLO, ["expect"], reply(0), ["send", gap], ["quotes", "A", 10, 20]]) as there:
        done = tail(there.url, "--quotes", "A", "--count", "2")
    assert next(json.loads(line) for line in done.stdout.splitlines()) == gap
    assert [json.loads(line)["seq"] for line in done.stdout.splitlines()[1:]] == [10, 11]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], {"quotes": ["*"], "trades": ["*"], "snapshot": True}),
        (["--quotes", "A, B", "--quotes", "C"], {"quotes": ["A", "B", "C"], "snapshot": True}),
        (["--trades", "A", "--no-snapshot", "--max-hz", "2"], {"trades": ["A"], "max_hz": 2.0}),
        (["--trades", "A", "--since", "0"], {"trades": ["A"], "since": {"seq": 0}}),
        (
            ["--trades", "A", "--where", "size > 1", "--snapshot"],
            {"trades": ["A"], "where": "size > 1", "snapshot": True},
        ),
        (["--trades", "A", "--no-snapshot", "--heartbeat", "60"], {"trades": ["A"], "heartbeat": 60.0}),
        (["--trades", "A", "--since", "5:77"], {"trades": ["A"], "since": {"seq": 77, "epoch": 5}}),
        (["--trades", "A", "--since", "2024-01-01T00:00:00Z"], {"trades": ["A"], "since": "2024-01-01T00:00:00Z"}),
    ],
)
def test_options_become_the_command(arguments: list[str], command: dict[str, Any]) -> None:
    with fake([HELLO, ["expect"], reply(0), ["quotes", "A", 1, 1]]) as there:
        assert tail(there.url, "--count", "1", *arguments).returncode == 0
        assert there.command() == (0, {"action": "subscribe", **command})


def test_keys_come_from_options_or_the_environment() -> None:
    with server("--feed", "sim?symbols=5&rate=500", "--key", "me:mine") as address:
        url = stream_of(address)
        assert tail(url, "--count", "1", "--key", "me", "--secret", "mine").returncode == 0
        assert tail(url, "--count", "1", MARKETFEED_KEY="me", MARKETFEED_SECRET="mine").returncode == 0
        for wrong in (["--key", "me", "--secret", "guess"], []):
            done = tail(url, "--count", "1", *wrong)
            assert done.returncode == 1
            assert done.stdout == ""
            assert re.fullmatch(r"Error: .*auth.* \(40[12]\)\n", done.stderr)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ws://127.0.0.1:{port}/stream", "cannot connect to ws://127.0.0.1:{port}/stream: Connection refused"),
        ("http://localhost", "not a WebSocket address: 'http://localhost'; it looks like ws://127.0.0.1:8000/stream"),
    ],
)
def test_a_server_that_is_not_there_is_one_clear_line(url: str, words: str) -> None:
    port = free_port()
    done = tail(url.format(port=port))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {words.format(port=port)}\n")


@pytest.mark.parametrize("options", [["--snapshot", "--since", "0"], ["--max-hz", "-1"], ["--heartbeat", "-1"]])
def test_options_that_make_no_sense_are_one_clear_line(options: list[str]) -> None:
    with fake([HELLO]) as there:
        done = tail(there.url, *options)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_condition_filters_and_one_that_is_none_is_one_clear_line_that_points_at_it() -> None:
    with server("--feed", "sim?symbols=20&rate=5000") as address:
        url = stream_of(address)
        done = tail(
            url, "--quotes", "*", "--where", "spread_bps < 5 and ask_size > 500", "--since", "0", "--count", "200"
        )
        wrong = tail(url, "--quotes", "*", "--where", "bid > foo")
    quotes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(quotes) == 200
    for quote in quotes:
        assert 10_000 * (quote["ap"] - quote["bp"]) < 5 * (quote["ap"] + quote["bp"]) / 2
        assert quote["as"] > 500
    assert quotes[-1]["seq"] > 400, "it kept nearly all, so that this shows nothing"
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == "Error: where: unknown column 'foo' at character 6: bid > →foo (400)\n"


def test_heartbeats_are_lines_too_and_do_not_count_as_ticks() -> None:
    with server("--feed", "sim?symbols=5&rate=5") as address:
        done = tail(stream_of(address), "--quotes", "*", "--heartbeat", "0.1", "--count", "6")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    heartbeats = [message for message in messages if message["T"] == "heartbeat"]
    assert len(messages) - len(heartbeats) == 6
    assert heartbeats
    assert all(set(heartbeat) == {"T", "epoch", "seq", "t"} for heartbeat in heartbeats)


def test_a_server_that_refuses_the_command_is_one_clear_line() -> None:
    no = ["send", {"T": "error", "code": 405, "msg": "symbol limit exceeded"}]
    with fake([HELLO, ["expect"], no]) as there:
        done = tail(there.url)
    assert (done.returncode, done.stderr) == (1, "Error: symbol limit exceeded (405)\n")


def test_a_cut_is_told_on_stderr_and_the_lines_go_on() -> None:
    first = [HELLO, ["expect"], reply(0), ["quotes", "A", 1, 2], ["cut"]]
    second = [HELLO, ["expect"], reply(2), ["quotes", "A", 3, 4]]
    with fake(first, second) as there:
        done = tail(there.url, "--count", "4")
    assert [json.loads(line)["seq"] for line in done.stdout.splitlines()] == [1, 2, 3, 4]
    lost, again = done.stderr.splitlines()
    assert re.fullmatch(r"the connection broke; connecting again in \d\.\d s", lost)
    assert again == "connected again"


def test_a_reader_that_has_seen_enough_ends_it_without_a_word() -> None:
    with server("--feed", "sim?symbols=20&rate=20000") as address:
        done = subprocess.run(
            ["sh", "-c", '"$@" | head -n 3', "sh", sys.executable, "-m", "marketfeed", "tail", stream_of(address)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""


# ---- on a terminal


class Terminal:
    """A pseudo-terminal with a command on it."""

    def __init__(self, process: Process, master: int) -> None:
        self.process = process
        self._master = master
        self.text = ""

    def until(self, pattern: str) -> None:
        """Read until this has been written. The test's own timeout is the bound."""
        while not re.search(pattern, self.text):
            try:
                data = os.read(self._master, 65_536)
            except OSError:
                data = b""  # Linux says so when the other side has gone
            assert data, f"{pattern} was not written: {self.text[-2000:]}"
            self.text += data.decode(errors="replace")


@contextlib.contextmanager
def terminal(*arguments: str, lines: int = 24, columns: int = 110) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        environment.pop(name, None)
    try:
        with process("marketfeed", *arguments, stdin=slave, stdout=slave, stderr=slave, env=environment) as running:
            os.close(slave)
            yield Terminal(running, master)
    finally:
        os.close(master)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_terminal_gets_a_live_table_and_is_left_as_it_was(number: signal.Signals, status: int) -> None:
    sim = server("--feed", "sim?symbols=60&rate=3000")
    with sim as address, terminal("tail", stream_of(address), "--max-hz", "10") as screen:
        screen.until(r"\x1b\[\?1049h")
        screen.until(r"SIM-0000[\s\S]*and \d+ more[\s\S]*● connected")
        screen.until(r"\x1b\[1;3[12]m")
        screen.process.send_signal(number)
        screen.until(r"\x1b\[\?1049l[\s\S]*SIM-0000[\s\S]*● ")
        assert screen.process.wait(BOUND) == status


def test_a_terminal_shows_a_cut_and_the_return() -> None:
    first = [HELLO, ["expect"], reply(0), ["quotes", "A", 1, 2], ["cut"]]
    second = [
        HELLO,
        ["expect"],
        reply(2),
        ["send", {"T": "gap", "from": 3, "to": 9, "reason": "lapped"}],
        ["quotes", "A", 10, 11],
    ]
    with fake(first, second) as there, terminal("tail", there.url) as screen:
        screen.until(r"1 gap[\s\S]*\(7 lost\)[\s\S]*1 reconnect")


def test_a_terminal_may_have_lines_too() -> None:
    script = [HELLO, ["expect"], reply(0), ["quotes", "A", 1, 2]]
    with fake(script) as there, terminal("tail", there.url, "--json", "--count", "2") as screen:
        screen.until(r'"seq":1[\s\S]*"seq":2')
        assert screen.process.wait(BOUND) == 0


def test_bars_are_lines_too() -> None:
    with server("--feed", "sim?symbols=3&rate=2000") as address:
        done = tail(stream_of(address), "--bars", "*", "--bar-seconds", "1", "--count", "6")
    assert (done.returncode, done.stderr) == (0, "")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(message["T"], message["sec"], message["f"]) for message in messages] == [("b", 1, "sim")] * 6
    assert all(message["l"] <= message["vw"] <= message["h"] and message["n"] > 0 for message in messages)
