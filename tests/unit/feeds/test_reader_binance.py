"""Binance combined-stream recordings."""

import gzip
import json
import logging
from pathlib import Path

import pytest

from marketfeed.model.tick import QUOTE, TRADE
from tests.unit.feeds.replay_helper import play, same

LOCAL = 1_723_161_256_000_000_000
EXCHANGE_MS = 1_723_161_257_300


def line(local: int, stream: str, **data: object) -> str:
    return f"{local} " + json.dumps({"stream": stream, "data": data}, separators=(",", ":"))


def quote(number: int, symbol: str = "BTCUSDT", **more: object) -> str:
    return line(
        LOCAL + number,
        f"{symbol.lower()}@bookTicker",
        u=number,
        s=symbol,
        b="61800.20",
        B="2.5",
        a="61800.30",
        A="1",
        **more,
    )


def trade(number: int, symbol: str = "BTCUSDT", **more: object) -> str:
    given = {
        "e": "trade",
        "s": symbol,
        "t": number,
        "p": "61800.30",
        "q": "0.006",
        "T": EXCHANGE_MS + number,
        "m": False,
    }
    return line(LOCAL + number, f"{symbol.lower()}@trade", **(given | more))


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "frames.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_futures_frames_go_by_the_exchange_s_time(tmp_path: Path) -> None:
    ticks, context = play(write(tmp_path, quote(1, T=EXCHANGE_MS + 1, E=EXCHANGE_MS + 5), trade(2)))
    assert ticks["kind"].tolist() == [QUOTE, TRADE]
    assert ticks["ts_event"].tolist() == [(EXCHANGE_MS + 1) * 10**6, (EXCHANGE_MS + 2) * 10**6]
    assert ticks["venue_seq"].tolist() == [1, 2]
    assert [float(ticks[0][name]) for name in ("bid", "bid_size", "ask", "ask_size")] == [61800.2, 2.5, 61800.3, 1]
    assert [float(ticks[1][name]) for name in ("price", "size")] == [61800.3, 0.006]
    assert context.symbols == ["BTCUSDT"]


def test_a_recording_whose_quotes_have_no_time_goes_by_the_recorder_s_clock_throughout(tmp_path: Path) -> None:
    ticks, _ = play(write(tmp_path, trade(1), quote(2), trade(3), quote(4)))
    assert ticks["ts_event"].tolist() == [LOCAL + 1, LOCAL + 2, LOCAL + 3, LOCAL + 4]


def test_the_clock_changes_at_the_most_once(tmp_path: Path) -> None:
    ticks, _ = play(
        write(tmp_path, *(trade(i) for i in range(3_000)), quote(3_000), *(trade(i) for i in range(3_001, 5_000)))
    )
    local = ticks["ts_event"] < EXCHANGE_MS * 10**6
    assert len(ticks) == 5_000
    assert abs(local.astype(int)[1:] - local.astype(int)[:-1]).sum() <= 1
    assert local[3_000:].all()


def test_microsecond_times_are_known_by_their_length(tmp_path: Path) -> None:
    ticks, _ = play(write(tmp_path, trade(1, T=EXCHANGE_MS * 1000 + 7)))
    assert ticks["ts_event"].tolist() == [(EXCHANGE_MS * 1000 + 7) * 1000]


def test_other_frames_are_passed_over_and_their_number_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "feeds.replay")
    ticks, context = play(
        write(
            tmp_path,
            line(LOCAL, "btcusdt@depth@0ms", e="depthUpdate", b=[["1", "2"]], a=[]),
            line(LOCAL, "btcusdt@depth@0ms", e="depthUpdate", b=[], a=[]),
            f'{LOCAL} {{"lastUpdateId":1,"bids":[],"asks":[]}}',
            f'{LOCAL} {{"result":null,"id":1}}',
            trade(1),
        )
    )
    assert len(ticks) == 1
    assert not context.refused
    assert "1 REST depth snapshot, 2 depth, 1 other reply" in caplog.text


@pytest.mark.parametrize(
    "bad",
    [
        f"{LOCAL} {{",
        f"{LOCAL}",
        "no frame",
        f"{LOCAL} [1,2]",
        quote(1)[:-10],
        quote(1).replace('"61800.20"', '"nan"'),
        quote(1).replace('"61800.20"', '"inf"'),
        quote(1).replace('"61800.20"', '""'),
        quote(1).replace('"61800.20"', "null"),
        quote(1).replace('"u":1', '"u":-1'),
        quote(1).replace(',"b":"61800.20"', ""),
        trade(1, T=-5),
        trade(1, t=2**64),
        trade(1, T=10**18),
        "9" * 19 + quote(1)[19:],
    ],
)
def test_a_bad_line_is_refused_and_its_neighbours_play(tmp_path: Path, bad: str) -> None:
    ticks, context = play(write(tmp_path, quote(1), bad, trade(2)))
    assert ticks["venue_seq"].tolist() == [1, 2]
    assert context.refused == {"unparsable frame": 1}
    assert context.examples["unparsable frame"]


def test_a_frame_with_its_keys_in_another_order_or_with_blanks_is_read_too(tmp_path: Path) -> None:
    data = {"u": 7, "s": "BTCUSDT", "b": "1.5", "B": "2", "a": "2.5", "A": "3"}
    turned = f"{LOCAL} " + json.dumps({"data": data, "stream": "btcusdt@bookTicker"}, indent=None)
    ticks, context = play(write(tmp_path, quote(1), turned))
    assert same(ticks["bid"], [61800.2, 1.5])
    assert not context.refused


def test_many_symbols_in_one_recording_compressed_or_not(tmp_path: Path) -> None:
    lines = [quote(i, f"SYM{i % 5}USDT") for i in range(5_000)]
    plain = write(tmp_path, *lines)
    packed = tmp_path / "frames"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        ticks, context = play(path)
        assert [context.symbols[number] for number in ticks["instrument"]] == [f"SYM{i % 5}USDT" for i in range(5_000)]
        assert play(path, symbol="SYM1*")[0]["venue_seq"].tolist() == list(range(1, 5_000, 5))
