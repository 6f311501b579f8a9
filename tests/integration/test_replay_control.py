"""A replay in a real server, told over its admin endpoint what to do."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import marketfeed
from tests.integration.processes import BOUND, cli, server, status, stream_of
from tests.integration.test_record import until


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that plays an hour, a tick a second, price = second, beside a market that takes no controls."""
    path = tmp_path_factory.mktemp("market") / "hour.csv"
    path.write_text("time,symbol,price\n" + "".join(f"{1_700_000_000 + n},A,{n}\n" for n in range(3_600)))
    with server("--feed", f"hour=replay:{path}", "--feed", "sim?rate=10") as running:
        yield running


def control(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return cli("replay-control", address, *arguments)


def progress(address: str, *arguments: str) -> dict[str, Any]:
    done = control(address, *arguments)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def post(address: str, feed: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    more = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    request = urllib.request.Request(f"{address}/api/admin/feeds/{feed}", body, more)
    try:
        with urllib.request.urlopen(request, timeout=BOUND) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_subscriber_sees_what_the_replay_is_told(address: str) -> None:
    with marketfeed.connect_sync(stream_of(address)) as feed:
        feed.subscribe(trades=["hour:A"])
        progress(address, "pause")
        assert progress(address, "seek", "2023-11-14T22:30:00Z")["state"] == "paused"
        progress(address, "speed", "1000")
        assert status(address)["feeds"]["hour"]["progress"]["state"] == "paused"
        progress(address, "resume")
        # At second 1,000 of the recording. What came before the pause is passed over.
        got = [message for message in (next(feed) for _ in range(200)) if message.price >= 1_000]
        assert [message.price for message in got] == list(range(1_000, 1_000 + len(got)))
        assert [message.seq for message in got] == sorted(message.seq for message in got)
        # It has ended long before this is asked for, and can be put back.
        until(lambda: status(address)["feeds"]["hour"]["state"] == "ended")
        assert progress(address, "seek", "2023-11-14T22:13:20Z", "--feed", "hour")["ticks"] == 0
        again = next(message for message in feed if message.price == 0)
        assert again.seq > got[-1].seq


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed", "0"], "speed 0: a factor above 0, or max, is wanted"),
        (["seek"], "seek takes a value"),
        (["dance"], "no control 'dance'; there are: pause, resume, seek, speed"),
        (["status", "now"], "status takes no value"),
        (["pause", "--feed", "sim"], "feed 'sim' cannot be controlled; those that can be: hour"),
        (["pause", "--feed", "moon"], "feed 'moon' is not there; those that can be: hour"),
    ],
)
def test_what_cannot_be_done_is_one_line(address: str, arguments: list[str], message: str) -> None:
    done = control(address, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"{message}\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "message"), [("127.0.0.1", "not the address of a server"), ("http://127.0.0.1:1", "refused")]
)
def test_a_server_that_is_not_there_is_one_line(url: str, message: str) -> None:
    done = control(url, "status")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"X_Forwarded_For": "127.0.0.1"}, 403),
        # What a page's form can send without being asked: no JSON.
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_a_page_of_somewhere_else_does_not_get_through(address: str, headers: dict[str, str], status: int) -> None:
    body = b'{"control": "speed", "value": 12345}'
    code, told = post(address, "hour", body, **headers)
    assert code == status
    assert told["error"]
    assert progress(address, "status")["speed"] != 12345


@pytest.mark.parametrize(
    ("feed", "body", "status"),
    [
        ("moon", b'{"control": "pause"}', 404),
        ("hour", b"", 400),
        ("hour", b"\xff", 400),
        ("hour", b"[" * 5_000, 400),
        ("hour", b'"pause"', 400),
        ("hour", b'{"control": 3}', 400),
        ("hour", b'{"control": "speed", "value": [1]}', 400),
        ("hour", b'{"control": "speed", "value": true}', 400),
        ("hour", b'{"control": "speed", "value": 1e999}', 400),
        ("sim", b'{"control": "pause"}', 400),
    ],
)
def test_a_request_that_makes_no_sense_is_told_so(address: str, feed: str, body: bytes, status: int) -> None:
    code, told = post(address, feed, body)
    assert code == status
    assert told["error"]


def test_a_number_may_be_a_number(address: str) -> None:
    assert post(address, "hour", b'{"control": "speed", "value": 7}')[1]["speed"] == 7


def test_another_machine_does_not_get_through(tmp_path: Path) -> None:
    """Asked under this machine's own other address, if it has one, it is not loopback."""
    import socket

    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probe.connect(("192.0.2.1", 9))  # sends nothing
    own = probe.getsockname()[0]
    probe.close()
    with server("--feed", "sim?rate=10", "--host", "0.0.0.0") as running:
        port = running.rpartition(":")[2]
        code, told = post(f"http://{own}:{port}", "sim", b'{"control": "pause"}', Host=f"127.0.0.1:{port}")
    if not own.startswith("127."):
        assert (code, told["error"]) == (403, "Refused: only from the machine itself")
