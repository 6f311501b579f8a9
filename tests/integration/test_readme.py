"""The README's scripts, run as they stand there."""

import re
import subprocess
import sys

import pytest

from tests.integration.processes import BOUND, ROOT, server

README = (ROOT / "README.md").read_text()
SCRIPTS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("script", SCRIPTS, ids=["asynchronous", "synchronous"])
def test_a_script_of_the_readme_prints_what_the_server_streams(script):
    with server() as address:
        script = script.replace("http://127.0.0.1:8000", address)
        script = script.replace("ws://127.0.0.1:8000", address.replace("http", "ws", 1))
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-u", "-c", script],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            lines = [process.stdout.readline() for _ in range(20)]
        finally:
            process.kill()
            _, errors = process.communicate(timeout=BOUND)
    assert not errors
    assert all(re.match(r"(Quote|Trade)\(", line) for line in lines), lines


def test_the_readme_has_its_ten_lines_and_its_five():
    lines = [[line for line in script.splitlines() if line.strip()] for script in SCRIPTS]
    assert [len(script) for script in lines] == [8, 5]
