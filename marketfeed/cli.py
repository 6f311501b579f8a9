"""The command line. Every setting of the server is an option of `serve`; they are made from the same table."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from marketfeed.feed import FeedError, feed_types
from marketfeed.server.config import SETTINGS, ConfigError, load

#: Where the commands are that clients are made of; by their names.
_ELSEWHERE = {
    "record": ("marketfeed.recording.command", "record"),
    "replay-control": ("marketfeed.client.control", "control"),
    "tail": ("marketfeed.client.tail", "tail"),
}


class _Commands(click.Group):
    """Loads those elsewhere only when they are asked for: a server's start does not wait for them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, name = _ELSEWHERE[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="marketfeed")
def main() -> None:
    """Market data streaming: ticks in, filtered and throttled quote updates out."""


def _settings(command: Callable[..., None]) -> Callable[..., None]:
    for setting in reversed(SETTINGS):
        default = (
            "none"
            if setting.default in ("", ())
            else f"{setting.default:g}"
            if setting.type is float
            else setting.default
        )
        command = click.option(
            f"--{setting.name.replace('_', '-')}",
            setting.name,
            type=setting.type,
            multiple=setting.many,
            default=None,
            metavar=setting.unit.upper().replace(" ", "_"),
            help=f"{setting.help} [default: {default}]",
        )(command)
    return command


@main.command()
@click.option("--feed", "feeds", multiple=True, metavar="SPEC", help="[NAME=]TYPE:TARGET?key=value&... [default: sim]")
@click.option("--config", "path", type=click.Path(dir_okay=False), help="TOML file with [server] and [[feeds]]")
@_settings
def serve(feeds: tuple[str, ...], path: str | None, **given: Any) -> None:
    """Serve feeds to WebSocket clients until interrupted."""
    # Imported here, so that `tail` and `--help` do not wait for it.
    from marketfeed.server.run import serve as run

    try:
        config = load(path, given, feeds)
        logging.basicConfig(
            level=config["log_level"].upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        run(config, lambda url: _announce(url, [spec.name for spec in config.feeds], config["share"]))
    except (ConfigError, FeedError) as error:
        raise click.ClickException(str(error)) from None


def _announce(url: str, feeds: list[str], share: str) -> None:
    stream = url.replace("http", "ws", 1)
    click.echo(f"marketfeed on {url}")
    click.echo(f"  every feed   {stream}/stream")
    for name in feeds:
        click.echo(f"  feed         {stream}/v2/{name}")
    click.echo(f"  status       {url}/api/status")
    if share:
        click.echo(f"  same host    marketfeed.attach({share!r})")
    click.echo(f"  look at it   marketfeed tail {stream}/stream --quotes '*' --max-hz 4")
    sys.stdout.flush()


@main.command()
def feeds() -> None:
    """List the feed types that are installed, and their options."""
    for name, cls in sorted(feed_types().items()):
        click.echo(f"{name}: {cls.SUMMARY}")
        for option in cls.OPTIONS:
            click.echo(f"    {option.name}={option.default}  {option.help}")
