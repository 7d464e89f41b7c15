"""A driver that is killed after any event is followed by one that reaches the same outcome."""

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tune_jobs.driver.driven_sweep import DrivenSweep, Setup
from tests.tune_jobs.driver.schedulers import COUNT, LONGEST, SCHEDULERS, score_of
from tune_jobs.records.journal import Journal, TrialHistory
from tune_jobs.search.samplers import ListSampler


class KilledError(Exception):
    """The driver is gone."""


class KilledJournal(Journal):
    """Kills its driver when so many events are written."""

    def __init__(self, path: Path, after: int) -> None:
        super().__init__(path)
        self._left = after

    def write(self, event: str, number: int, **content: object) -> TrialHistory:
        """Writes the event."""
        trial = super().write(event, number, **content)
        self._left -= 1
        if not self._left:
            raise KilledError
        return trial


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to."""

    statuses: dict[int, str]
    evaluations: dict[int, list[tuple[int, float]]]
    copies: dict[int, list[tuple[object, object]]]
    winner: int


def setup_of(scheduler: str) -> Setup:
    rng = random.Random(5)
    configurations = [{"learning_rate": 10 ** rng.uniform(-5, -3)} for _ in range(COUNT)]
    return Setup(sampler=lambda: ListSampler(configurations), scheduler=SCHEDULERS[scheduler], longest=LONGEST)


def outcome_of(sweep: DrivenSweep) -> Outcome:
    assert not sweep.holding
    assert not sweep.waiting
    assert set(sweep.statuses) == set(sweep.trials)
    best = sweep.progress().best()
    assert best is not None
    return Outcome(
        statuses=sweep.statuses,
        evaluations={number: trial.values for number, trial in sweep.trials.items()},
        copies={
            number: [(one["donor"], one["evaluation"]) for one in trial.copies]
            for number, trial in sweep.trials.items()
        },
        winner=best.number,
    )


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=8)
@given(seed=st.integers(0, 1000), kills=st.lists(st.integers(1, 90), min_size=1, max_size=3))
def test_whenever_a_driver_is_killed_the_next_reaches_the_same_outcome(
    quick_disk: None, scheduler: str, seed: int, kills: list[int]
) -> None:
    setup, score = setup_of(scheduler), score_of(seed)
    with tempfile.TemporaryDirectory() as name:
        undisturbed = outcome_of(DrivenSweep(Path(name), setup).finish(score))
    with tempfile.TemporaryDirectory() as name:
        for after in kills:
            try:
                DrivenSweep(Path(name), setup, lambda path, after=after: KilledJournal(path, after)).finish(score)
            except KilledError:
                continue
            break
        assert outcome_of(DrivenSweep(Path(name), setup).finish(score)) == undisturbed
