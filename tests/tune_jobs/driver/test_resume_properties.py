"""A driver that is killed after any event is followed by one that reaches the same outcome."""

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from tests.tune_jobs.driver.driven_sweep import DrivenSweep, Setup
from tests.tune_jobs.specs_of import METRIC
from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.sections import Metric, SearchOptions
from tune_jobs.config.space import Range, Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.records.journal import Journal, TrialHistory
from tune_jobs.search.samplers import ListSampler
from tune_jobs.search.tune_schedulers import scheduler_for

LONGEST = 4
COUNT = 7
SPACE = Space(parameters=(Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-3),))


class Killed(Exception):
    """The driver is gone."""


class KilledJournal(Journal):
    """The driver is killed behind its so-manieth event."""

    def __init__(self, path: Path, after: int) -> None:
        super().__init__(path)
        self._left = after

    def write(self, event: str, number: int, **content: object) -> TrialHistory:
        """Writes the event."""
        trial = super().write(event, number, **content)
        self._left -= 1
        if not self._left:
            raise Killed
        return trial


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to."""

    statuses: dict[int, str]
    evaluations: dict[int, list[tuple[int, float]]]
    copies: dict[int, list[tuple[object, object]]]
    winner: int


def sweep_of(method: str, early_terminate: EarlyTerminate, interval: int = 1) -> Sweep:
    return Sweep(
        name="sample",
        source="",
        method="pbt" if method == "pbt" else "random",
        space=SPACE,
        count=COUNT,
        metric=Metric(name=METRIC, goal="maximize"),
        early_terminate=early_terminate,
        search=SearchOptions(perturbation_interval=interval),
    )


SCHEDULERS: dict[str, Callable[[], TrialScheduler]] = {
    "none": lambda: made(sweep_of("random", EarlyTerminate(type="none"))),
    "asha": lambda: made(sweep_of("random", EarlyTerminate(type="asha", min_iter=1, eta=2))),
    "asha with brackets": lambda: made(sweep_of("random", EarlyTerminate(type="asha", min_iter=1, eta=2, brackets=2))),
    "HyperBandScheduler": lambda: made(
        sweep_of(
            "random", EarlyTerminate(type="HyperBandScheduler", arguments={"max_t": LONGEST, "reduction_factor": 2})
        )
    ),
    "hyperband": lambda: made(sweep_of("random", EarlyTerminate(type="hyperband", min_iter=1, eta=2))),
    "median": lambda: made(sweep_of("random", EarlyTerminate(type="median", min_iter=1, min_trials=2))),
    "pbt": lambda: made(sweep_of("pbt", EarlyTerminate(type="none"))),
    "synchronous pbt": lambda: made(sweep_of("pbt", EarlyTerminate(type="none")), side_by_side=2),
}


def made(sweep: Sweep, side_by_side: int = 16) -> TrialScheduler:
    return scheduler_for(sweep, last=LONGEST, side_by_side=side_by_side)


def setup_of(scheduler: str) -> Setup:
    rng = random.Random(5)
    configurations = [{"learning_rate": 10 ** rng.uniform(-5, -3)} for _ in range(COUNT)]
    return Setup(sampler=lambda: ListSampler(configurations), scheduler=SCHEDULERS[scheduler], longest=LONGEST)


def score_of(seed: int) -> Callable[[int, int], float]:
    return lambda number, evaluation: float(random.Random(f"{seed}/{number}/{evaluation}").randrange(1000))


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


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine loses its power in these tests."""
    monkeypatch.setattr("common.files.os.fsync", lambda descriptor: None)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(seed=st.integers(0, 1000), kills=st.lists(st.integers(1, 90), min_size=1, max_size=3))
def test_whenever_a_driver_is_killed_the_next_reaches_the_same_outcome(
    scheduler: str, seed: int, kills: list[int]
) -> None:
    setup, score = setup_of(scheduler), score_of(seed)
    with tempfile.TemporaryDirectory() as name:
        undisturbed = outcome_of(DrivenSweep(Path(name), setup).finish(score))
    with tempfile.TemporaryDirectory() as name:
        for after in kills:
            try:
                DrivenSweep(Path(name), setup, lambda path, after=after: KilledJournal(path, after)).finish(score)
            except Killed:
                continue
            break
        assert outcome_of(DrivenSweep(Path(name), setup).finish(score)) == undisturbed
