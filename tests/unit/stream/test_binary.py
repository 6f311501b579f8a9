"""Frames of records: what is none is refused."""

from __future__ import annotations

import numpy as np
import pytest

from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import RECORD, empty_ticks
from marketfeed.stream.encoding.binary import HEADER, BadFrame, BinaryEncoding, read_frame


def frame(n: int = 3) -> bytes:
    rows = empty_ticks(n)
    rows["bid"] = np.arange(n)
    encoding = BinaryEncoding(InstrumentDirectory.on_heap(1), True)
    return encoding.ticks(rows, np.arange(5, 5 + n, dtype=np.uint64)).frame()


def test_the_records_are_a_view_of_the_payload_aligned_where_it_is():
    payload = frame()
    records = read_frame(payload)
    assert records.dtype == RECORD
    assert records["seq"].tolist() == [5, 6, 7]
    assert records["bid"].tolist() == [0.0, 1.0, 2.0]
    assert np.isnan(records["price"]).all()
    assert not records.flags.writeable
    assert not records.flags.owndata
    assert all(RECORD.fields[name][1] % RECORD[name].itemsize == 0 for name in RECORD.names)
    assert (HEADER.size % 8, RECORD.itemsize % 8) == (0, 0)


def test_a_frame_may_be_empty():
    assert len(read_frame(frame(0))) == 0


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"MKTF",
        frame()[:-1],
        frame() + b"\0",
        frame()[:23],
        b"JUNK" + frame()[4:],
        frame()[:4] + b"\2\0" + frame()[6:],  # version
        frame()[:6] + b"\x20\0" + frame()[8:],  # bytes of the header
        frame()[:8] + b"\x50\0" + frame()[10:],  # bytes of a record
        frame()[:12] + b"\xff\xff\xff\xff" + frame()[16:],  # count
    ],
)
def test_what_is_no_frame_of_this_version_is_refused(payload):
    with pytest.raises(BadFrame) as refused:
        read_frame(payload)
    assert len(str(refused.value)) < 200
