"""alpaca-py, as it is installed, given nothing but another URL."""

from __future__ import annotations

import asyncio
import datetime

from alpaca.data.live import StockDataStream
from alpaca.data.models import Quote, Trade

from tests.integration.clients import alpaca_running
from tests.integration.processes import server
from tests.realdata import DATA, needs_data


async def gather(url: str, quotes: int, trades: int) -> tuple[list[Quote], list[Trade]]:
    """What the client's handlers were given, at least so many of each."""
    stream = StockDataStream("any key", "any secret", url_override=url)
    got: tuple[list[Quote], list[Trade]] = ([], [])
    enough = asyncio.Event()

    async def on_quote(quote: Quote) -> None:
        got[0].append(quote)
        await on_any()

    async def on_trade(trade: Trade) -> None:
        got[1].append(trade)
        await on_any()

    async def on_any() -> None:
        if len(got[0]) >= quotes and len(got[1]) >= trades:
            enough.set()

    stream.subscribe_quotes(on_quote, "IBM")
    stream.subscribe_trades(on_trade, "IBM")
    async with alpaca_running(stream):
        await enough.wait()
    return got


@needs_data
def test_alpaca_py_unmodified_gets_quotes_and_trades_of_a_replay():
    folder = DATA / "lean/equity/usa/tick/ibm"
    # IBM's first trade of the day is half an hour behind its first quote.
    with server("--feed", f"iex=replay:{folder}?speed=2000&loop=true") as address:
        quotes, trades = asyncio.run(gather(address.replace("http", "ws", 1) + "/v2/iex", 50, 20))
    day = datetime.date(2013, 10, 7)
    assert {q.symbol for q in quotes} == {t.symbol for t in trades} == {"IBM"}
    assert all(170 < q.bid_price < 200 and 170 < q.ask_price < 200 for q in quotes if q.bid_price and q.ask_price)
    assert any(q.bid_price and q.ask_price for q in quotes)
    assert all(170 < t.price < 200 and t.size > 0 for t in trades)
    assert {q.timestamp.date() for q in quotes} == {t.timestamp.date() for t in trades} == {day}
