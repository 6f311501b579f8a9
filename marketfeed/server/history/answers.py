"""What each request is answered: query, page, body. Pure: done in steps, whoever runs them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from marketfeed.model.bars import Bars
from marketfeed.model.store import TickStore
from marketfeed.model.tick import BAR, QUOTE, RAW, TICK, TRADE
from marketfeed.server.history import arrow, render
from marketfeed.server.history.bars import bar_page, first_place, last_bars
from marketfeed.server.history.params import MOST_ITEMS, BadRequest, RangeQuery, SymbolsQuery
from marketfeed.server.history.render import Rows
from marketfeed.server.history.scan import tick_page
from marketfeed.server.history.select import select, symbol_page
from marketfeed.server.history.steps import InTime, Steps
from marketfeed.server.history.tokens import Token, decode
from marketfeed.stream.encoding.rfc3339 import text_from_time

#: What Alpaca calls each kind: of many, and of one.
_NAMES = {QUOTE: ("quotes", "quote"), TRADE: ("trades", "trade"), BAR: ("bars", "bar")}


class Answer(NamedTuple):
    """What is sent, and as of which sequence number it is true."""

    body: bytes
    seq: int


class Form(NamedTuple):
    """How an answer is written."""

    #: as Arrow; else as JSON
    arrow: bool
    #: of this one symbol, in the shape that Alpaca's answers about one have; None = by symbol
    only: str | None = None


def ticks(store: TickStore, query: RangeQuery, form: Form, in_time: InTime) -> Steps[Answer]:
    """Quotes or trades.

    Raises:
        TokenError, TokenExpired: the token is none of this request.
        OutOfTime: it could not be found out in time which symbols are meant.
    """
    head = store.ring.head
    token = _token(store, query, head, head if query.descending else 0)
    selected = yield from _select(store, query, in_time)
    page = yield from tick_page(store, query, selected, token.until, token.place, in_time)
    about = _about(store, query, token, page.place)
    about["complete"] = page.gap is None
    if page.gap is not None:
        about["gap"] = {"from": page.gap.first, "to": page.gap.last}
    return Answer((yield from _rows(store, Rows(query.kind, page.ticks, page.seqs), form, about)), token.until)


def bars(store: TickStore, query: RangeQuery, form: Form, in_time: InTime) -> Steps[Answer]:
    """Bars.

    Raises:
        TokenError, TokenExpired: the token is none of this request.
        OutOfTime: they could not be made in time.
    """
    token = _token(store, query, store.ring.head, first_place(query.descending))
    selected = yield from _select(store, query, in_time)
    page = yield from bar_page(store, query, selected, token.until, token.place, in_time)
    about = _about(store, query, token, page.place)
    about["complete"] = page.complete
    if not page.complete:
        about["whole_from"] = text_from_time(page.held)
    return Answer((yield from _rows(store, _bar_rows(page.bars), form, about)), token.until)


def latest(
    store: TickStore, feed: str, kind: int, patterns: tuple[str, ...], form: Form, in_time: InTime
) -> Steps[Answer]:
    """The last quote, trade, or bar of a minute, of each symbol.

    Raises:
        BadRequest: more instruments are meant than may be.
        OutOfTime: it could not be found out in time.
    """
    selected = yield from _select_some(store, feed, patterns, in_time)
    about = {"epoch": store.epoch, "seq": store.ring.head}
    if kind == BAR:
        rows = _bar_rows((yield from last_bars(store, feed, selected, about["seq"], in_time)).minute)
    else:
        rows = _last(store, kind, selected)
    names = store.directory.symbols()
    if form.arrow:
        body = yield from arrow.stream(rows, names, about)
    elif form.only is None:
        body = render.body(_NAMES[kind][0], (yield from render.one_by_symbol(rows, names)), about)
    else:
        written = yield from render.items(rows)
        body = _single(_NAMES[kind][1], written[0] if written else "null", form.only, about)
    return Answer(body, about["seq"])


def snapshots(store: TickStore, feed: str, patterns: tuple[str, ...], form: Form, in_time: InTime) -> Steps[Answer]:
    """Last trade and quote, and the bars of the last minute, of the last day and of the day before it.

    Raises:
        BadRequest: more instruments are meant than may be.
        OutOfTime: the bars could not be made in time.
    """
    selected = yield from _select_some(store, feed, patterns, in_time)
    about = {"epoch": store.epoch, "seq": store.ring.head}
    parts = {"latestTrade": _last(store, TRADE, selected), "latestQuote": _last(store, QUOTE, selected)}
    found = yield from last_bars(store, feed, selected, about["seq"], in_time)
    parts["minuteBar"], parts["dailyBar"], parts["prevDailyBar"] = map(_bar_rows, found)
    names = store.directory.symbols()
    if form.arrow:
        body = yield from arrow.snapshots(parts, names, about)
    else:
        # Alpaca's shape has nothing but symbols in it: all else is told in the headers.
        content = yield from render.snapshots(parts, names)
        body = content.encode()
        if form.only is not None:
            one = next(iter(orjson.loads(body).values()), dict.fromkeys(parts))
            body = orjson.dumps({"symbol": form.only, **one, **about})
    return Answer(body, about["seq"])


def symbols(store: TickStore, query: SymbolsQuery, form: Form, in_time: InTime) -> Steps[Answer]:
    """Which instruments there are.

    Raises:
        TokenError, TokenExpired: the token is none of this request.
    """
    token = _token(store, query, store.ring.head, 0)
    page = yield from symbol_page(store.directory, query, token.place, in_time)
    about = _about(store, query, token, page.place)
    names, feed_of, feeds = store.directory.symbols(), store.directory.feed_of(), store.directory.feeds()
    columns: dict[str, list[Any]] = {
        "id": page.ids,
        "feed": [feeds[feed_of[i]] for i in page.ids],
        "symbol": [names[i] for i in page.ids],
    }
    if form.arrow:
        types = {"id": "uint32", "feed": "string", "symbol": "string"}
        return Answer((yield from arrow.table(columns, types, about)), token.until)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    yield
    return Answer(orjson.dumps({"symbols": rows, **about}), token.until)


def _token(store: TickStore, query: RangeQuery | SymbolsQuery, head: int, place: int) -> Token:
    """Where to begin: where the token says, or at the first page."""
    if query.token is None:
        return Token(store.epoch, head, place)
    return decode(query.token, query.identity, store.epoch, head)


def _about(store: TickStore, query: RangeQuery | SymbolsQuery, token: Token, place: int | None) -> dict[str, Any]:
    following = None if place is None else token._replace(place=place).encode(query.identity)
    return {"next_page_token": following, "epoch": store.epoch, "seq": token.until}


def _select(store: TickStore, query: RangeQuery, in_time: InTime) -> Steps[NDArray[np.bool_]]:
    feed = store.directory.feeds().index(query.feed)
    return (yield from select(store.directory, feed, query.symbols, in_time))


def _select_some(store: TickStore, feed: str, patterns: tuple[str, ...], in_time: InTime) -> Steps[NDArray[np.bool_]]:
    """Where there are no pages, there may not be more instruments than a page may have items."""
    selected = yield from select(store.directory, store.directory.feeds().index(feed), patterns, in_time)
    count = int(np.count_nonzero(selected))
    if count > MOST_ITEMS:
        raise BadRequest(f"symbols: {count:,} are meant, at most {MOST_ITEMS:,} may be")
    return selected


def _last(store: TickStore, kind: int, selected: NDArray[np.bool_]) -> Rows:
    """By instrument."""
    ticks, seqs = store.latest.of(kind, np.flatnonzero(selected))
    order = np.argsort(ticks["instrument"])
    return Rows(kind, ticks.view(RAW).take(order).view(TICK), seqs[order])


def _bar_rows(bars: Bars) -> Rows:
    return Rows(BAR, bars, np.zeros(len(bars), np.int64))


def _rows(store: TickStore, rows: Rows, form: Form, about: dict[str, Any]) -> Steps[bytes]:
    names = store.directory.symbols()
    if form.arrow:
        return (yield from arrow.stream(rows, names, about))
    name = _NAMES[rows.kind][0]
    if form.only is None:
        content = yield from render.by_symbol(rows, names)
        return render.body(name, content, about)
    written = yield from render.items(rows)
    return _single(name, f"[{','.join(written)}]", form.only, about)


def _single(name: str, content: str, symbol: str, about: dict[str, Any]) -> bytes:
    return render.body(name, content, {"symbol": symbol, **about})
