"""The parts of a server, joined, on a real loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

from marketfeed.server.config import load
from marketfeed.server.parts import Parts
from tests.unit.model.test_bars import trades


def test_after_a_shared_store_has_told_its_end_no_bar_is_published(tmp_path: Path) -> None:
    async def main() -> None:
        config = load(None, {"share": "us", "share_dir": str(tmp_path), "ring_ticks": 1024, "instruments": 4096}, ())
        loop = asyncio.get_running_loop()
        parts = Parts(config, loop)
        try:
            ticks = trades((0, 10, 1), (60, 10, 1))
            ticks["ts_recv"] = ticks["ts_event"]
            parts.store.publish(ticks)
            parts.bars.published()  # it waits a little for more
            assert parts.bars.stage.backlog == 2
        finally:
            parts.close()
        head = parts.store.ring.head
        assert parts.store.ended
        # Behind whatever the driver of bars would still have the loop do.
        later = loop.create_future()
        loop.call_later(0.2, later.set_result, None)
        await later
        assert parts.store.ring.head == head

    asyncio.run(main())
