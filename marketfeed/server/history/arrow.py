"""Rows as an Arrow IPC stream (https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format).

Columns have the names of the JSON keys, with the symbol as `S`; what is not there is null. What JSON tells beside the
items stands in the schema's metadata, each value as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from marketfeed.model.bars import FROM_QUOTES
from marketfeed.model.tick import QUOTE, TRADE, Ticks
from marketfeed.server.history.render import STEP_ITEMS, Rows
from marketfeed.server.history.steps import Steps

try:
    import pyarrow as pa
except ModuleNotFoundError:  # the extra `arrow`
    pa = None

MEDIA_TYPE = "application/vnd.apache.arrow.stream"

#: Column -> where it comes from, by kind of row.
_NUMBERS = {
    QUOTE: {"bp": "bid", "bs": "bid_size", "ap": "ask", "as": "ask_size"},
    TRADE: {"p": "price", "s": "size"},
}
_BAR_NUMBERS = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "vw": "vwap"}


def available() -> bool:
    """Whether pyarrow is installed."""
    return pa is not None


def stream(rows: Rows, symbols: Sequence[str], about: Mapping[str, Any]) -> Steps[bytes]:
    """The rows in the order they have, as one record batch."""
    ids, index = np.unique(rows.records["instrument"], return_inverse=True)
    names = pa.array([symbols[i] for i in ids.tolist()], pa.string())
    yield
    columns = {"S": pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), names), **_columns(rows)}
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    yield
    return _written([batch], batch.schema, about)


def snapshots(parts: Mapping[str, Rows], symbols: Sequence[str], about: Mapping[str, Any]) -> Steps[bytes]:
    """A row an instrument: its symbol, and a struct of each part, null where it has none."""
    ids = np.unique(np.concatenate([rows.records["instrument"] for rows in parts.values()]))
    columns = {"S": pa.array([symbols[i] for i in ids.tolist()], pa.string())}
    for name, rows in parts.items():
        yield
        fields = _columns(rows)
        struct = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
        # Where each instrument's row is; out of the rows where it has none.
        place = np.full(len(ids), -1)
        place[np.searchsorted(ids, rows.records["instrument"])] = np.arange(len(rows.records))
        columns[name] = struct.take(pa.array(place, mask=place < 0))
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    yield
    return _written([batch], batch.schema, about)


def table(columns: Mapping[str, Sequence[Any]], types: Mapping[str, str], about: Mapping[str, Any]) -> Steps[bytes]:
    """Columns of Python values, with the names of their Arrow types."""
    schema = pa.schema([(name, pa.type_for_alias(alias)) for name, alias in types.items()])
    batches = []
    for begin in range(0, max(map(len, columns.values())), STEP_ITEMS):
        part = slice(begin, begin + STEP_ITEMS)
        arrays = [pa.array(columns[field.name][part], field.type) for field in schema]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        yield
    return _written(batches, schema, about)


def _columns(rows: Rows) -> dict[str, Any]:
    records = rows.records
    columns = {"t": pa.array(_own(records, "ts_event").view("M8[ns]"), pa.timestamp("ns", "UTC"))}
    for key, column in _NUMBERS.get(rows.kind, _BAR_NUMBERS).items():
        columns[key] = pa.array(_own(records, column), from_pandas=True)  # NaN is null
    if rows.kind == TRADE:
        columns["i"] = pa.array(_own(records, "venue_seq"))
    if rows.kind in _NUMBERS:
        columns["seq"] = pa.array(rows.seqs.astype(np.uint64))
    else:
        columns["n"] = pa.array(_own(records, "count"))
        of_trades = (records["flags"] & FROM_QUOTES) == 0
        columns["from"] = pa.array(["quotes"] * len(records), pa.string(), mask=of_trades)
    return columns


def _own(records: Ticks, column: str) -> Any:
    return np.ascontiguousarray(records[column])


def _written(batches: Sequence[Any], schema: Any, about: Mapping[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    metadata = {name: orjson.dumps(value) for name, value in about.items()}
    with pa.ipc.new_stream(sink, schema.with_metadata(metadata)) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(metadata))
    return bytes(sink.getvalue())
