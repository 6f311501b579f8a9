"""Recorded ticks, played again as they happened.

::

    target ──targets──> files ──readers──> sources             one reader a format, told by content
                                              │ batches of TICK, in the file's order
                                              v
                                            merge               by time; one batch of each open file in memory
                                              │ ticks and when they happened
                                              v
    ingest <──Poll── ReplayFeed                                 paces: tick i is due at start + (t_i - t_first) / speed

``ts_event`` is the recording's own event time, whatever the speed and however often it loops; ``ts_recv``, stamped by
ingest, is when it was played.

A row that cannot be a tick is refused, counted and passed over; its neighbours are not touched. A file that turns out
to be damaged half-way is played up to there, counted and logged; the other files go on.
"""

from feeds.replay.feed import ReplayFeed

__all__ = ["ReplayFeed"]
