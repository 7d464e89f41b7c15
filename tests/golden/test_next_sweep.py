"""The file that follows from a sweep, word for word.

After a wanted change: GOLDEN_ACCEPT=1 python -m pytest tests/golden/test_next_sweep.py, then read the diff in git.
"""

import json
import os
from pathlib import Path

from tests.tune_jobs.synthetic import SPACE, sweep_record, wide_ledger, write
from tune_jobs.search.next_sweep import next_sweep

GOLDEN = Path(__file__).parent / "next_sweep.yaml"


def test_the_next_sweep_of_a_wide_search(tmp_path: Path) -> None:
    folder = write(tmp_path / "wide", wide_ledger(), sweep_record())
    lines = [f"  {name}: {json.dumps(spec)}" for name, spec in SPACE.items()]
    folder.sweep_file.write_text("\n".join(["name: wide", "method: random", "count: 32", "parameters:", *lines]) + "\n")
    text = next_sweep(folder.path).text()
    if os.environ.get("GOLDEN_ACCEPT"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")
