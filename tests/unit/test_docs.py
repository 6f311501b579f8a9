"""The documents say what the code does."""

import re
from pathlib import Path

import pytest

from marketfeed.model.bars import BAR_ROW
from marketfeed.model.tick import RECORD
from marketfeed.stream.codes import CloseCode, ErrorCode, GapReason
from marketfeed.stream.encoding.binary import HEADER
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


def test_the_layout_of_records_is_the_documented_one():
    section = PROTOCOL.partition("\n## Records\n")[2].partition("\n## ")[0]
    row = re.compile(r"^\| (\d+) \| (\w+)(?: bytes)? \| (?:`(\w+)`)?", re.MULTILINE)
    header, record, bar = (row.findall(table) for table in section.split("|---|---|---|")[1:])
    assert [(name, int(offset), kind) for offset, kind, name in record] == [
        (name, RECORD.fields[name][1], RECORD[name].str.strip("<|")) for name in RECORD.names
    ]
    # Of a bar those that are not as in a tick.
    assert [(name, int(offset), kind) for offset, kind, name in bar] == [
        (name, BAR_ROW.fields[name][1], BAR_ROW[name].str.strip("<|"))
        for name in BAR_ROW.names
        if name not in RECORD.names or name == "flags"
    ]
    assert RECORD.itemsize == 88
    assert f"record: {RECORD.itemsize}" in section
    assert [int(offset) for offset, *_ in header] == [0, 4, 6, 8, 10, 12, 16]
    assert "".join({"4": "4s", "u2": "H", "u4": "I", "u8": "Q"}[kind] for _, kind, _ in header) == HEADER.format[1:]
    assert f"begins, {HEADER.size} " in section
