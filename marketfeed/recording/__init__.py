"""Recording: every quote and trade into Parquet files, one an hour, and what is needed to read them again.

::

    ring (serve --record, record --feed) ── Recorder (a thread) ─┐                               ┌─> journal
                                                                 ├─> RecordingFolder ── HourFile ┤
    server (record URL) ── client library ── remote ─────────────┘                               └─> Parquet

A Parquet file without its end cannot be read, and its end comes with the hour's. So each piece of some seconds is also
appended to a journal, an Arrow IPC stream, that can be read up to where it was cut. The journal is deleted when the
Parquet file stands there whole, and read by the next start otherwise.

Needs pyarrow, the extra `parquet`. Nothing is imported here, so that who asks for it can say so.
"""
