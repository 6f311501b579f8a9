"""What the tests of delivery share."""

from __future__ import annotations

import pytest

from tests.unit.stream.support import Market


@pytest.fixture
def market() -> Market:
    market = Market()
    for name in ("AAPL", "MSFT", "BTC-USD", "BTC-EUR"):
        market.instrument(name)
    return market
