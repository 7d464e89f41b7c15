"""The progress of a sweep, from its journal: trials, best value, remaining time. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from tune_jobs.config.language import tr
from tune_jobs.config.naming import brief_settings
from tune_jobs.records.journal import TrialHistory
from tuning_common.goal import Goal, best_of

TrialStatus = Literal["waiting", "running", "paused", "finished", "stopped", "failed", "refused", "interrupted"]
STATUSES: tuple[TrialStatus, ...] = (
    "waiting", "running", "paused", "finished", "stopped", "failed", "refused", "interrupted",
)  # fmt: skip
ENDED: tuple[TrialStatus, ...] = ("finished", "stopped", "failed", "refused")


def status_text(status: TrialStatus) -> str:
    """Formats the state of a trial.

    >>> status_text("stopped"), status_text("waiting")
    ('stopped early', 'waiting')
    """
    texts: dict[TrialStatus, str] = {
        "waiting": tr("waiting"),
        "running": tr("running"),
        "paused": tr("paused"),
        "finished": tr("finished"),
        "stopped": tr("stopped early"),
        "failed": tr("failed"),
        "refused": tr("refused"),
        "interrupted": tr("interrupted"),
    }
    return texts[status]


@dataclass(frozen=True, kw_only=True)
class SweepFrame:
    """The constant facts of a running sweep.

    Attributes:
        sweep: Name of the sweep.
        metric: The metric that ranks trials.
        goal: Whether the metric is maximized or minimized.
        total: Number of trials of the sweep.
        longest: Number of evaluations of a trial that is never stopped.
        slots: Number of trials that can run in parallel, for the remaining time.
        rungs: Evaluations at which trials are compared.
        started_s: Clock reading at the start of this driver.
        simulated: Whether the cards are simulated ones.
        cut_texts: See SweepRecord.
        is_random: Whether each trial is drawn independently of the others.
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
    cut_texts: tuple[str, ...] = ()
    is_random: bool = False


@dataclass(frozen=True, kw_only=True)
class TrialProgress:
    """One trial.

    Attributes:
        number: Number in the sweep, from 1.
        name: Experiment name.
        status: "paused": without a share, will resume; "interrupted": its driver has ended.
        iteration: Number of evaluations so far.
        rung: Index of the highest rung passed, None before the first.
        last: The metric's last value.
        best: The metric's best value so far.
        reason: Why it ended or waits.
        run_s: Run time in seconds so far, over all attempts.
        attempts: Number of attempts.
        share: GPUs held.
        retries: Number of failed attempts that another one followed.
        location: Host and card; None before the first report, and without a card.
        settings: Its sampled values, as the trials of a sweep differ in them.
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
    settings: str = ""


@dataclass(frozen=True, kw_only=True)
class SweepProgress:
    """State of a whole sweep at one moment.

    Attributes:
        frame: The constant facts.
        trials: The known trials, by number.
        now_s: Clock reading of that moment.
    """

    frame: SweepFrame
    trials: Mapping[int, TrialProgress] = field(default_factory=dict)
    now_s: float = 0.0

    def count(self, *statuses: TrialStatus) -> int:
        """Counts the trials in these states; unknown trials count as "waiting"."""
        known = sum(1 for trial in self.trials.values() if trial.status in statuses)
        return known + (max(self.frame.total - len(self.trials), 0) if "waiting" in statuses else 0)

    def best(self) -> TrialProgress | None:
        """Returns the trial with the best value so far, the earlier one of two equals."""
        trials = sorted(self.trials.values(), key=lambda trial: trial.number)
        return best_of(trials, lambda trial: trial.best, self.frame.goal)

    def left_s(self) -> float | None:
        """Returns an upper bound of the remaining seconds: no further trial is stopped early.

        None before the first report. Remaining evaluations times the mean duration of an evaluation, divided by the
        number of trials in parallel.
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
        frame: The constant facts.
        trials: The trials of the journal.
        now_s: Reading of the driver's monotonic clock.
        waiting: Why trials wait now, by number; a running trial reports itself that it waits with its share.
        driver_ended: Whether the driver has ended: running trials are then "interrupted".
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
        settings=brief_settings(cast("Mapping[str, object]", trial.spec.get("sampled", {}))),
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
