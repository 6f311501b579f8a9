"""Recording with real servers, real kills and disks that are really full."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.integration.nursery import Process
from tests.integration.processes import BOUND, TICKS_ONLY, Proxy, cli, process, serve, server, status, stream_of
from tests.integration.test_tail import Terminal, terminal
from tests.realdata import DATA, needs_data
from tests.unit.recording.support import files, leftovers, seqs, told

RECORD = ["marketfeed", "record"]
#: Rows for replay: two symbols, quotes and trades, a tick each millisecond.
TICKS = 40_000


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("market") / "market.csv"
    with path.open("w") as file:
        file.write("time,symbol,bid,ask,price,size\n")
        for number in range(TICKS):
            quote = f"{number}.25,{number}.5,," if number % 3 else f",,{number}.5,{number % 7}"
            file.write(f"{1_700_000_000_000 + number},{'AB'[number % 2]},{quote}\n")
    return path


def until(true: Callable[[], Any]) -> Any:
    """What it returns as soon as that is true."""
    end = time.monotonic() + BOUND
    while not (found := true()):
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.03)  # to ask costs those who are waited for
    return found


@contextlib.contextmanager
def serving(*arguments: str, port: str = "0", **options: Any) -> Iterator[tuple[Process, str]]:
    """A server, and its http address; it is for the test to end it in good order."""
    with process(*serve(), "--port", port, *arguments, **options) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        assert line.startswith("marketfeed on "), line
        yield running, line.split()[-1]


def frame_of(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(folder / name) for name in files(folder)], ignore_index=True)


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that a replay gives again."""
    return frame.drop(columns=["ts_recv", "feed"]).astype({"symbol": "str"})


# From feeds


def test_feeds_recorded_and_the_recording_recorded_again_are_the_same_rows(market: Path, tmp_path: Path) -> None:
    sim = "sim?symbols=20&rate=20000&seed=5"
    with process(
        *RECORD, "--feed", f"csv=replay:{market}?speed=max", "--feed", sim, "-o", str(tmp_path / "a")
    ) as first:
        until(lambda: safe(tmp_path / "a") > TICKS + 20_000)
        first.send_signal(signal.SIGINT)
        assert first.wait(BOUND) == 0
    done = cli("record", "--feed", f"replay:{tmp_path / 'a'}?speed=max", "-o", str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    once, twice = frame_of(tmp_path / "a"), frame_of(tmp_path / "b")
    assert set(once["feed"]) == {"csv", "sim"}
    assert once["seq"].tolist() == list(range(1, len(once) + 1))
    pd.testing.assert_frame_equal(plain(once), plain(twice))
    mine = once[once["feed"] == "csv"]
    assert len(mine) == TICKS
    assert np.array_equal(mine["ts_event"].astype("int64") // 10**6, 1_700_000_000_000 + np.arange(TICKS))


@needs_data
@pytest.mark.parametrize("target", ["lean/equity/usa/tick/bac", "binance_raw/usdm", "misc/*.dbn.zst"])
def test_real_ticks_come_back_as_they_were(target: str, tmp_path: Path) -> None:
    for source, folder in ((DATA / target, "a"), (tmp_path / "a", "b")):
        done = cli("record", "--feed", f"replay:{source}?speed=max", "-o", str(tmp_path / folder))
        assert done.returncode == 0, done.stderr
    once, twice = frame_of(tmp_path / "a"), frame_of(tmp_path / "b")
    assert len(once) > 2_000
    pd.testing.assert_frame_equal(plain(once), plain(twice))


def test_a_plain_line_says_what_was_recorded(market: Path, tmp_path: Path) -> None:
    done = cli("record", "--feed", f"replay:{market}?speed=max", "-o", str(tmp_path / "rec"))
    assert re.fullmatch(
        rf"recorded 40,000 ticks in 1 file in {tmp_path / 'rec'} \(\d\.\d MB, \d+\.\d bytes a tick\), no gaps\n",
        done.stdout,
    )
    assert leftovers(tmp_path / "rec") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say either the URL of a server, or --feed"),
        (["ws://127.0.0.1:1/stream", "--feed", "sim"], "say either the URL of a server, or --feed"),
        (["--feed", "sim", "--since", "0"], "--since is of a server"),
        (["--feed", "nothing"], "no feed type 'nothing'"),
        (["--feed", "replay:/there/is/nothing"], "feed replay: no such file"),
        (["ws://127.0.0.1:1/stream"], "Error: "),
        (["http://127.0.0.1:1/stream"], "not a WebSocket address"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = cli("record", *arguments, "-o", str(tmp_path / "rec"))
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = cli("record", "--feed", "sim", "-o", str(tmp_path / "file" / "rec"))
    assert (done.returncode, done.stderr) == (1, f"Error: {tmp_path / 'file' / 'rec'}: Not a directory\n")


# A kill


def safe(folder: Path) -> int:
    """How many rows are in the folder, in files or journals, as a reader finds them now."""
    import pyarrow as pa

    rows = len(seqs(folder)) if folder.exists() else 0
    for journal in folder.glob(".*.journal"):
        with contextlib.suppress(pa.ArrowException, OSError, StopIteration), pa.OSFile(str(journal)) as source:
            stream = pa.ipc.open_stream(source)
            while True:
                rows += len(stream.read_next_batch())
    return rows


def test_a_kill_takes_at_most_the_last_open_piece_along(tmp_path: Path) -> None:
    with serving(*TICKS_ONLY, "--feed", "sim?symbols=50&rate=30000", "--record", str(tmp_path)) as (running, address):
        until(lambda: safe(tmp_path) > 60_000)
        before = status(address)["recording"]["rows"]
        running.kill()
        running.wait(BOUND)
    assert files(tmp_path) == []
    with serving("--feed", "sim?symbols=50&rate=100", "--record", str(tmp_path)) as (running, address):
        salvaged = until(lambda: status(address)["recording"]["salvaged"])
        until(lambda: status(address)["recording"]["rows"])
        running.terminate()
        assert running.wait(BOUND) == 0
    assert salvaged >= before
    assert (len(files(tmp_path)), leftovers(tmp_path)) == (2, [])
    first = pq.read_table(tmp_path / files(tmp_path)[0])
    assert first["seq"].to_pylist() == list(range(1, salvaged + 1))


# A full disk


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of this size; a plain folder where nothing may be mounted."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, check=False
    )
    try:
        yield path
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "-l", str(path)], check=True)


