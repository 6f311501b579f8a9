"""Ways in and out: thin, each in a file of its own. What a transport carries, the stream decides.

::

    client ──command──> transport ──> Gate.admit / Gate.receive ──> Session (stream)
    client <──frame──── transport <── Link.send <──────────────────── Hub (stream)
    client <──frame──── senders (many sockets in one call) <───────── Hub (stream)

A WebSocket: upgrade.py (the HTTP request becomes one) -> websocket.py (a client's link) -> socketlink.py (sending);
rfc6455.py and rfc7692.py are the protocol, bytes in and events out.
"""
