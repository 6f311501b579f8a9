"""The instrument as a whole: real programs, real sockets, short windows."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.fanout import main
from bench.load.measure import Desk, Settings, desk, two_cpus
from bench.load.process import StartFailed, cpu_ns, family, free_port, memory_bytes, pinned, server
from bench.load.programs import PROGRAMS, Program
from bench.load.workloads import Workload

SMALL = Workload("small", subscribers=5, symbols=20, each=5, rate=2_000)


@pytest.fixture
def bench() -> Iterator[Desk]:
    server_cpu, client_cpu = two_cpus()
    settings = Settings(seconds=1.0, warmup_s=0.2, verify_s=0.3, server_cpu=server_cpu, client_cpu=client_cpu)
    with desk(settings) as found:
        yield found


@pytest.mark.parametrize("name", ["marketfeed", "tornado", "tornado/batched", "floor"])
def test_a_program_delivers_what_the_workload_offers(bench: Desk, name: str) -> None:
    if reason := PROGRAMS[name].missing():
        pytest.skip(reason)
    result = bench.run(PROGRAMS[name], SMALL)
    assert not result.error
    values = result.values
    # Which half-second of the market is measured differs: some symbols are busier than others.
    assert values["delivered"] == pytest.approx(values["offered"], rel=0.2)
    assert values["verified"] > 0
    assert values["cpu_us"] == pytest.approx(values["server_cpu"] * 1e6 / values["delivered"], rel=0.01)
    assert 0 < values["server_cpu"] <= 1.1
    assert 80 < values["bytes"] < 200
    assert values["memory"] > 0
    if name == "floor":
        assert values["latency_ms"] is None
    else:
        assert 0 < values["latency_ms"]["p50"] <= values["latency_ms"]["p99"]


def test_a_program_that_sends_something_else_is_found_out(bench: Desk) -> None:
    # The floor repeats one text: taken for a server that sends quotes, it is caught at once.
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    floor = PROGRAMS["floor"]
    liar = Program("liar", floor.command, floor.missing, dialect="websocket")
    assert "failed" in bench.run(liar, SMALL).error


def test_a_program_that_ends_at_once_is_told_with_its_last_words(bench: Desk) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no licence')"]
    result = bench.run(Program("bad", lambda _: command, lambda: None), SMALL)
    assert "it ended with status 1: no licence" in result.error
    assert not result.counts


def test_a_server_is_pinned_and_gone_afterwards(tmp_path: Path) -> None:
    cpu, _ = two_cpus()
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with server(command, port, cpu, tmp_path, tmp_path / "log", {}) as pid:
        assert os.sched_getaffinity(pid) == {cpu}
        assert cpu_ns(pid) > 1_000_000
        assert memory_bytes(pid) > 1_000_000
    assert not Path(f"/proc/{pid}").exists()


def test_a_server_that_never_listens_is_ended(tmp_path: Path) -> None:
    with (
        pytest.raises(StartFailed, match="ended with status 0"),
        server([sys.executable, "-c", ""], free_port(), 0, tmp_path, tmp_path / "log", {}),
    ):
        pass


def test_what_a_process_started_counts_with_it() -> None:
    script = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '30']);"
        "print(child.pid, flush=True); sys.stdin.read(); child.kill()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert family(parent.pid) == [parent.pid, child]


def test_the_cpus_are_given_back() -> None:
    before = os.sched_getaffinity(0)
    with pinned(min(before)):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_an_unknown_workload_or_peer_is_refused_with_the_known_ones() -> None:
    for arguments in (["--workload", "Z"], ["--peers", "nobody"]):
        said = CliRunner().invoke(main, arguments)
        assert said.exit_code == 2
        assert "there are: " in said.output


def test_the_command_writes_a_table_a_file_and_a_picture(tmp_path: Path) -> None:
    arguments = ["--workload", "A", "--peers", "tornado/batched", "--seconds", "0.5", "--warmup", "0"]
    files = ["--json", str(tmp_path / "runs.json"), "--plot", str(tmp_path / "runs.png")]
    done = subprocess.run(
        [sys.executable, "-m", "bench.fanout", *arguments, *files],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""
    assert "A: 100 subscribers" in done.stdout
    runs = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert [run["program"] for run in runs] == ["marketfeed", "tornado/batched"]
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