def limit(running: Process, disk: Path) -> None:
    """See that the process finds this folder full soon: by files of at most 200,000 bytes, an error of the same kind,
    wherever nothing can be mounted."""
    if not disk.is_mount():
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_a_full_disk_ends_the_recording_with_an_alarm_and_streaming_goes_on(market: Path, tmp_path: Path) -> None:
    rescued, errors = tmp_path / "rescued", tmp_path / "stderr"
    with small_disk(tmp_path / "disk", "400k") as disk, errors.open("w") as stderr:
        folder = disk / "rec"
        arguments = [*TICKS_ONLY, "--feed", "sim?symbols=50&rate=4000", "--record", str(folder)]
        with serving(*arguments, stderr=stderr) as (running, address):
            limit(running, disk)
            failed = until(lambda: (found := status(address)["recording"])["state"] == "failed" and found)
            assert failed["error"] in ("No space left on device", "File too large")
            assert failed["rows"] > 0
            seq = status(address)["seq"]
            until(lambda: status(address)["seq"] > seq + 4_000)
            assert status(address)["feeds"]["sim"]["state"] == "running"
            running.terminate()
            assert running.wait(BOUND) == 0
        shutil.copytree(folder, rescued)
    lines = errors.read_text().splitlines()
    assert len([line for line in lines if "RECORDING HAS STOPPED" in line]) == 1
    assert "Traceback" not in errors.read_text()
    # The next start, with room, makes a file of what was safe.
    done = cli("record", "--feed", f"replay:{market}?speed=max", "-o", str(rescued))
    assert done.returncode == 0
    found = pq.read_table(rescued / files(rescued)[0])["seq"].to_pylist()
    assert len(found) >= failed["rows"]
    assert found == list(range(1, len(found) + 1))


def test_a_command_whose_disk_is_full_fails(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "400k") as disk:
        arguments = ["--feed", "sim?symbols=50&rate=20000", "-o", str(disk / "rec")]
        with process(*RECORD, *arguments, stderr=subprocess.PIPE) as running:
            limit(running, disk)
            assert running.stderr is not None
            errors = running.stderr.read()
            assert running.wait(BOUND) == 1
    assert re.search(r"Error: the recording has stopped: (No space left on device|File too large)\n", errors)
    assert "Traceback" not in errors


# From a server


