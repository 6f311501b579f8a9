"""Settings: where they come from, which are possible, and that all places name the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from marketfeed.cli import main
from marketfeed.feed import FeedSpec
from marketfeed.server.config import SETTINGS, Config, ConfigError, Setting, load

ROOT = Path(__file__).resolve().parents[3]
DEFAULTS = {setting.name: setting.default for setting in SETTINGS}
by_name = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)


@pytest.fixture
def read(tmp_path: Path):
    """Load a file with this text, and what the command line gives."""

    def read_it(text: str | bytes, feeds: tuple[str, ...] = (), **given) -> Config:
        path = tmp_path / "marketfeed.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(str(path), given, feeds)

    return read_it


def error_of(call, *arguments, **more) -> str:
    """The message: one line."""
    with pytest.raises(ConfigError) as refused:
        call(*arguments, **more)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ---- where a value comes from --------------------------------------------------------------------------------------


def test_without_anything_given_it_is_the_defaults_and_the_simulated_market():
    config = load(None, {}, ())
    assert dict(config.values) == DEFAULTS
    assert config.feeds == (FeedSpec("sim", "sim"),)


@by_name
def test_every_default_is_possible_and_of_its_type(setting):
    value = load(None, {}, ())[setting.name]
    assert type(value) is (tuple if setting.many else setting.type)


def test_the_file_comes_before_the_defaults_and_the_command_line_before_the_file(read):
    text = '[server]\nport = 1234\nhost = "::1"\nkey = ["a:b", "c:d"]\ncoalesce_ms = 20\n'
    config = read(text, port=0, key=("x:y",), host=None, origin=())
    assert config["port"] == 0
    assert config["key"] == ("x:y",)
    assert config["host"] == "::1"
    assert config["coalesce_ms"] == 20.0
    assert type(config["coalesce_ms"]) is float
    assert config["max_symbols"] == DEFAULTS["max_symbols"]
    assert read(text)["key"] == ("a:b", "c:d")


def test_options_that_were_not_given_leave_what_the_file_says(read):
    """As the command line gives them: None, or () where it could be given many times."""
    given = {setting.name: () if setting.many else None for setting in SETTINGS}
    assert read('[server]\nport = 1\nkey = "TOKEN"\n', **given)["key"] == ("TOKEN",)


def test_an_empty_file_changes_nothing(read):
    for text in ("", "# nothing\n", "[server]\n", "feeds = []\n"):
        assert read(text) == load(None, {}, ())


def test_the_file_is_utf_8_whatever_the_locale(read):
    assert (
        read('[server]\ncertfile = "/zertifikate/schlüssel-日経.pem"\n')["certfile"]
        == "/zertifikate/schlüssel-日経.pem"
    )


# ---- feeds ---------------------------------------------------------------------------------------------------------


def test_feeds_may_be_tables_with_their_options(read):
    config = read(
        '[[feeds]]\ntype = "sim"\nsymbols = 5\nrate = 2.5\n'
        '[[feeds]]\ntype = "replay"\nname = "nyse"\ntarget = "ticks/a?b=c.zip"\nloop = true\n'
    )
    assert config.feeds == (
        FeedSpec("sim", "sim", "", {"symbols": "5", "rate": "2.5"}),
        FeedSpec("nyse", "replay", "ticks/a?b=c.zip", {"loop": "true"}),
    )


def test_feeds_of_the_command_line_stand_instead_of_those_of_the_file(read):
    text = '[[feeds]]\ntype = "sim"\nsymbols = 5\n'
    assert read(text, ("a=sim?rate=1", "b=sim")).feeds == (
        FeedSpec("a", "sim", "", {"rate": "1"}),
        FeedSpec("b", "sim"),
    )


def test_two_feeds_of_one_name_are_refused_and_the_way_out_is_told(read):
    assert "other=sim:" in error_of(load, None, {}, ("sim", "sim?seed=2"))
    assert "'a'" in error_of(load, None, {}, ("a=sim", "b=sim", "a=replay:x"))
    assert "'sim'" in error_of(read, '[[feeds]]\ntype = "sim"\n[[feeds]]\ntype = "sim"\n')
    assert len(load(None, {}, ("sim", "other=sim")).feeds) == 2


@pytest.mark.parametrize("text", ["", "?rate=1", "=sim", "sim?rate=1&rate=2", "a b"])
def test_a_feed_that_cannot_be_read_is_refused(text):
    assert repr(text) in error_of(load, None, {}, (text,))


# ---- what is not possible ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hints"),
    [
        ("[server\n", ["marketfeed.toml"]),
        (b"[server]\nhost = '\xff'\n", ["marketfeed.toml", "utf-8"]),
        ("[server]\nport = " + "1" * 5000, ["marketfeed.toml"]),
        ("[server]\nport = 1\nport = 2\n", ["marketfeed.toml"]),
        ("[server]\nprot = 1\n", ["'prot'", "marketfeed.toml", "port", "coalesce_ms"]),
        ("[sever]\nport = 1\n", ["[sever]", "[server]", "[[feeds]]"]),
        ("port = 1\n", ["[port]", "[server]"]),
        ("server = 1\n", ["[server] is a table"]),
        ("[feeds]\ntype = 'sim'\n", ["[[feeds]] are tables"]),
        ("feeds = ['sim']\n", ["[[feeds]] are tables"]),
        ("[[feeds]]\nrate = 1\n", ["type", "marketfeed.toml"]),
        ("[[feeds]]\ntype = 'sim'\nrate = [1]\n", ["'rate'", "marketfeed.toml"]),
        ("[[feeds]]\ntype = 'sim'\nsince = 2024-01-01\n", ["'since'"]),
    ],
)
def test_a_file_that_says_something_impossible_is_refused_with_its_place(read, text, hints):
    message = error_of(read, text)
    for hint in hints:
        assert hint in message


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "nothing.toml", tmp_path):
        assert str(path) in error_of(load, str(path), {}, ())


@pytest.mark.parametrize(
    ("name", "toml"),
    [
        ("port", '"8000"'),
        ("port", "8000.0"),
        ("port", "true"),
        ("port", "[1]"),
        ("port", "2024-01-01"),
        ("coalesce_ms", '"5"'),
        ("coalesce_ms", "false"),
        ("host", "127"),
        ("host", '["a"]'),
        ("key", "5"),
        ("key", '["a:b", 5]'),
        ("key", '[["a:b"]]'),
        ("origin", "{ a = 1 }"),
    ],
)
def test_a_value_of_another_type_is_refused_and_both_are_told(read, name, toml):
    message = error_of(read, f"[server]\n{name} = {toml}\n")
    kind = {int: "a whole number", float: "a number", str: "text"}[next(s.type for s in SETTINGS if s.name == name)]
    assert message.startswith(f"{name} is {kind} (")


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.type is not str], ids=lambda setting: setting.name)
def test_the_bounds_themselves_are_possible_and_what_is_beyond_is_not(setting):
    step = 1 if setting.type is int else 1e-6
    for value in (setting.least, setting.most):
        assert load(None, {setting.name: value}, ())[setting.name] == value
    for value in (setting.least - step, setting.most + step, -(10**400), 10**400):
        message = error_of(load, None, {setting.name: value}, ())
        assert message.startswith(f"{setting.name} is {setting.least:,} to {setting.most:,} {setting.unit}, not ")


def test_a_number_that_is_none_is_out_of_bounds(read):
    for value in ("nan", "inf", "-inf"):
        assert error_of(read, f"[server]\ncoalesce_ms = {value}\n") == f"coalesce_ms is 0.1 to 1,000 ms, not {value}"


def test_the_ring_has_a_power_of_two():
    assert load(None, {"ring_ticks": 1 << 16}, ())["ring_ticks"] == 1 << 16
    assert error_of(load, None, {"ring_ticks": 100_000}, ()) == "ring_ticks is a power of two, not 100000"


def test_a_choice_is_one_of_those_there_are():
    assert load(None, {"log_level": "debug"}, ())["log_level"] == "debug"
    message = error_of(load, None, {"log_level": "loud"}, ())
    assert message == "log_level is one of debug, info, warning, error, not loud"


def test_a_key_file_without_a_certificate_does_not_pass_for_tls():
    assert "certfile" in error_of(load, None, {"keyfile": "key.pem"}, ())


# ---- every place names the same settings ---------------------------------------------------------------------------


def default_of(setting: Setting) -> str:
    if setting.default in ("", ()):
        return "none"
    return f"{setting.default:g}" if setting.type is float else str(setting.default)


@by_name
def test_every_setting_is_an_option_of_serve_with_its_unit_help_and_default(setting):
    shown = CliRunner().invoke(main, ["serve", "--help"], terminal_width=200)
    assert shown.exit_code == 0
    option = f"--{setting.name.replace('_', '-')} {setting.unit.upper().replace(' ', '_')}"
    text = " ".join(shown.output.split())
    assert f"{option} {setting.help} [default: {default_of(setting)}]" in text


@by_name
def test_every_setting_has_its_row_in_the_documents(setting):
    rows = [line for line in (ROOT / "docs" / "settings.md").read_text().splitlines() if line.startswith("| `")]
    allowed = "any"
    if setting.choices:
        allowed = ", ".join(setting.choices)
    elif setting.type is not str:
        allowed = f"{setting.least:,} to {setting.most:,}"
    if setting.many:
        allowed += ", many times"
    row = f"| `{setting.name}` | {default_of(setting)} | {setting.unit} | {allowed} | {setting.help} |"
    assert rows[SETTINGS.index(setting)] == row
    assert len(rows) == len(SETTINGS)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--port", "70000"], "Error: port is 0 to 65,535 TCP port, not 70000"),
        (["--without", "websocket"], "Error: without is one of socketio, webrtc, not websocket"),
        (["--ring-ticks", "1000000"], "Error: ring_ticks is a power of two"),
        (["--feed", "sim", "--feed", "sim"], "Error: two feeds are named 'sim'"),
        (["--config", "there-is-no-such.toml"], "Error: cannot read there-is-no-such.toml"),
        (["--feed", "nothing-of-the-kind"], "no feed type 'nothing-of-the-kind'"),
    ],
)
def test_the_command_line_ends_with_one_line_that_says_what_is_wrong(arguments, hint):
    done = CliRunner().invoke(main, ["serve", *arguments])
    assert done.exit_code == 1
    assert hint in done.output
    assert done.output.count("\n") == 1


def test_a_whole_file_as_in_the_documents_can_be_read(read):
    text = (ROOT / "docs" / "settings.md").read_text()
    example = text.partition("```toml\n")[2].partition("```")[0]
    config = read(example)
    assert config["key"]
    assert len(config.feeds) == 2
