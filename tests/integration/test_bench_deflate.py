"""What measures compression measures it: every program runs, and is understood by a client that inflates."""

from pathlib import Path

from bench.deflate import PROGRAMS, measure


def test_each_program_serves_and_compresses_as_its_name_says(tmp_path: Path) -> None:
    octets = {name: measure(module, compression, 2000, 0.5, tmp_path).octets for name, module, compression in PROGRAMS}
    assert octets["shared"] < octets["none"] / 2
    assert octets["per connection"] < octets["none"] / 2
