"""What was, over HTTP, in the shapes of Alpaca's market data API v2 (https://docs.alpaca.markets/reference).

::

    request ──params──> query ──scan, bars (pure, in steps)──> page ──render (pure, in steps)──> body
        └────────── handlers ── pace: one step a turn of the loop, whoever asks ──────────────────┘

Everything is answered from the ring and the latest table: a page token is a place in the stream, and nothing is kept
between two requests.
"""
