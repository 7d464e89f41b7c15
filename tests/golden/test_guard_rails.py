"""What a person reads when a sweep is not what a careful one would run, word for word, with the better line.

After a wanted change: GOLDEN_ACCEPT=1 python -m pytest tests/golden/test_guard_rails.py, then read the diff in git.
"""

import os
from pathlib import Path

import pytest

from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.planning.guard_rails import KnownFacts, warnings

FOLDER = Path(__file__).parent / "guard_rails"
KNOWN = KnownFacts(trial_s=600, slots=2, train_examples=10_000, evaluations=10)


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_every_remark_on_a_file_has_its_better_line(name: str) -> None:
    sweep = load_sweep(FOLDER / name)
    shown = "".join(f"{remark.rail}: {remark}\n" for remark in warnings(sweep, KNOWN))
    golden = FOLDER / name.replace(".yaml", ".txt")
    if os.environ.get("GOLDEN_ACCEPT"):
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")
