"""What a sweep has done so far: trials, the best value, the time that is left.

Pure: events and clock readings come in, the state goes out.
"""

from dataclasses import dataclass, field
from typing import Literal

from common.goal import Goal, best_of, better

TrialStatus = Literal["waiting", "running", "paused", "finished", "stopped", "failed", "refused", "interrupted"]
ENDED: tuple[TrialStatus, ...] = ("finished", "stopped", "failed", "refused")


@dataclass(kw_only=True)
class TrialProgress:
    """One trial as the driver sees it.

    Attributes:
        number: Place in the sweep, from 1.
        name: Experiment name.
        status: "waiting" until its first attempt starts; "paused" when it gave its place back and will go on.
        iteration: Evaluations so far.
        rung: The highest rung passed, None before the first.
        last: The metric's last value.
        best: The metric's best value so far.
        reason: Why it ended, or what it waits for; for people.
        run_s: Seconds in which it ran, over all attempts.
        attempts: How often it was started.
        share: GPUs held.
        retries: Attempts that failed and were followed by another.
        place: Node and card that it runs on; None until it has told, and where it runs without a card.
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
    place: tuple[str, str] | None = None
    _since_s: float | None = field(default=None, repr=False)


@dataclass(kw_only=True)
class SweepProgress:
    """State of a whole sweep.

    Attributes:
        sweep: Name of the sweep.
        metric: Metric that trials are compared by.
        goal: Whether high or low values of it are good.
        total: Trials that the sweep will run.
        longest: Evaluations in a trial that is never stopped.
        slots: Trials that can run side by side, for the time that is left.
        started_s: Clock reading at the start.
        simulated: Whether the cards are logical ones.
    """

    sweep: str
    metric: str
    goal: Goal
    total: int
    longest: int
    slots: int
    started_s: float
    simulated: bool = False
    trials: dict[int, TrialProgress] = field(default_factory=dict)

    def started(self, number: int, name: str, *, now_s: float, share: float = 0.0) -> None:
        """A trial got its place and starts, for the first time or again."""
        trial = self.trials.setdefault(number, TrialProgress(number=number, name=name))
        trial.status = "running"
        trial.attempts += 1
        trial.share = share
        trial.reason = ""
        trial._since_s = now_s

    def waits(self, number: int, name: str, *, reason: str) -> None:
        """A trial may not start yet, or not go on."""
        trial = self.trials.setdefault(number, TrialProgress(number=number, name=name))
        trial.reason = reason

    def reported(
        self,
        number: int,
        *,
        iteration: int,
        value: float,
        rung: int | None,
        now_s: float,
        place: tuple[str, str] | None = None,
    ) -> None:
        """A trial evaluated."""
        trial = self.trials[number]
        self._clock(trial, now_s)
        trial.iteration = max(iteration, trial.iteration)
        trial.rung = rung if rung is not None else trial.rung
        trial.last = value
        trial.reason = ""
        trial.place = place
        if better(value, trial.best, self.goal):
            trial.best = value

    def ended(self, number: int, *, status: TrialStatus, reason: str, now_s: float) -> None:
        """A trial finished, was stopped early, failed, or goes back to waiting after a failed attempt."""
        trial = self.trials[number]
        self._clock(trial, now_s)
        trial._since_s = None
        trial.status = status
        trial.reason = reason

    def count(self, *statuses: TrialStatus) -> int:
        """Counts the trials in these states; trials that never started are "waiting"."""
        known = self.count_known(*statuses)
        return known + (max(self.total - len(self.trials), 0) if "waiting" in statuses else 0)

    def count_known(self, *statuses: TrialStatus) -> int:
        """Counts the trials in these states among those that were ordered."""
        return sum(1 for trial in self.trials.values() if trial.status in statuses)

    def best(self) -> TrialProgress | None:
        """Returns the trial with the best value so far, the earlier one of two equals."""
        trials = sorted(self.trials.values(), key=lambda trial: trial.number)
        return best_of(trials, lambda trial: trial.best, self.goal)

    def left_s(self, now_s: float) -> float | None:
        """Estimates the seconds that are left if no further trial is stopped early, so at most so long.

        None before the first report. Evaluations still to come, times the mean duration of one so far, shared among
        the trials side by side.
        """
        done = sum(trial.iteration for trial in self.trials.values())
        spent_s = sum(
            trial.run_s + (now_s - trial._since_s if trial._since_s is not None else 0.0)
            for trial in self.trials.values()
        )
        if not done:
            return None
        open_trials = [trial for trial in self.trials.values() if trial.status not in ENDED]
        to_come = sum(max(self.longest - trial.iteration, 0) for trial in open_trials)
        to_come += max(self.total - len(self.trials), 0) * self.longest
        side_by_side = max(1, min(self.slots, self.count("running", "paused", "waiting")))
        return to_come * (spent_s / done) / side_by_side

    @staticmethod
    def _clock(trial: TrialProgress, now_s: float) -> None:
        if trial._since_s is not None:
            trial.run_s += now_s - trial._since_s
            trial._since_s = now_s
