"""Every kind of real recording, held against an independent, plain reading of the same file."""

import csv
import gzip
import io
import json
import math
import struct
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from marketfeed.model.tick import QUOTE, TRADE
from tests.realdata import DATA, needs_data
from tests.unit.feeds.replay_helper import Context, play

pytestmark = needs_data
MANIFEST = json.loads((DATA / "MANIFEST.json").read_text()) if (DATA / "MANIFEST.json").is_file() else {}
LEAN = [name for name in MANIFEST if name.startswith("lean/") and name.endswith(".zip")]
BINANCE = [name for name in MANIFEST if name.startswith("binance_raw/") and name.endswith(".gz")]
DBN = "misc/futures_mbp-1_2024-07-01T23-58_2024-07-02T00-02.dbn.zst"
NAN = math.nan

#: ts_event, venue_seq, kind, bid, bid_size, ask, ask_size, price, size
Row = tuple[int, int, int, float, float, float, float, float, float]
COLUMNS = ("ts_event", "venue_seq", "kind", "bid", "bid_size", "ask", "ask_size", "price", "size")


def assert_same(ticks: np.ndarray, rows: list[Row]) -> None:
    assert len(ticks) == len(rows)
    for column, wanted in zip(COLUMNS, zip(*rows, strict=True), strict=True):
        assert np.array_equal(ticks[column], np.array(wanted, ticks.dtype[column]), equal_nan=column not in COLUMNS[:3])


def lean_rows(name: str) -> Iterator[tuple[str, list[Row]]]:
    """Each member's symbol and ticks, cell by cell."""
    _, security, market, *_ = name.split("/")
    zone: ZoneInfo | None = ZoneInfo("America/New_York") if security == "equity" else None
    shift = 5 * 3_600 * 10**9 if market == "fxcm" else 0
    divisor = 10_000 if security == "equity" else 1
    with zipfile.ZipFile(DATA / name) as archive:
        for member in archive.namelist():
            date, symbol = member.split("_")[:2]
            expiry = member.rsplit("_", 1)[1][:-4] if security == "future" else ""
            midnight = datetime.strptime(date, "%Y%m%d").replace(tzinfo=zone or UTC)
            start = int(midnight.timestamp()) * 10**9 + shift
            rows: list[Row] = []
            last = [NAN] * 4
            for cells in csv.reader(io.TextIOWrapper(archive.open(member), newline="")):
                when = start + int(Decimal(cells[0]) * 10**6)
                if "trade" in member.lower():
                    rows.append((when, 0, TRADE, NAN, NAN, NAN, NAN, float(cells[1]) / divisor, float(cells[2])))
                elif security == "equity":
                    for side in (0, 2):
                        if cells[1 + side] != "0" or cells[2 + side] != "0":
                            last[side : side + 2] = float(cells[1 + side]) / divisor, float(cells[2 + side])
                    rows.append((when, 0, QUOTE, last[0], last[1], last[2], last[3], NAN, NAN))
                else:
                    rows.append((when, 0, QUOTE, float(cells[1]), NAN, float(cells[2]), NAN, NAN, NAN))
            yield symbol.upper() + expiry, rows


@pytest.mark.parametrize("name", [name for name in LEAN if "/aig/" not in name or "trade" in name])
def test_every_tick_of_a_lean_zip(name: str) -> None:
    ticks, context = play(DATA / name)
    assert not context.refused
    assert (np.diff(ticks["ts_event"]) >= 0).all()
    members = dict(lean_rows(name))
    assert len(ticks) == sum(len(rows) for rows in members.values())
    assert sorted(context.symbols) == sorted(members)
    for number, symbol in enumerate(context.symbols):
        assert_same(ticks[ticks["instrument"] == number], members[symbol])


@pytest.mark.parametrize("name", LEAN)
def test_count_first_and_last_row_of_a_lean_zip(name: str) -> None:
    ticks, context = play(DATA / name)
    equity, trade = "/equity/" in name, "trade" in name
    for member, about in MANIFEST[name]["members"].items():
        symbol = member.split("_")[1].upper() + (member.rsplit("_", 1)[1][:-4] if "/future/" in name else "")
        mine = ticks[ticks["instrument"] == context.symbols.index(symbol)]
        assert len(mine) == about["rows"]
        for tick, line in ((mine[0], about["first"]), (mine[-1], about["last"])):
            cells = line.split(",")
            zone = ZoneInfo("America/New_York") if equity else UTC
            midnight = datetime.strptime(member[:8], "%Y%m%d").replace(tzinfo=zone)
            of_day = int(tick["ts_event"]) - int(midnight.timestamp()) * 10**9
            assert of_day - (5 * 3_600 * 10**9 if "/fxcm/" in name else 0) == int(Decimal(cells[0]) * 10**6)
            if trade:
                assert tick["price"] == float(cells[1]) / (10_000 if equity else 1)
            elif equity:
                side, cell = ("bid", 1) if cells[1] != "0" else ("ask", 3)
                assert tick[side] == float(cells[cell]) / 10_000
                assert tick[f"{side}_size"] == float(cells[cell + 1])
            else:
                assert (tick["bid"], tick["ask"]) == (float(cells[1]), float(cells[2]))


