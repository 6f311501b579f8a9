"""Ways in and out: thin, each in a file of its own. What a transport carries, the stream decides.

::

    client ──command──> transport ──> Gate.admit / Gate.receive ──> Session (stream)
    client <──frame──── transport <── Link.send <──────────────────── Hub (stream)
    client <──frame──── senders (many sockets in one call) <───────── Hub (stream)
"""
