"""Databento DBN."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databento_dbn as dbn
import numpy as np
import pytest

from feeds.replay.readers.dbn import BOOK_RECORD, TRADE_RECORD
from marketfeed.feed import FeedError
from marketfeed.model.tick import QUOTE, TRADE
from tests.unit.feeds.replay_helper import play, replay, same

NAN = float("nan")
T0 = 1_700_000_000_000_000_000
DAY = 86_400 * 10**9


def metadata(schema: dbn.Schema, **symbols: list[tuple[date, date, str]]) -> bytes:
    intervals = [
        SimpleNamespace(
            raw_symbol=symbol,
            intervals=[SimpleNamespace(start_date=a, end_date=b, symbol=number) for a, b, number in spans],
        )
        for symbol, spans in symbols.items()
    ]
    return dbn.Metadata(
        dataset="GLBX.MDP3",
        start=T0,
        stype_in=dbn.SType.RAW_SYMBOL,
        stype_out=dbn.SType.INSTRUMENT_ID,
        schema=schema,
        symbols=list(symbols),
        partial=[],
        not_found=[],
        mappings=intervals,
    ).encode()


def book(number: int, instrument: int = 1, action: str = "A", **change: Any) -> bytes:
    given = {
        "publisher_id": 1,
        "instrument_id": instrument,
        "ts_event": T0 + number,
        "price": 5_528_750_000_000,
        "size": 2,
        "action": dbn.Action(action),
        "side": dbn.Side.BID,
        "depth": 0,
        "ts_recv": T0 + number + 5,
        "flags": 0,
        "ts_in_delta": 0,
        "sequence": number % 2**32,
        "levels": dbn.BidAskPair(5_528_500_000_000, 5_528_750_000_000, 29, 6, 1, 1),
    }
    return bytes(dbn.MBP1Msg(**(given | change)))


ALWAYS = (date(2023, 1, 1), date(2024, 1, 1))


def write(tmp_path: Path, *parts: bytes) -> Path:
    path = tmp_path / "ticks.dbn"
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("kind", [dbn.MBP1Msg, dbn.MBP10Msg, dbn.BBOMsg, dbn.CMBP1Msg, dbn.TradeMsg])
def test_the_layout_is_that_of_the_package(kind: type) -> None:
    theirs = np.dtype(kind._dtypes).fields
    ours = (TRADE_RECORD if kind is dbn.TradeMsg else BOOK_RECORD).fields
    assert theirs is not None
    assert ours is not None
    renamed = {"bid_px": "bid_px_00", "ask_px": "ask_px_00", "bid_sz": "bid_sz_00", "ask_sz": "ask_sz_00"}
    for name, (dtype, offset, *_) in ours.items():
        found = theirs.get(renamed.get(name, name))
        if found is None:
            # bbo records have no action, consolidated ones no sequence.
            assert (kind, name) in {(dbn.BBOMsg, "action"), (dbn.CMBP1Msg, "sequence")}
        else:
            assert (dtype, offset) == found[:2]


def test_every_book_is_a_quote_and_a_trade_is_one_more_tick_after_it(tmp_path: Path) -> None:
    path = write(tmp_path, metadata(dbn.Schema.MBP_1, ESU4=[(*ALWAYS, "1")]), book(1), book(2, action="T"), book(3))
    ticks, context = play(path)
    assert ticks["kind"].tolist() == [QUOTE, QUOTE, TRADE, QUOTE]
    assert ticks["venue_seq"].tolist() == [1, 2, 2, 3]
    assert (ticks["ts_event"] - T0).tolist() == [1, 2, 2, 3]
    assert same(ticks["bid"], [5528.5, 5528.5, NAN, 5528.5])
    assert same(ticks["bid_size"], [29, 29, NAN, 29])
    assert same(ticks["ask"], [5528.75, 5528.75, NAN, 5528.75])
    assert same(ticks["ask_size"], [6, 6, NAN, 6])
    assert same(ticks["price"], [NAN, NAN, 5528.75, NAN])
    assert same(ticks["size"], [NAN, NAN, 2, NAN])
    assert context.symbols == ["ESU4"]


def test_an_undefined_price_is_no_side(tmp_path: Path) -> None:
    one = dbn.BidAskPair(dbn.UNDEF_PRICE, 5_528_750_000_000, 0, 6, 0, 1)
    ticks, _ = play(write(tmp_path, metadata(dbn.Schema.MBP_1, ESU4=[(*ALWAYS, "1")]), book(1, levels=one)))
    assert same(ticks["bid"], [NAN])
    assert same(ticks["bid_size"], [NAN])
    assert same(ticks["ask"], [5528.75])


def test_an_undefined_time_is_refused_and_its_neighbours_play(tmp_path: Path) -> None:
    head = metadata(dbn.Schema.MBP_1, ESU4=[(*ALWAYS, "1")])
    ticks, context = play(write(tmp_path, head, book(1), book(2, ts_event=dbn.UNDEF_TIMESTAMP), book(3)))
    assert ticks["venue_seq"].tolist() == [1, 3]
    assert context.refused == {"time beyond tomorrow": 1}


def test_trades(tmp_path: Path) -> None:
    record = dbn.TradeMsg(1, 1, T0, 5_528_750_000_000, 3, dbn.Action.TRADE, dbn.Side.BID, 0, T0, 0, 0, 9)
    ticks, _ = play(write(tmp_path, metadata(dbn.Schema.TRADES, ESU4=[(*ALWAYS, "1")]), bytes(record)))
    assert (ticks["kind"].tolist(), ticks["price"].tolist(), ticks["size"].tolist()) == ([TRADE], [5528.75], [3])
    assert ticks["venue_seq"].tolist() == [9]


def test_an_instrument_id_has_the_symbol_of_its_day(tmp_path: Path) -> None:
    first, second = date(2023, 11, 14), date(2023, 11, 15)
    head = metadata(
        dbn.Schema.MBP_1, OLD=[(first, second, "1")], NEW=[(second, date(2023, 11, 16), "1")], OTHER=[(*ALWAYS, "2")]
    )
    ticks, context = play(write(tmp_path, head, book(1), book(2, instrument=2), book(DAY), book(DAY + 1, instrument=3)))
    assert [context.symbols[number] for number in ticks["instrument"]] == ["OLD", "OTHER", "NEW", "3"]


def test_a_symbol_mapping_message_holds_from_there_on(tmp_path: Path) -> None:
    def mapping(symbol: str) -> bytes:
        return bytes(
            dbn.SymbolMappingMsg(1, 1, T0, dbn.SType.RAW_SYMBOL, "ES.FUT", dbn.SType.RAW_SYMBOL, symbol, T0, T0 + DAY)
        )

    head = metadata(dbn.Schema.MBP_1)
    ticks, context = play(write(tmp_path, head, mapping("ESU4"), book(1), mapping("ESZ4"), book(2)))
    assert [context.symbols[number] for number in ticks["instrument"]] == ["ESU4", "ESZ4"]


def test_a_file_that_ends_within_a_record_plays_up_to_there(tmp_path: Path) -> None:
    head = metadata(dbn.Schema.MBP_1, ESU4=[(*ALWAYS, "1")])
    ticks, context = play(write(tmp_path, head, book(1), book(2)[:-10]))
    assert ticks["venue_seq"].tolist() == [1]
    assert context.refused == {"damaged file": 1}


def test_a_damaged_header_stops_the_start(tmp_path: Path) -> None:
    head = bytearray(metadata(dbn.Schema.MBP_1))
    head[3] = 200
    with pytest.raises(FeedError, match="cannot read"):
        replay(write(tmp_path, bytes(head)))
