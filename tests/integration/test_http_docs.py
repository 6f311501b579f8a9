"""Every example of docs/http.md, run as it stands there."""

import json
import re
import shlex
import subprocess
import sys

import msgspec
import pytest

from marketfeed.server.history import handlers, params
from tests.integration.http import get, wait_for_ticks
from tests.integration.processes import BOUND, ROOT, server

DOCS = (ROOT / "docs" / "http.md").read_text()
CURLS = re.findall(r"### `(.*?)`\n.*?```sh\n(curl .*?)\n```\n\n```json\n(.*?)```", DOCS, re.DOTALL)
SCRIPTS = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)


@pytest.fixture(scope="module")
def address():
    """Two simulated markets that have given some ticks of each kind."""
    with server("--feed", "sim?symbols=20", "--feed", "stocks=sim?symbols=20") as running:
        wait_for_ticks(running, 2000)
        yield running


@pytest.mark.parametrize(("endpoint", "command", "shown"), CURLS, ids=[endpoint for endpoint, _, _ in CURLS])
def test_an_example_is_answered_in_the_shape_that_is_shown(address, endpoint, command, shown):
    curl, url = shlex.split(command)
    assert (curl, url.split("?")[0].replace("/sim/", "/{feed}/")) == ("curl", "http://127.0.0.1:8000" + endpoint)
    reply = get(url.replace("http://127.0.0.1:8000", address), "")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert shape(reply.json) == shape(json.loads(shown))


def shape(value):
    """The keys, down to the items; symbols are as good as one another."""
    if isinstance(value, dict):
        named = {key: shape(of) for key, of in value.items() if not key.startswith("SIM-")}
        symbols = [shape(of) for key, of in value.items() if key.startswith("SIM-")]
        return {**named, **({"SIM": symbols[0]} if symbols else {})}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    # A part of a snapshot may be there or not.
    return None if value is None or isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize("script", SCRIPTS, ids=["arrow", "alpaca-py"])
def test_a_script_prints_what_the_server_holds(address, script):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script.replace("http://127.0.0.1:8000", address)],
        cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=True,
    )  # fmt: skip
    assert "SIM-0000" in done.stdout


def test_every_endpoint_has_an_example():
    routes = {route for route, _, _ in handlers.routes(None)}
    shown = {endpoint for endpoint, _, _ in CURLS}
    for route in routes:
        plain = re.sub(r"\(\?P<(\w+)>[^()]*\)", r"{\1}", route)
        if "{symbol}" in plain:
            assert plain.replace("{kind}", "quotes") in DOCS
        else:
            assert {plain.replace("{kind}", kind) for kind in ("quotes", "trades", "bars")} <= shown


@pytest.mark.parametrize("struct", [params._Bars, params._Match], ids=lambda struct: struct.__name__)
def test_every_parameter_has_a_row(struct):
    for field in msgspec.structs.fields(struct):
        assert re.search(rf"^\| (`\w+`, )?`{field.name}`", DOCS, re.MULTILINE), field.name