def test_crossed_locked_and_suspicious_quotes_are_kept() -> None:
    name = "lean/forex/fxcm/tick/eurusd/20140505_quote.zip"
    ticks, _ = play(DATA / name)
    about = MANIFEST[name]["members"]["20140505_eurusd_tick_quote.csv"]
    assert int((ticks["bid"] > ticks["ask"]).sum()) == about["crossed_bid_gt_ask"]
    assert int((ticks["bid"] == ticks["ask"]).sum()) == about["locked"]


def test_the_two_brokers_agree_once_their_zones_are_applied() -> None:
    mids = {}
    for broker in ("fxcm", "oanda"):
        ticks, _ = play(DATA / f"lean/forex/{broker}/tick/eurusd/20140508_quote.zip")
        mids[broker] = ticks["ts_event"], (ticks["bid"] + ticks["ask"]) / 2
    start = max(when[0] for when, _ in mids.values())
    end = min(when[-1] for when, _ in mids.values())
    grid = np.linspace(start, end, 1_000).astype(np.int64)
    sampled = [mid[np.searchsorted(when, grid, "right") - 1] for when, mid in mids.values()]
    assert np.median(np.abs(sampled[0] - sampled[1])) < 0.00005


def test_a_zip_that_was_copied_elsewhere_plays_the_same(tmp_path: Path) -> None:
    name = "lean/equity/usa/tick/ibm/20131007_quote.zip"
    (tmp_path / "ibm_quote.zip").write_bytes((DATA / name).read_bytes())
    assert play(tmp_path / "ibm_quote.zip")[0].tobytes() == play(DATA / name)[0].tobytes()


def binance_rows(name: str) -> list[tuple[str, Row]]:
    """The file's ticks, frame by frame."""
    clock = "T" if "/spot/" not in name else None
    rows = []
    with gzip.open(DATA / name, "rt") as lines:
        for line in lines:
            stamp, _, text = line.partition(" ")
            frame = json.loads(text)
            kind = frame.get("stream", "").partition("@")[2]
            if kind not in ("bookTicker", "trade"):
                continue
            data = frame["data"]
            when = data[clock] * 10**6 if clock else int(stamp)
            if kind == "trade":
                row: Row = (when, data["t"], TRADE, NAN, NAN, NAN, NAN, float(data["p"]), float(data["q"]))
            else:
                book = [float(data[key]) for key in "bBaA"]
                row = (when, data["u"], QUOTE, book[0], book[1], book[2], book[3], NAN, NAN)
            rows.append((data["s"], row))
    return rows


@pytest.mark.parametrize("name", BINANCE)
def test_every_tick_of_a_binance_recording(name: str) -> None:
    ticks, context = play(DATA / name)
    wanted = binance_rows(name)
    streams = MANIFEST[name]["streams"]
    assert not context.refused
    assert len(ticks) == sum(count for stream, count in streams.items() if stream.endswith(("@bookTicker", "@trade")))
    assert [context.symbols[number] for number in ticks["instrument"]] == [symbol for symbol, _ in wanted]
    assert_same(ticks, [row for _, row in wanted])
    last = ticks[ticks["kind"] == QUOTE][-1]
    about = MANIFEST[name]["last_bookTicker"]
    assert (int(last["venue_seq"]), float(last["bid"]), float(last["ask_size"])) == (
        about["u"],
        float(about["b"]),
        float(about["A"]),
    )


def test_a_spot_recording_never_jumps_between_the_two_clocks() -> None:
    ticks, _ = play(DATA / "binance_raw/spot/btcusdt_20240808.gz")
    assert (np.diff(ticks["ts_event"]) >= 0).all()


