"""What counts, what does not, and what is compared with what."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from bench.load.client import latency
from bench.load.measure import Result
from bench.load.report import as_json, middle, ratio, show
from bench.load.workloads import WORKLOADS

VALUES: dict[str, Any] = {
    "seconds": 10.0,
    "delivered": 50_000.0,
    "offered": 50_000.0,
    "reads": 20_000.0,
    "cpu_us": 2.0,
    "server_cpu": 0.1,
    "client_cpu": 0.2,
    "waited": 0.0,
    "behind_ms": 0.0,
    "bytes": 120.0,
    "memory": 50 * 2**20,
    "latency_ms": {"p50": 1.0, "p90": 2.0, "p99": 3.0, "p99.9": 4.0, "max": 5.0, "samples": 1000.0},
    "verified": 100,
}


def result(program: str = "marketfeed", error: str = "", **values: Any) -> Result:
    return Result("A", program, {} if error else VALUES | values, error)


@pytest.mark.parametrize("values", [{"client_cpu": 0.95}, {"behind_ms": 200.0}])
def test_a_run_in_which_the_load_client_was_the_bottleneck_counts_for_nothing(values: dict[str, float]) -> None:
    run = result(**values)
    assert not run.counts
    assert "load client was the bottleneck" in run.note


def test_a_server_that_delivers_too_little_and_a_machine_that_is_busy_are_told() -> None:
    run = result(delivered=25_000.0, waited=0.4)
    assert run.counts
    assert "delivered only 50%" in run.note
    assert "waited 40%" in run.note
    assert result().note == ""


def test_the_ratio_is_the_median_of_the_rounds_and_leaves_out_those_that_do_not_count() -> None:
    runs = [
        *(result(cpu_us=1.0), result("ws", cpu_us=3.0)),
        *(result(cpu_us=2.0), result("ws", cpu_us=4.0)),
        *(result(cpu_us=1.0), result("ws", cpu_us=5.0)),
        *(result(cpu_us=1.0), result("ws", cpu_us=900.0, client_cpu=1.0)),
        *(result(error="failed"), result("ws", cpu_us=900.0)),
    ]
    assert ratio(runs, "ws") == 3.0
    assert ratio(runs, "marketfeed") == 1.0
    assert ratio(runs, "picows") is None


def test_rounds_become_one_by_the_median_of_those_that_count() -> None:
    runs = [result(cpu_us=1.0), result(cpu_us=9.0), result(cpu_us=2.0), result(cpu_us=500.0, client_cpu=1.0)]
    one = middle(runs)
    assert one.values["cpu_us"] == 2.0
    assert one.values["latency_ms"]["p99"] == 3.0
    assert one.counts


def test_a_program_that_never_ran_shows_why() -> None:
    assert middle([result(error="failed: no")]).note == "failed: no"


def test_the_table_and_the_json_have_every_program() -> None:
    runs = [
        result(),
        result("uwebsockets", cpu_us=4.0),
        result("floor", latency_ms=None),
        result("ws", error="failed: no"),
    ]
    text = io.StringIO()
    show(Console(file=text, width=140), [WORKLOADS["A"], WORKLOADS["B"]], runs)
    lines = text.getvalue().splitlines()
    assert any(line.split()[:4] == ["uwebsockets", "50,000", "4.000", "2.00x"] for line in lines)
    assert any(line.split()[:5] == ["floor", "50,000", "2.000", "1.00x", "-"] for line in lines)
    assert "ws: failed: no" in lines
    assert not any(line.startswith("B:") for line in lines)
    given = json.loads(as_json(runs, {"picows": "not installed"}, {"seconds": 10}))
    assert [run["program"] for run in given["runs"]] == ["marketfeed", "uwebsockets", "floor", "ws"]
    assert given["skipped"] == {"picows": "not installed"}
    assert given["machine"]["python"]


def test_percentiles_weigh_each_sample_by_the_updates_it_stands_for() -> None:
    found = latency([1_000_000, 100_000_000], [999, 1])
    assert found["p50"] == pytest.approx(1.0, rel=0.01)
    assert found["p99"] == pytest.approx(1.0, rel=0.01)
    assert found["max"] == pytest.approx(100.0, rel=0.01)
    assert latency([1_000_000, 100_000_000], [900, 100])["p99"] == pytest.approx(100.0, rel=0.01)
    assert found["samples"] == 2
