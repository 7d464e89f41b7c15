"""Sweeps that are killed, stopped and left without room at random moments end as an undisturbed one does."""

from collections import Counter
from typing import get_args

import pytest

from benchmarks.chaos import DISKS, Fault, chaos_folder, run_chaos, shuffled


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_with_every_fault_at_random_moments_ends_as_an_undisturbed_one() -> None:
    with chaos_folder() as (folder, has_disks):
        kinds = [kind for kind in get_args(Fault) if has_disks or kind not in DISKS]
        faults = shuffled(kinds, seed=3)
        chaos = run_chaos(iter([next(faults) for _ in kinds]), folder, seed=3)
        assert chaos.problems == []
        assert chaos.injected == Counter(kinds)
