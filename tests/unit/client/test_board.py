"""What `marketfeed tail` draws."""

import io

import pytest
from rich.console import Console

from marketfeed.client.board import Board
from marketfeed.client.messages import Bar, Gap, Quote, Trade
from marketfeed.client.state import State, StateChange

TIME = "2013-10-07T13:30:00.123456789Z"
URL = "ws://127.0.0.1:8000/stream"


def quote(symbol: str, bid: float = 10.0, ask: float = 10.5, feed: str = "") -> Quote:
    return Quote(symbol, bid, 1.0 if bid else 0.0, ask, 2000.0 if ask else 0.0, TIME, 1, feed)


def draw(board: Board, width: int = 110, height: int = 20, colour: bool = False) -> list[str]:
    out = io.StringIO()
    console = Console(
        file=out, width=width, height=height, force_terminal=colour, color_system="standard" if colour else None
    )
    console.print(board)
    return out.getvalue().splitlines()


def test_a_row_tells_quote_trade_spread_time_and_updates() -> None:
    board = Board(URL, 0.0)
    board.add([quote("AIG", 50.25, 50.3), Trade("AIG", 50.2825, 300.0, TIME, 2)], 1.0)
    heading, row, *_ = draw(board)
    assert heading.split() == ["symbol", "bid", "size", "ask", "size", "spread", "last", "size", "time", "updates"]
    assert row.split() == ["AIG", "50.2500", "1", "50.3000", "2,000", "0.0500", "50.2825", "300", "13:30:00.123", "2"]


def test_a_side_that_is_not_there_is_left_empty() -> None:
    board = Board(URL, 0.0)
    board.add([quote("AIG", 0.0, 50.3)], 1.0)
    row = draw(board)[1].split()
    assert row == ["AIG", "0", "50.30", "2,000", "13:30:00.123", "1"]


@pytest.mark.parametrize("height", [5, 6, 10, 24])
@pytest.mark.parametrize("symbols", [0, 1, 2, 3, 8, 30])
def test_it_is_never_higher_than_the_terminal_and_says_how_many_it_leaves_out(height: int, symbols: int) -> None:
    board = Board(URL, 0.0)
    board.add([quote(f"S{i:02d}") for i in reversed(range(symbols))], 1.0)
    lines = draw(board, height=height)
    assert len(lines) <= height
    shown = [line.split()[0] for line in lines if line.lstrip().startswith("S")]
    shown = [word for word in shown if word[1:].isdigit()]
    assert shown == [f"S{i:02d}" for i in range(len(shown))]
    more = [line for line in lines if "more" in line]
    assert more == ([f" and {symbols - len(shown)} more"] if len(shown) < symbols else [])


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_it_is_never_wider_than_the_terminal(width: int) -> None:
    board = Board(URL, 0.0)
    board.add([quote("BTCUSDT", 65432.1, 65432.2, "binance"), quote("AIG", 50.25, 50.3, "lean")], 1.0)
    lines = draw(board, width=width)
    assert max(map(len, lines)) <= width
    assert "65,432.10" in lines[2]


def test_the_feed_is_shown_where_there_are_several() -> None:
    board = Board(URL, 0.0)
    board.add([quote("A", feed="x")], 1.0)
    assert "feed" not in draw(board)[0]
    board.add([quote("A", feed="y")], 1.0)
    lines = draw(board)
    assert lines[0].split()[:2] == ["symbol", "feed"]
    assert [line.split()[:2] for line in lines[1:3]] == [["A", "x"], ["A", "y"]]


def test_a_bar_shows_its_close_and_volume() -> None:
    board = Board(URL, 0.0)
    board.add([Bar("A", 10.0, 12.0, 9.0, 11.5, 700.0, 3, 11.0, "2013-10-07T13:30:00.000000000Z", 5)], 1.0)
    row = draw(board, width=140)[1]
    assert "11.50" in row
    assert "700" in row


def test_what_rose_is_green_what_fell_is_red_for_a_moment() -> None:
    board = Board(URL, 0.0)
    board.add([quote("A", 10.0, 11.0)], 1.0)
    assert "\x1b[1;32m" not in draw(board, colour=True)[1]
    board.add([quote("A", 10.1, 10.9)], 2.0)
    row = draw(board, colour=True)[1]
    assert "\x1b[1;32m10.10" in row
    assert "\x1b[1;31m10.90" in row
    board.tick(3.0)
    assert "\x1b[1;3" not in draw(board, colour=True)[1].replace("\x1b[1;36m", "")


def test_columns_do_not_become_narrower_again() -> None:
    board = Board(URL, 0.0)
    board.add([quote("A", 10_000.0, 10_001.0)], 1.0)
    wide = draw(board)[0]
    board.add([quote("A", 1.0, 2.0)], 2.0)
    assert draw(board)[0] == wide


def test_the_status_line_tells_state_rate_gaps_and_what_was_lost() -> None:
    board = Board(URL, 0.0)
    board.state(StateChange(State.CONNECTED))
    for step in range(1, 41):
        board.add([quote("A")] * 10, step / 10)
    board.add([Gap(1, 500, "lapped"), Gap(7, None, "epoch", 3)], 4.0)
    status = draw(board, width=140)[-1]
    assert "● connected" in status
    assert "100 ticks/s" in status
    assert "1 symbol " in status
    assert "2 gaps (500 lost)" in status
    assert "2013-10-07" in status
    assert URL in status
    assert "reconnects" not in status
    board.state(StateChange(State.WAITING, "the connection broke", 2.5))
    assert "● waiting, again in 2.5 s: the connection broke" in draw(board, width=140)[-1]
    board.state(StateChange(State.CONNECTED))
    assert "1 reconnect " in draw(board, width=140)[-1]
