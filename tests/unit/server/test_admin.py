"""Who may control feeds."""

import pytest

from marketfeed.server.admin import is_loopback, refusal

HOST = {"Host": "127.0.0.1:8000"}


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("127.0.0.1", HOST),
        ("127.9.8.7", {"Host": "127.0.0.1"}),
        ("::1", {"Host": "[::1]:8000"}),
        ("::ffff:127.0.0.1", {"Host": "localhost:8000"}),
        ("127.0.0.1", {"Host": "LOCALHOST:8000"}),
        ("127.0.0.1", {**HOST, "Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}),
        ("127.0.0.1", {**HOST, "Sec-Fetch-Site": "none"}),
    ],
)
def test_programs_and_pages_of_the_machine_itself_may(peer: str, headers: dict[str, str]) -> None:
    assert refusal(peer, headers) == ""


@pytest.mark.parametrize(
    ("peer", "headers", "why"),
    [
        ("10.0.0.5", HOST, "only from the machine itself"),
        ("::ffff:10.0.0.5", HOST, "only from the machine itself"),
        ("", HOST, "only from the machine itself"),
        # A name that was made to point here.
        ("127.0.0.1", {"Host": "evil.example:8000"}, "only under the name localhost"),
        ("127.0.0.1", {"Host": "127.0.0.1.evil.example"}, "only under the name localhost"),
        ("127.0.0.1", {"Host": "localhost.evil.example"}, "only under the name localhost"),
        ("127.0.0.1", {"Host": "0.0.0.0:8000"}, "only under the name localhost"),
        ("127.0.0.1", {"Host": "[::1"}, "only under the name localhost"),
        ("127.0.0.1", {"Host": "evil.example@127.0.0.1.evil.example"}, "only under the name localhost"),
        ("127.0.0.1", {}, "only under the name localhost"),
        # A page of somewhere else, even of another port of this machine.
        ("127.0.0.1", {**HOST, "Origin": "https://evil.example"}, "another origin"),
        ("127.0.0.1", {**HOST, "Origin": "http://127.0.0.1:9000"}, "another origin"),
        ("127.0.0.1", {**HOST, "Origin": "http://localhost:8000"}, "another origin"),
        ("127.0.0.1", {**HOST, "Origin": "null"}, "another origin"),
        ("127.0.0.1", {**HOST, "Sec-Fetch-Site": "cross-site"}, "another origin"),
        ("127.0.0.1", {**HOST, "Sec-Fetch-Site": "same-site"}, "another origin"),
        # Whoever comes through a proxy on this machine may be anybody.
        ("127.0.0.1", {**HOST, "X-Forwarded-For": "127.0.0.1"}, "not through a proxy"),
        ("127.0.0.1", {**HOST, "Forwarded": "for=10.0.0.5"}, "not through a proxy"),
    ],
)
def test_nobody_else_may(peer: str, headers: dict[str, str], why: str) -> None:
    assert why in refusal(peer, headers)


@pytest.mark.parametrize(
    ("host", "is_one"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("::1%lo", True), ("0.0.0.0", False), ("::", False),
     ("8.8.8.8", False), ("loopback", False), ("", False)],
)  # fmt: skip
def test_which_hosts_are_loopback(host: str, is_one: bool) -> None:
    assert is_loopback(host) is is_one
