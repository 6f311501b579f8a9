"""Imports run one way: model <- stream <- transports, server, client; and what is pure does no I/O."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IO_MODULES = {
    "tornado",
    "asyncio",
    "uvloop",
    "socket",
    "ssl",
    "selectors",
    "select",
    "threading",
    "http",
    "urllib.request",
}
#: Packages and modules that do no I/O.
PURE = (
    "marketfeed.model",
    "marketfeed.stream",
    "marketfeed.bars",
    "marketfeed.client.request",
    "marketfeed.client.session",
    "marketfeed.transports.rfc6455",
    "marketfeed.transports.rfc7692",
    *(
        f"marketfeed.server.history.{name}"
        for name in ("answers", "arrow", "bars", "params", "render", "scan", "select", "steps", "tokens")
    ),
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool = False) -> set[str]:
    """Every module that this source imports, at its top or inside; ``from a import b`` is both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            package = parts[: len(parts) - node.level + is_package] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def forbidden(module: str, imported: set[str]) -> list[str]:
    """Those of the imports that this module may not have."""

    def pure() -> bool:
        return any(within(module, name) for name in PURE)

    def bad(name: str) -> bool:
        if within(module, "marketfeed") and within(name, "feeds"):
            return True
        if pure() and any(within(name, io) for io in IO_MODULES):
            return True
        if not within(name, "marketfeed") or name == "marketfeed":
            return False
        if within(module, "marketfeed.model"):
            return not within(name, "marketfeed.model")
        if within(module, "marketfeed.stream"):
            return not (within(name, "marketfeed.model") or within(name, "marketfeed.stream"))
        if within(module, "marketfeed.client"):
            return any(within(name, other) for other in ("marketfeed.server", "marketfeed.transports"))
        if within(module, "marketfeed.transports"):
            return within(name, "marketfeed.server")
        if within(module, "marketfeed.recording"):
            return any(within(name, other) for other in ("marketfeed.server", "marketfeed.transports"))
        return False

    return sorted(name for name in imported if bad(name))


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", sources("marketfeed", "feeds"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    module = module_name(path)
    assert forbidden(module, imports(path.read_text(), module, path.name == "__init__.py")) == []


def test_the_rooms_are_there_to_be_looked_at() -> None:
    names = {module_name(path) for path in sources("marketfeed", "feeds")}
    assert {"marketfeed.model.ring", "marketfeed.stream.hub", "marketfeed.ingest", "feeds.sim"} <= names


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("marketfeed.model.ring", "import asyncio", ["asyncio"]),
        ("marketfeed.model.ring", "import numpy, socket as s", ["socket"]),
        ("marketfeed.model.ring", "def f():\n    from tornado.web import X", ["tornado.web", "tornado.web.X"]),
        ("marketfeed.model.ring", "from urllib import request", ["urllib.request"]),
        ("marketfeed.model.ring", "from marketfeed import stream", ["marketfeed.stream"]),
        ("marketfeed.model.ring", "from ..stream import hub", ["marketfeed.stream", "marketfeed.stream.hub"]),
        ("marketfeed.model.ring", "from . import tick", []),
        ("marketfeed.model.ring", "import marketfeed.modelling", ["marketfeed.modelling"]),
        ("marketfeed.stream.hub", "from marketfeed.model import TICK", []),
        ("marketfeed.stream.hub", "import marketfeed.server.app", ["marketfeed.server.app"]),
        ("marketfeed.stream.hub", "import marketfeed.ingest", ["marketfeed.ingest"]),
        ("marketfeed.stream.hub", "import selectors, ssl", ["selectors", "ssl"]),
        ("marketfeed.bars", "import asyncio", ["asyncio"]),
        ("marketfeed.client.session", "import asyncio", ["asyncio"]),
        ("marketfeed.server.history.scan", "import asyncio", ["asyncio"]),
        ("marketfeed.server.history.handlers", "import asyncio, tornado.web", []),
        ("marketfeed.client.aio", "import asyncio", []),
        ("marketfeed.transports.rfc6455", "from tornado import util", ["tornado", "tornado.util"]),
        ("marketfeed.client.aio", "import marketfeed.server", ["marketfeed.server"]),
        ("marketfeed.transports.websocket", "import tornado.web, marketfeed.stream.hub", []),
        (
            "marketfeed.transports.websocket",
            "from marketfeed.server import app",
            ["marketfeed.server", "marketfeed.server.app"],
        ),
        ("marketfeed.recording.remote", "import asyncio, marketfeed.client.aio", []),
        ("marketfeed.recording.folder", "import marketfeed.server.run", ["marketfeed.server.run"]),
        ("marketfeed.cli", "from feeds.sim import SimFeed", ["feeds.sim", "feeds.sim.SimFeed"]),
        ("marketfeed.cli", "import feedsomething", []),
        ("feeds.sim", "import asyncio, marketfeed.feed", []),
    ],
)
def test_the_check_finds_what_is_forbidden_and_nothing_else(module: str, source: str, found: list[str]) -> None:
    assert forbidden(module, imports(source, module)) == found


def loaded_by(modules: str) -> set[str]:
    """The modules that are loaded in a process of its own when these are imported, with what they import."""
    code = (
        "import numpy, msgspec, orjson, sys\n"
        "before = set(sys.modules)\n"
        f"import {modules}\n"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_importing_the_pure_rooms_loads_no_io() -> None:
    loaded = {name.partition(".")[0] for name in loaded_by("marketfeed.model, marketfeed.stream.hub")}
    assert "marketfeed" in loaded
    assert loaded & {"tornado", "asyncio", "uvloop", "socket", "ssl", "selectors"} == set()


def test_a_server_loads_nothing_of_the_clients() -> None:
    loaded = loaded_by("marketfeed.cli, marketfeed.server.run")
    assert "marketfeed.transports.websocket" in loaded
    assert {name for name in loaded if name.startswith(("marketfeed.client.", "marketfeed.recording."))} == set()
