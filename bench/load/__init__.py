"""Load against real sockets: what :mod:`bench.fanout` is made of.

::

    workloads ──> ticks (one file, the same for every program)
        │           │
        │           v
        └──> run ──> the program under test, pinned to one CPU    (programs, process)
                └──> the load client, pinned to another           (client: wire, pump, verify)
                          └──> one result ──> report, plot
"""
