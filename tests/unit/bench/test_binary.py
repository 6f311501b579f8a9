"""The bench of one client's pace runs, and its client takes what there is."""

import json
import subprocess
import sys
from pathlib import Path

from bench.binary import WAYS
from tests.integration.processes import ROOT


def test_every_way_takes_every_tick(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    command = [sys.executable, "-m", "bench.binary", "--ticks", "10000", "--symbols", "20", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--json", str(out)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    (only,) = json.loads(out.read_text())["rounds"]
    assert only.keys() == WAYS.keys()
    for way, result in only.items():
        assert way in done.stdout
        assert min(result.values()) > 0
