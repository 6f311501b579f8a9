"""One reader a format. A format is told by what is in the file, never by its name alone.

Each module has ``sources(file, settings)``: the file's sources of ticks, or an empty list: "not of mine".
"""

from collections.abc import Callable

from feeds.replay.readers import binance, csv_named, dbn, lean, parquet, recording
from feeds.replay.readers.base import RecordedFile, Settings, Source

#: Every format, in the order they are asked.
FORMATS: tuple[Callable[[RecordedFile, Settings], list[Source]], ...] = (
    # Before Parquet of any kind, which it is.
    recording.sources,
    parquet.sources,
    lean.sources,
    dbn.sources,
    binance.sources,
    csv_named.sources,
)

__all__ = ["FORMATS", "RecordedFile", "Settings", "Source"]
