"""Ways in and out: thin, each in a file of its own. What a transport carries, the stream decides.

::

    client ──command──> transport ──> Gate.admit / Gate.receive ──> Session (stream)
    client <──frame──── transport <── Link.deliver, Link.send <──── Hub (stream)
"""
