"""The documents say what the code does."""

import re
from pathlib import Path

import pytest

from marketfeed.stream.codes import CloseCode, ErrorCode, GapReason
from marketfeed.stream.protocol import MESSAGE_TYPES, NOT_SERVED, Command, Subscribe
from marketfeed.stream.subscription import CHANNELS

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
HEADINGS = set(re.findall(r"^#+ `(\w+)`$", PROTOCOL, re.MULTILINE))


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
def test_every_message_type_has_a_heading(kind):
    assert kind in HEADINGS


@pytest.mark.parametrize("command", [cls.__struct_config__.tag for cls in Command.__args__])
def test_every_command_has_a_heading(command):
    assert command in HEADINGS


@pytest.mark.parametrize("code", [*ErrorCode, *CloseCode], ids=lambda code: f"{int(code)} {code.name}")
def test_every_code_has_a_row_with_its_name(code):
    assert re.search(rf"^\| {int(code)} \| `{code.name}` \| \S", PROTOCOL, re.MULTILINE)


@pytest.mark.parametrize("reason", [reason.name.lower() for reason in GapReason])
def test_every_reason_of_a_gap_has_a_row(reason):
    assert re.search(rf"^\| `{reason}` \| \S", PROTOCOL, re.MULTILINE)


@pytest.mark.parametrize(
    "option", [name for name in Subscribe.__struct_fields__ if name not in (*CHANNELS, *NOT_SERVED)]
)
def test_every_option_of_subscribe_has_a_row(option):
    assert re.search(rf"^\| `{option}` \| \S", PROTOCOL, re.MULTILINE)
