"""What the state of a sweep is made of. Plain values and interfaces."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tune_jobs.driver.inherit import Inherit
from tune_jobs.driver.learning import Learning
from tune_jobs.driver.recovery import RetryPolicy
from tune_jobs.placing.placer import Option
from tune_jobs.placing.submission import SubmissionLimits
from tune_jobs.records.trial_spec import TrialSpec
from tune_jobs.search.early_stopping import EarlyStopping
from tune_jobs.search.samplers import Sampled, Sampler
from tuning_common.goal import Goal


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """Where time comes from.

    Attributes:
        elapsed_s: Only grows; for durations.
        now: Unix seconds; for records.
    """

    elapsed_s: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


class SpecMaker(Protocol):
    """Turns sampled values into what a trial's process needs."""

    def make(self, number: int, sampled: Sampled) -> TrialSpec:
        """Returns the specification of a new trial.

        Raises:
            RequestError: When the values are no valid run.
        """
        ...

    def options(self, spec: TrialSpec, least_bytes: int = 0) -> tuple[Option, ...]:
        """Returns every way to run a trial.

        Args:
            spec: The trial.
            least_bytes: What its cards must give together at least, whatever the estimate says.

        Raises:
            RequestError: When it can never run here; says what would make it fit.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SweepParts:
    """Who decides what in a sweep.

    Attributes:
        sampler: Which configurations are tried.
        specs: How they run.
        early_stopping: Which trials continue.
        retry: What is tried again.
        inherit: Copies a donor's checkpoint for a trial of a population.
        learning: Corrects what requests ask for.
    """

    sampler: Sampler
    specs: SpecMaker
    early_stopping: EarlyStopping
    retry: RetryPolicy
    inherit: Inherit
    learning: Learning = field(default_factory=Learning)


@dataclass(frozen=True, kw_only=True)
class SweepLimits:
    """Of one sweep.

    Attributes:
        sweep: Its name.
        goal: Whether high or low values are good.
        longest: Evaluations of a trial that is never stopped; a trial ends by itself there.
        submission: How many trials are under way at a time.
        ends_at_s: Reading of the elapsed clock after which trials end at their next report; None for never.
        scheduler: Name of the scheduler that stops trials, for reasons.
    """

    sweep: str
    goal: Goal
    longest: int
    submission: SubmissionLimits
    ends_at_s: float | None = None
    scheduler: str = "the scheduler"
