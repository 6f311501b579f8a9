"""The full parse finds what the count cannot."""

import json
from typing import Any

import pytest

from bench.load.verify import Problem, check
from bench.load.wire import WebSocketDialect

QUOTE: dict[str, Any] = {
    "T": "q",
    "S": "A",
    "bp": 1.5,
    "bs": 300.0,
    "ap": 1.6,
    "as": 200.0,
    "t": "2026-11-22T19:33:00.123456789Z",
    "seq": 7,
}
TRADE: dict[str, Any] = {"T": "t", "S": "B", "p": 1.5, "s": 100.0, "t": "2026-11-22T19:33:00.123456789Z", "seq": 8}
ACK = {"T": "subscription", "quotes": ["A"], "trades": ["A"]}


def data(*messages: dict[str, Any]) -> bytes:
    body = json.dumps(list(messages), separators=(",", ":")).encode()
    return b"\x81\x7e" + len(body).to_bytes(2, "big") + body


def held(*frames: bytes, wanted: list[str] | None = None) -> tuple[int, int]:
    return check(b"".join(frames), wanted or ["A", "B"], WebSocketDialect("/").messages)


def test_quotes_and_trades_are_counted_and_other_messages_are_not() -> None:
    assert held(data(ACK), data(QUOTE, TRADE), b"\x89\x00", data(QUOTE | {"seq": 9})) == (3, 0)


def test_updates_in_a_frame_that_is_not_whole_are_counted_apart() -> None:
    assert held(data(QUOTE), data(QUOTE | {"seq": 8}, QUOTE | {"seq": 9})[:-4]) == (1, 2)


def test_updates_that_are_one_text_repeated_are_only_counted() -> None:
    assert check(data(QUOTE, QUOTE), None, WebSocketDialect("/").messages) == (2, 0)


@pytest.mark.parametrize(
    ("update", "problem"),
    [
        (QUOTE | {"S": "C"}, "was not asked for"),
        ({key: value for key, value in QUOTE.items() if key != "as"}, "without as"),
        (QUOTE | {"bp": "1.5"}, "something else than a number"),
        (QUOTE | {"bp": None}, "something else than a number"),
        (TRADE | {"p": float("nan")}, "something else than a number"),
    ],
)
def test_an_update_that_is_not_what_was_asked_for_is_a_problem(update: dict[str, Any], problem: str) -> None:
    with pytest.raises(Problem, match=problem):
        held(data(update))


def test_a_repeated_or_earlier_seq_is_a_problem() -> None:
    with pytest.raises(Problem, match="seq 7 after 7"):
        held(data(QUOTE), data(QUOTE))
    with pytest.raises(Problem, match="seq 7 after 8"):
        held(data(TRADE, QUOTE))


@pytest.mark.parametrize("bad", [b"\x81\x03[1]", b"\x81\x02{}", b"\x81\x01x", b"\x01\x00"])
def test_bytes_that_are_no_messages_are_a_problem(bad: bytes) -> None:
    with pytest.raises(Problem, match="the full parse failed"):
        held(bad)
