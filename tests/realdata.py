"""Where the recorded ticks are, for the tests that want real ones. They are not part of this repository."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

needs_data = pytest.mark.skipif(
    not (DATA / "MANIFEST.json").is_file(), reason="needs the recorded ticks of ../shared/data"
)
