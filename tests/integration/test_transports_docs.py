"""The examples of docs/transports.md, run as they stand there."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.integration.browser import needs_chromium, page_of
from tests.integration.processes import BOUND, ROOT, server

DOCUMENT = (ROOT / "docs" / "transports.md").read_text()


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def says(command: list[str], enough: Callable[[list[str]], bool]) -> list[str]:
    """The lines that a program says until they are enough; it is ended then. The test's own timeout is the bound."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not enough(lines):
            lines.append(process.stdout.readline())
            assert lines[-1], f"it ended: {lines}"
    finally:
        process.kill()
        process.communicate(timeout=BOUND)
    return lines


def has_id(lines: list[str]) -> bool:
    return any(re.fullmatch(r"id: \d+:\d+\n", line) for line in lines)


def messages_of(lines: list[str]) -> list[dict]:
    return [message for line in lines if line.startswith("data: ") for message in json.loads(line[6:])]


def has_tick(lines: list[str]) -> bool:
    return any(message["T"] in "qt" for message in messages_of(lines[-1:]))


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
@pytest.mark.parametrize("command", examples("sh"), ids=range(len(examples("sh"))))
def test_a_curl_example_streams_events(command):
    with server() as address:
        command = "exec " + command.replace("http://127.0.0.1:8000", address).strip()
        ticks: list[bool] = []

        def enough(lines: list[str]) -> bool:
            ticks.append(has_tick(lines))
            return any(ticks) and has_id(lines)

        lines = says(["bash", "-c", command], enough)
    assert lines[0].startswith("retry: ")
    assert [message["T"] for message in messages_of(lines)][:2] == ["success", "subscription"]


@pytest.mark.parametrize("script", examples("python"), ids=["long polling"])
def test_a_python_example_prints_messages(script):
    with server() as address:
        command = [sys.executable, "-u", "-c", script.replace("http://127.0.0.1:8000", address)]
        lines = says(command, lambda lines: len(lines) == 60)
    assert "'T': 'success'" in lines[0]
    assert "'T': 'subscription'" in lines[1]
    assert all("'T': 'q'" in line for line in lines[2:])


@needs_chromium
@pytest.mark.parametrize("script", examples("js"), ids=["EventSource"])
def test_a_browser_example_logs_quotes(script):
    async def conversation(address: str) -> None:
        async with asyncio.timeout(2 * BOUND), page_of(address) as page:
            said: asyncio.Queue[str] = asyncio.Queue()
            # What it logs itself; the browser's own complaints, of a favicon that is not there, are of another type.
            page.on("console", lambda message: said.put_nowait(message.text) if message.type == "log" else None)
            await page.evaluate(f"() => {{ {script.replace('http://127.0.0.1:8000', address)} }}")
            for _ in range(10):
                assert re.fullmatch(r"SIM-000[01] [\d.]+ [\d.]+", await said.get())

    with server() as address:
        asyncio.run(conversation(address))


def test_every_transport_has_its_examples():
    assert [len(examples(language)) for language in ("sh", "js", "python")] == [3, 1, 1]
