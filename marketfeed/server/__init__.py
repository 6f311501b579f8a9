"""The service: everything put together and run.

::

    config ──> run ─┬─ ingest (feeds) ──publish──> store ──> driver ──> hub
                    └─ app (routes) ── transports ── gate ───────────────┘
"""
