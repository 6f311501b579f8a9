"""`marketfeed replay-control`: pause, seek and speed of a feed that a server on this machine plays."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit

import click

_TIMEOUT_S = 10.0
_STATUS = "status"


@click.command("replay-control")
@click.argument("url")
@click.argument("what")
@click.argument("value", required=False)
@click.option("--feed", "name", metavar="NAME", help="which feed  [default: the only one that can be controlled]")
@click.option("--insecure", is_flag=True, help="take any certificate, such as one that does not name localhost")
def control(url: str, what: str, value: str | None, name: str | None, insecure: bool) -> None:
    """Control a feed of a running server on this machine, such as a replay.

    URL is that of the server, as in http://127.0.0.1:8000. WHAT is `status`, or what the feed can do, for a replay:
    `pause`, `resume`, `seek TIME` (2013-10-07T13:30:00Z) and `speed FACTOR` (or max). What the feed then says of itself
    is one line of JSON.
    """
    try:
        base = _base(url)
        feeds = _ask(f"{base}/api/admin/feeds", None, insecure)
        name = _chosen(feeds, name)
        if what == _STATUS:
            if value is not None:
                raise click.ClickException(f"{_STATUS} takes no value")
            told = feeds[name]["progress"]
        else:
            command = {"control": what} if value is None else {"control": what, "value": value}
            told = _ask(f"{base}/api/admin/feeds/{quote(name, safe='')}", command, insecure)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps({"feed": name, **told}))


def _base(url: str) -> str:
    parts = urlsplit(url)
    scheme = {"http": "http", "https": "https", "ws": "http", "wss": "https"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ValueError(f"not the address of a server: {url!r}; it looks like http://127.0.0.1:8000")
    return f"{scheme}://{parts.netloc}"


def _chosen(feeds: dict[str, Any], name: str | None) -> str:
    able = [feed for feed, told in feeds.items() if told["controls"]]
    if name is None:
        if len(able) == 1:
            return able[0]
        which = (
            f"several feeds can be controlled: say --feed {' or '.join(able)}" if able else "no feed can be controlled"
        )
        raise click.ClickException(which)
    if name not in able:
        why = "cannot be controlled" if name in feeds else "is not there"
        raise click.ClickException(f"feed {name!r} {why}; those that can be: {', '.join(able) or 'none'}")
    return name


def _ask(url: str, command: dict[str, str] | None, insecure: bool) -> Any:
    body = None if command is None else json.dumps(command).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # http or https
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # The server is on this machine: no proxy lies between.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            why = json.load(error)["error"]
        except (ValueError, KeyError, TypeError):
            why = f"{error.code} {error.reason}"
        raise click.ClickException(f"{urlsplit(url).netloc}: {why}") from None
    except OSError as error:
        raise click.ClickException(f"{urlsplit(url).netloc}: {getattr(error, 'reason', None) or error}") from None
