"""The table that `marketfeed tail` shows on a terminal: one row an instrument, what changed in colour."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan, nan

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from marketfeed.client.messages import Gap, Heartbeat, Message, Numbered, Quote, Trade
from marketfeed.client.state import State, StateChange

#: Seconds that a change stays coloured.
_FLASH_S = 0.7
#: Seconds over which the rate is measured.
_RATE_S = 2.0
_MOST_DECIMALS = 8
_STATE_STYLE = {State.CONNECTED: "green", State.CONNECTING: "yellow", State.WAITING: "yellow", State.CLOSED: "red"}


@dataclass
class Cell:
    """A number that is coloured for a moment when it moved."""

    value: float = nan
    moved: int = 0
    at: float = float("-inf")

    def set(self, value: float, now: float) -> None:
        """Take a new value at this time (s, monotonic)."""
        if value != self.value and not (isnan(value) and isnan(self.value)):
            if not isnan(self.value) and not isnan(value):
                self.moved, self.at = (1 if value > self.value else -1), now
            self.value = value

    def style(self, now: float) -> str:
        """Green just after it went up, red just after it went down."""
        if now - self.at > _FLASH_S:
            return ""
        return "bold green" if self.moved > 0 else "bold red"


class Row:
    """What is known of one instrument."""

    def __init__(self) -> None:
        self.bid, self.bid_size, self.ask, self.ask_size = Cell(), Cell(), Cell(), Cell()
        self.price, self.size = Cell(), Cell()
        self.time = ""
        self.updates = 0
        self._decimals = 0

    def update(self, tick: Numbered, now: float) -> None:
        """Take a tick in."""
        self.updates += 1
        self.time = tick.time
        if isinstance(tick, Quote):
            self.bid.set(tick.bid, now)
            self.bid_size.set(tick.bid_size, now)
            self.ask.set(tick.ask, now)
            self.ask_size.set(tick.ask_size, now)
        elif isinstance(tick, Trade):
            self.price.set(tick.price, now)
            self.size.set(tick.size, now)
        else:
            self.price.set(tick.close, now)
            self.size.set(tick.volume, now)

    def cells(self, now: float) -> list[Text]:
        """Bid, size, ask, size, spread, last trade, time, updates."""
        prices = (self.bid, self.ask, self.price)
        # Never fewer than before, so that the column does not shake.
        self._decimals = max([self._decimals, *(_decimals(cell.value) for cell in prices)])
        spread = self.ask.value - self.bid.value
        return [
            self._price(self.bid, now),
            _size(self.bid_size, "dim"),
            self._price(self.ask, now),
            _size(self.ask_size, "dim"),
            Text("" if isnan(spread) else f"{spread:,.{self._decimals}f}", "red" if spread < 0 else "dim"),
            self._price(self.price, now),
            _size(self.size, "dim"),
            Text(self.time[11:23].rstrip("Z"), "dim"),
            Text(f"{self.updates:,}"),
        ]

    def _price(self, cell: Cell, now: float) -> Text:
        return Text("" if isnan(cell.value) else f"{cell.value:,.{self._decimals}f}", cell.style(now))


class Board:
    """All rows and the status line. Give it messages with :meth:`add`; rich renders it, as high as it may be.

    Args:
        url: told in the status line.
    """

    #: Heading, and the terminal width from which on the column is shown.
    COLUMNS = (
        ("bid", 0),
        ("size", 72),
        ("ask", 0),
        ("size", 72),
        ("spread", 60),
        ("last", 50),
        ("size", 100),
        ("time", 60),
        ("updates", 80),
    )

    def __init__(self, url: str, now: float) -> None:
        self._url = url
        self._now = now
        self._rows: dict[tuple[str, str], Row] = {}
        self._feeds: set[str] = set()
        self._order: list[tuple[str, str]] = []
        self._state = StateChange(State.CONNECTING)
        self._arrivals: deque[tuple[float, int]] = deque([(now, 0)])
        self._ticks = 0
        self._gaps = 0
        self._lost = 0
        self._reconnects = -1
        self._date = ""
        # The widest each column has been, so that the table does not shake.
        self._widths = [len(heading) for heading, _ in self.COLUMNS]

    def add(self, messages: Iterable[Message], now: float) -> None:
        """Take messages in, at this time (s, monotonic)."""
        rows = self._rows
        last: Numbered | None = None
        for message in messages:
            if isinstance(message, Gap):
                self._gaps += 1
                self._lost += message.last - message.first + 1 if message.last is not None else 0
                continue
            if isinstance(message, Heartbeat):
                continue
            row = rows.get((message.symbol, message.feed))
            if row is None:
                row = rows[message.symbol, message.feed] = Row()
                self._feeds.add(message.feed)
            row.update(message, now)
            self._ticks += 1
            last = message
        if last is not None:
            self._date = last.time[:10]
        self.tick(now)

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._now = now
        if now - self._arrivals[-1][0] >= 0.1:
            self._arrivals.append((now, self._ticks))
        while len(self._arrivals) > 2 and now - self._arrivals[1][0] >= _RATE_S:
            self._arrivals.popleft()

    def state(self, change: StateChange) -> None:
        """The connection is in another state."""
        self._state = change
        self._reconnects += change.state is State.CONNECTED

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if len(self._order) != len(self._rows):
            self._order = sorted(self._rows)
        room = max(1, (options.height or console.height) - 3)
        hidden = len(self._order) - room
        # The line that says how many more there are takes the place of one.
        shown = self._order[: room - 1] if hidden > 0 else self._order
        parts: list[Table | Text] = [self._table(shown, options.max_width)]
        if len(shown) < len(self._order):
            parts.append(Text(f" and {len(self._order) - len(shown):,} more", "dim italic"))
        if not self._order:
            parts.append(Text(" no ticks yet", "dim italic"))
        yield Group(*parts, self._status())

    def _table(self, shown: list[tuple[str, str]], width: int) -> Table:
        with_feed = len(self._feeds) > 1
        table = Table(box=None, header_style="bold dim", padding=(0, 1), pad_edge=True)
        table.add_column("symbol", no_wrap=True, style="bold cyan", min_width=8)
        if with_feed:
            table.add_column("feed", no_wrap=True, style="dim")
        wanted = [width >= least for _, least in self.COLUMNS]
        rows = [self._rows[key].cells(self._now) for key in shown]
        for cells in rows:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]
        for (heading, _), take, least in zip(self.COLUMNS, wanted, self._widths, strict=True):
            if take:
                table.add_column(heading, justify="right", no_wrap=True, min_width=least)
        for (symbol, feed), cells in zip(shown, rows, strict=True):
            named = [Text(symbol), Text(feed)] if with_feed else [Text(symbol)]
            table.add_row(*named, *(cell for cell, take in zip(cells, wanted, strict=True) if take))
        return table

    def _status(self) -> Text:
        state, reason, delay = self._state
        (then, before), (last, count) = self._arrivals[0], self._arrivals[-1]
        rate = (count - before) / (last - then) if last > then else 0.0
        text = Text("\n ", no_wrap=True, overflow="ellipsis")
        text.append(f"● {state}", _STATE_STYLE[state])
        if state is State.WAITING:
            text.append(f", again in {delay:.1f} s: {reason}", "yellow")
        text.append(f"  {rate:,.0f} ticks/s  {_count(len(self._rows), 'symbol')}  ")
        text.append(_count(self._gaps, "gap"), "bold red" if self._gaps else "dim")
        if self._lost:
            text.append(f" ({self._lost:,} lost)", "red")
        if self._reconnects > 0:
            text.append(f"  {_count(self._reconnects, 'reconnect')}", "yellow")
        text.append(f"  {self._date}  {self._url}", "dim")
        return text


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _decimals(price: float) -> int:
    if isnan(price):
        return 0
    text = f"{price:.{_MOST_DECIMALS}f}".rstrip("0")
    return max(2, len(text) - text.index(".") - 1)


def _size(cell: Cell, style: str) -> Text:
    if isnan(cell.value):
        return Text("")
    text = f"{cell.value:,.4f}".rstrip("0").rstrip(".")
    return Text(text, style)
