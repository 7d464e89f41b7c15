"""How far a sweep is, derived from its journal: trials, the best value, the time that is left. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from common.goal import Goal, best_of
from tune_jobs.records.journal import TrialHistory

TrialStatus = Literal["waiting", "running", "paused", "finished", "stopped", "failed", "refused", "interrupted"]
STATUSES: tuple[TrialStatus, ...] = (
    "waiting", "running", "paused", "finished", "stopped", "failed", "refused", "interrupted",
)  # fmt: skip
ENDED: tuple[TrialStatus, ...] = ("finished", "stopped", "failed", "refused")


@dataclass(frozen=True, kw_only=True)
class SweepFrame:
    """What does not change while a sweep runs.

    Attributes:
        sweep: Name of the sweep.
        metric: Metric that trials are compared by.
        goal: Whether high or low values of it are good.
        total: Trials that the sweep will run.
        longest: Evaluations in a trial that is never stopped.
        slots: Trials that can run side by side, for the time that is left.
        rungs: Evaluations at which trials are compared.
        started_s: Clock reading at the start of this driver.
        simulated: Whether the cards are logical ones.
    """

    sweep: str
    metric: str
    goal: Goal
    total: int
    longest: int
    slots: int
    rungs: tuple[int, ...] = ()
    started_s: float = 0.0
    simulated: bool = False


@dataclass(frozen=True, kw_only=True)
class TrialProgress:
    """One trial.

    Attributes:
        number: Place in the sweep, from 1.
        name: Experiment name.
        status: "paused" when it gave its share back and will go on; "interrupted" when its driver has gone.
        iteration: Evaluations so far.
        rung: Index of the highest rung passed, None before the first.
        last: The metric's last value.
        best: The metric's best value so far.
        reason: Why it ended, or what it waits for.
        run_s: Seconds in which it ran, over all attempts, until now.
        attempts: How often it was started.
        share: GPUs held.
        retries: Attempts that failed and were followed by another.
        location: Host and card that it runs on; None until it has reported them, and where it runs without a card.
    """

    number: int
    name: str
    status: TrialStatus = "waiting"
    iteration: int = 0
    rung: int | None = None
    last: float | None = None
    best: float | None = None
    reason: str = ""
    run_s: float = 0.0
    attempts: int = 0
    share: float = 0.0
    retries: int = 0
    location: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class SweepProgress:
    """State of a whole sweep at one moment.

    Attributes:
        frame: What does not change.
        trials: Those that are known, by number.
        now_s: Clock reading of that moment.
    """

    frame: SweepFrame
    trials: Mapping[int, TrialProgress] = field(default_factory=dict)
    now_s: float = 0.0

    def count(self, *statuses: TrialStatus) -> int:
        """Counts the trials in these states; trials that are not known yet are "waiting"."""
        known = sum(1 for trial in self.trials.values() if trial.status in statuses)
        return known + (max(self.frame.total - len(self.trials), 0) if "waiting" in statuses else 0)

    def best(self) -> TrialProgress | None:
        """Returns the trial with the best value so far, the earlier one of two equals."""
        trials = sorted(self.trials.values(), key=lambda trial: trial.number)
        return best_of(trials, lambda trial: trial.best, self.frame.goal)

    def left_s(self) -> float | None:
        """Estimates the seconds that are left if no further trial is stopped early, so an upper bound.

        None before the first report. Evaluations still to come, times the mean duration of one so far, shared among
        the trials side by side.
        """
        done = sum(trial.iteration for trial in self.trials.values())
        if not done:
            return None
        longest, total = self.frame.longest, self.frame.total
        spent_s = sum(trial.run_s for trial in self.trials.values())
        to_come = sum(max(longest - trial.iteration, 0) for trial in self.trials.values() if trial.status not in ENDED)
        to_come += max(total - len(self.trials), 0) * longest
        side_by_side = max(1, min(self.frame.slots, self.count("running", "paused", "waiting")))
        return to_come * spent_s / done / side_by_side


def progress_of(
    frame: SweepFrame,
    trials: Mapping[int, TrialHistory],
    now_s: float,
    *,
    waiting: Mapping[int, str] | None = None,
    driver_ended: bool = False,
) -> SweepProgress:
    """Derives the progress of a sweep from its journal.

    Args:
        frame: What does not change.
        trials: Of the journal.
        now_s: Reading of the driver's clock that only grows.
        waiting: Why trials wait at this moment, by number; those that run report that they wait with their share.
        driver_ended: Whether the driver is at its end: what still runs then is "interrupted".
    """
    known = {
        number: _trial_progress(frame, trial, now_s, (waiting or {}).get(number, ""), driver_ended)
        for number, trial in sorted(trials.items())
    }
    return SweepProgress(frame=frame, trials=known, now_s=now_s)


def _trial_progress(
    frame: SweepFrame, trial: TrialHistory, now_s: float, waits_for: str, driver_ended: bool
) -> TrialProgress:
    values = trial.values
    best = best_of(values, lambda one: one[1], frame.goal)
    iteration = values[-1][0] if values else 0
    passed = [index for index, rung in enumerate(frame.rungs) if rung <= iteration]
    running_s = max(0.0, now_s - trial.elapsed_s) if trial.running else 0.0
    return TrialProgress(
        number=trial.number,
        name=trial.name,
        status=_status(trial, driver_ended),
        iteration=iteration,
        rung=passed[-1] if passed else None,
        last=values[-1][1] if values else None,
        best=best[1] if best else None,
        reason=trial.reason or waits_for or ("" if trial.running else trial.waits_for),
        run_s=trial.run_s + running_s,
        attempts=trial.starts,
        share=cast("float", trial.bundle.get("gpus", 0.0)),
        retries=len(trial.retries),
        location=_location(trial),
    )


def _status(trial: TrialHistory, driver_ended: bool) -> TrialStatus:
    if trial.status is not None:
        return trial.status
    if trial.running:
        return "interrupted" if driver_ended else "running"
    return "paused" if trial.attempts and trial.attempts[-1]["ended"] == "paused" else "waiting"


def _location(trial: TrialHistory) -> tuple[str, str] | None:
    attempt = trial.attempts[-1] if trial.attempts else {}
    return (str(attempt["node"]), str(attempt["card"])) if "card" in attempt else None