def dbn_rows() -> list[Row]:
    """The file's ticks, record by record, from the published layout: header of 16 bytes, price, size, action, ..."""
    import pyarrow as pa

    with pa.input_stream(str(DATA / DBN), compression="zstd") as stream:
        raw = stream.read()
    assert raw[:3] == b"DBN"
    at = 8 + struct.unpack_from("<I", raw, 4)[0]
    rows: list[Row] = []
    while at < len(raw):
        length, rtype, _, instrument, event = struct.unpack_from("<BBHIQ", raw, at)
        price, size, action = struct.unpack_from("<qIc", raw, at + 16)
        sequence, bid, ask, bid_size, ask_size = struct.unpack_from("<IqqII", raw, at + 44)
        assert (rtype, instrument, length) == (1, 118, 20)
        undefined = 2**63 - 1
        rows.append(
            (
                event, sequence, QUOTE, bid / 1e9 if bid != undefined else NAN, bid_size if bid != undefined else NAN,
                ask / 1e9 if ask != undefined else NAN, ask_size if ask != undefined else NAN, NAN, NAN,
            )
        )  # fmt: skip
        if action == b"T":
            rows.append((event, sequence, TRADE, NAN, NAN, NAN, NAN, price / 1e9, size))
        at += length * 4
    return rows


def test_every_tick_of_a_dbn_file() -> None:
    ticks, context = play(DATA / DBN)
    assert context.symbols == MANIFEST[DBN]["symbols"]
    assert not context.refused
    assert int((ticks["kind"] == QUOTE).sum()) == MANIFEST[DBN]["rows"]
    assert_same(ticks, dbn_rows())


def test_a_dbn_file_is_read_as_the_databento_client_reads_it() -> None:
    databento = pytest.importorskip("databento", reason="needs the databento client to compare with")
    theirs = databento.DBNStore.from_bytes((DATA / DBN).read_bytes()).to_ndarray()
    ticks, _ = play(DATA / DBN)
    quotes, trades = ticks[ticks["kind"] == QUOTE], ticks[ticks["kind"] == TRADE]
    traded = theirs[theirs["action"] == b"T"]
    assert np.array_equal(quotes["ts_event"], theirs["ts_event"].astype(np.int64))
    assert np.array_equal(quotes["venue_seq"], theirs["sequence"])
    for side in ("bid", "ask"):
        assert np.array_equal(quotes[side], theirs[f"{side}_px_00"] / 1e9)
        assert np.array_equal(quotes[f"{side}_size"], theirs[f"{side}_sz_00"])
    assert np.array_equal(trades["price"], traded["price"] / 1e9)
    assert np.array_equal(trades["size"], traded["size"])


def test_the_truefx_file() -> None:
    name = "misc/truefx_usdjpy-ticks.csv"
    ticks, context = play(DATA / name, **{"as": "USDJPY"})
    with (DATA / name).open(newline="") as file:
        rows: list[Row] = []
        for cells in csv.DictReader(file):
            when = datetime.fromisoformat(cells["timestamp"])
            ns = int(when.timestamp()) * 10**9 + when.microsecond * 1_000
            rows.append((ns, 0, QUOTE, float(cells["bid"]), NAN, float(cells["ask"]), NAN, NAN, NAN))
    assert len(rows) == MANIFEST[name]["rows"]
    assert context.symbols == ["USDJPY"]
    assert_same(ticks, rows)


def test_the_tardis_file() -> None:
    name = "misc/tardis_huobi-dm-swap_quotes_BTC-USD.csv"
    ticks, context = play(DATA / name)
    with (DATA / name).open(newline="") as file:
        rows: list[Row] = [
            (
                int(cells["timestamp"]) * 1_000, 0, QUOTE, float(cells["bid_price"]), float(cells["bid_amount"]),
                float(cells["ask_price"]), float(cells["ask_amount"]), NAN, NAN,
            )
            for cells in csv.DictReader(file)
        ]  # fmt: skip
    assert len(rows) == MANIFEST[name]["rows"]
    assert context.symbols == ["BTC-USD"]
    assert_same(ticks, rows)


def test_a_folder_of_a_day_plays_every_file_of_it_in_order_of_time() -> None:
    names = [name for name in LEAN if "20131007" in name and "/aig/" not in name]
    ticks, context = play(",".join(str(DATA / name) for name in names))
    assert len(ticks) == sum(len(play(DATA / name)[0]) for name in names)
    assert (np.diff(ticks["ts_event"]) >= 0).all()
    alone, of_alone = play(DATA / names[0], Context())
    for number, symbol in enumerate(of_alone.symbols):
        mine = ticks[(ticks["instrument"] == context.symbols.index(symbol))]
        kind = TRADE if "trade" in names[0] else QUOTE
        mine = mine[mine["kind"] == kind]
        mine["instrument"] = number
        assert mine.tobytes() == alone[alone["instrument"] == number].tobytes()
