"""Who gets what, and when. Pure and sans-IO: ticks and commands in, frames out; time is handed in.

::

    client's command ──> Session ──> Selection (which instruments)   Options (how often, which)
                            │              └──────────┬──────────────┘
                            │                     Subscriber = a cursor into the store
                            │                         │ members of
    store ──ring.read(cursor) or latest.since(cursor)─┴──> Lane (a cadence) ──> Group (same wish) ──one frame──> Link
                                                             │ Routes: cell -> groups      Framer: a buffer of frames
                                                             └ Hub runs the lanes: Delivery for all in step, CatchUp
                                                               for those behind

A subscriber in step with its lane has no state of its own: the lane's cursor is its cursor, and the group's frame is
its frame. One that could not take a frame keeps a cursor and is served from it when it can; nothing is queued for it.
"""
