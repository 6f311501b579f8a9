"""What commands that connect to a server have in common."""

from __future__ import annotations

import re
from collections.abc import Callable

import click

from marketfeed.client.messages import Position

_POSITION = re.compile(r"(?:(\d+):)?(\d+)", re.ASCII)

_LOGIN = {"key": "who is there", "secret": "belongs to the key", "token": "instead of key and secret"}


def place(context: click.Context, parameter: click.Parameter, value: str | None) -> Position | str | None:
    """A place in a stream, as a user writes it: ``SEQ``, ``EPOCH:SEQ``, or a time."""
    match = _POSITION.fullmatch(value or "")
    if match is None:
        return value
    return Position(int(match[2]), int(match[1]) if match[1] else None)


def login(command: Callable[..., None]) -> Callable[..., None]:
    """The options ``key``, ``secret`` and ``token``."""
    for name, text in reversed(_LOGIN.items()):
        variable = f"MARKETFEED_{name.upper()}"
        command = click.option(f"--{name}", default="", envvar=variable, show_envvar=True, help=text)(command)
    return command
