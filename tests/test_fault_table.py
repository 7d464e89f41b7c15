"""Every row of both tables of docs/faults.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_row_of_the_fault_table_is_a_test() -> None:
    lines = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    heads = ("| fault", "| attempt", "| `--")  # a run of a benchmark is no row of its own
    rows = [line for line in lines if line.startswith("| ") and not line.startswith(heads)]
    assert len(rows) >= 16
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert named, row
        assert [path for path in named if not (ROOT / path).exists()] == []