@pytest.mark.parametrize("encoding", ["binary", "json"])
def test_a_server_is_recorded_and_a_recording_goes_on_where_it_ended(
    market: Path, tmp_path: Path, encoding: str
) -> None:
    with server(*TICKS_ONLY, "--feed", f"csv=replay:{market}?loop=true&speed=4") as address:
        for _ in range(2):
            rows = safe(tmp_path) + 2_000
            with process(*RECORD, stream_of(address), "-o", str(tmp_path), "--encoding", encoding) as recording:
                until(lambda rows=rows: safe(tmp_path) > rows)
                recording.send_signal(signal.SIGINT)
                assert recording.wait(BOUND) == 0
            seq = status(address)["seq"]
            until(lambda seq=seq: status(address)["seq"] > seq + 500)
    found = seqs(tmp_path)
    assert len(files(tmp_path)) == 2
    assert found == list(range(found[0], found[0] + len(found)))
    frame = frame_of(tmp_path)
    assert set(frame["feed"]) == {"csv"}
    quotes = frame[frame["kind"] == 1]
    numbers = (quotes["ts_event"].astype("int64") // 10**6 - 1_700_000_000_000).to_numpy()
    assert np.array_equal(quotes["bid"].to_numpy(), numbers + 0.25)
    assert quotes["bid_size"].isna().all()


def test_what_a_client_records_is_what_the_server_records(market: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with serving("--feed", f"csv=replay:{market}?speed=max", "--record", str(there)) as (running, address):
        until(lambda: status(address)["recording"]["rows"] == TICKS)
        with process(*RECORD, stream_of(address), "--since", "0", "-o", str(here)) as recording:
            until(lambda: safe(here) == TICKS)
            recording.send_signal(signal.SIGINT)
            assert recording.wait(BOUND) == 0
        running.terminate()
        assert running.wait(BOUND) == 0
    pd.testing.assert_frame_equal(frame_of(here), frame_of(there), check_categorical=False)


def test_a_cut_is_mended_without_a_gap(market: Path, tmp_path: Path) -> None:
    async def main(port: int) -> None:
        async with Proxy(port) as proxy:
            with process(*RECORD, proxy.url, "-o", str(tmp_path)) as recording:
                for rows in (1_000, 3_000):
                    await asyncio.to_thread(until, lambda rows=rows: safe(tmp_path) > rows)
                    await proxy.cut_and_back()
                await asyncio.to_thread(until, lambda: safe(tmp_path) > 6_000)
                recording.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(recording.wait, BOUND) == 0
            assert proxy.connections >= 3

    with server(*TICKS_ONLY, "--feed", f"csv=replay:{market}?speed=4") as address:
        asyncio.run(main(int(address.rpartition(":")[2])))
    found = seqs(tmp_path)
    assert found == list(range(found[0], found[0] + len(found)))
    assert told(tmp_path / files(tmp_path)[0], "gaps") == []


def test_a_server_that_begins_another_life_is_another_file_with_the_gap_told(tmp_path: Path) -> None:
    sim = [*TICKS_ONLY, "--feed", "sim?symbols=20&rate=2000"]
    with contextlib.ExitStack() as stack:
        running, address = stack.enter_context(serving(*sim))
        recording = stack.enter_context(process(*RECORD, stream_of(address), "-o", str(tmp_path)))
        until(lambda: safe(tmp_path) > 1_000)
        running.terminate()
        assert running.wait(BOUND) == 0
        stack.enter_context(serving(*sim, port=address.rpartition(":")[2]))
        until(lambda: len(files(tmp_path)) == 1)
        rows = safe(tmp_path)
        until(lambda: safe(tmp_path) > rows + 1_000)
        recording.send_signal(signal.SIGINT)
        assert recording.wait(BOUND) == 0
    first, second = (tmp_path / name for name in files(tmp_path))
    assert told(first, "epoch") != told(second, "epoch")
    gaps = told(first, "gaps") + told(second, "gaps")
    assert [(gap["epoch"], gap["last"], gap["reason"]) for gap in gaps] == [(told(first, "epoch"), None, "epoch")]
    last = pq.read_table(first)["seq"].to_pylist()[-1]
    assert gaps[0]["first"] == last + 1
    assert pq.read_table(second)["seq"].to_pylist()[0] == 1


# On a terminal


def test_a_terminal_shows_rate_and_size_and_an_interrupt_ends_the_file_whole(tmp_path: Path) -> None:
    with recorder_on_a_terminal("--feed", "sim?symbols=20&rate=20000", "-o", str(tmp_path)) as screen:
        screen.until(r"● \S*[\d,]+ ticks  \S*[\d,]+/s\S*  [\d.]+ MB  \S*no gaps\S*  0:00:\d\d")
        until(lambda: safe(tmp_path) > 20_000)
        screen.process.send_signal(signal.SIGINT)
        screen.until(r"recorded [\d,]+ ticks in 1 file in ")
        assert screen.process.wait(BOUND) == 0
    assert (len(files(tmp_path)), leftovers(tmp_path)) == (1, [])
    found = seqs(tmp_path)
    assert found == list(range(1, len(found) + 1))


def recorder_on_a_terminal(*arguments: str) -> contextlib.AbstractContextManager[Terminal]:
    return terminal("record", *arguments)


# In the status


def test_the_status_tells_how_the_recording_stands(tmp_path: Path) -> None:
    with server(*TICKS_ONLY, "--feed", "sim?rate=5000", "--record", str(tmp_path / "rec")) as address:
        recording = until(lambda: (found := status(address)["recording"])["rows"] and found)
        assert recording["state"] == "recording"
        assert recording["file"] in {
            name.removeprefix(".").removesuffix(".journal") for name in leftovers(tmp_path / "rec")
        }
        done = cli("record", "--feed", "sim", "-o", str(tmp_path / "rec"))
        assert (done.returncode, done.stderr) == (1, f"Error: another process records into {tmp_path / 'rec'}\n")
    with server(*TICKS_ONLY, "--feed", "sim") as address:
        assert "recording" not in status(address)
