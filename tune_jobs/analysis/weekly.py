"""Compares a week of a team's runs with the week before: counts, outcomes, cost, best score. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from dialsum.config import COMPOSITE
from tune_jobs.analysis.candidates import score_of
from tune_jobs.config.sections import METRIC_GOALS
from tune_jobs.records.ledger import Ledger, TrialOutcome
from tuning_common.goal import Goal, best_of

WEEK = timedelta(days=7)
GOOD: tuple[TrialOutcome, ...] = ("finished", "stopped")  # stopped early is the scheduler's success
BAD: tuple[TrialOutcome, ...] = ("failed", "oom", "refused")
UNKNOWN = "not named"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The scale of a score: only scores of one scale are comparable.

    Attributes:
        metric: Name of the metric.
        goal: Whether the metric is maximized or minimized.
        language: Language of the scorer; empty where it is unknown.
        data: Name of the dev file; empty where it is unknown.
    """

    metric: str
    goal: Goal
    language: str = ""
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class WeekRun:
    """One run, from a ledger or from W&B.

    Attributes:
        name: Name of the run.
        sweep: Its sweep or group.
        member: Team member who ran it.
        model: The trained model.
        outcome: Its outcome.
        at: End, or start of a running run, in Unix seconds.
        gpu_s: GPU-seconds on real cards.
        simulated_gpu_s: GPU-seconds on simulated cards.
        wall_s: Run time in seconds.
        scale: Scale of its score; None without a score.
        score: Its best score; None without one.
        reason: Why it failed; empty where it did not or the reason is unknown.
    """

    name: str
    sweep: str
    member: str
    model: str
    outcome: TrialOutcome
    at: float
    gpu_s: float = 0.0
    simulated_gpu_s: float = 0.0
    wall_s: float = 0.0
    scale: Scale | None = None
    score: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Sums over some runs.

    Attributes:
        runs: Number of runs.
        good: Number that finished or were stopped early by the scheduler.
        bad: Number that failed, ran out of memory or were refused.
        gpu_s: GPU-seconds on real cards.
        simulated_gpu_s: GPU-seconds on simulated cards.
        wall_s: Run time of all runs together.
        best: The best score in the given scale; None without one.
        best_run: Name of the best run.
    """

    runs: int
    good: int
    bad: int
    gpu_s: float
    simulated_gpu_s: float
    wall_s: float
    best: float | None
    best_run: str

    @property
    def success(self) -> float | None:
        """Fraction of the ended runs that are good; None where none has ended."""
        over = self.good + self.bad
        return self.good / over if over else None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """This week and the one before."""

    now: Figures
    before: Figures


@dataclass(frozen=True, kw_only=True)
class Week:
    """The content of the dashboard.

    Attributes:
        start: First moment, local time.
        end: First moment after it.
        runs: Runs of this week and the one before, by time.
        scale: The scale of most runs, for the shown scores; None without any score.
        total: Figures of all runs.
        members: By member, those with the most GPU time first.
        models: By model.
        sweeps: By sweep.
        scales: Figures of the runs of each scale.
        reasons: Why runs of this week failed, the most frequent first.
    """

    start: datetime
    end: datetime
    runs: tuple[WeekRun, ...]
    scale: Scale | None
    total: Pair
    members: Mapping[str, Pair]
    models: Mapping[str, Pair]
    sweeps: Mapping[str, Pair]
    scales: Mapping[Scale, Pair]
    reasons: tuple[tuple[str, int], ...]

    def days(self) -> list[tuple[date, list[WeekRun]]]:
        """Returns the runs of each of the fourteen days."""
        first = (self.start - WEEK).date()
        found: dict[date, list[WeekRun]] = {first + timedelta(days=number): [] for number in range(14)}
        for run in self.runs:
            day = datetime.fromtimestamp(run.at, self.start.tzinfo).date()
            found.setdefault(day, []).append(run)
        return list(found.items())


def runs_of(ledger: Ledger) -> tuple[list[WeekRun], int]:
    """Returns the runs in a sweep's ledger.

    A trial that never started counts at the start of its sweep.

    Returns:
        The runs, and the number of trials without any time, which belong to no week.
    """
    sweep = ledger.sweep
    found: list[WeekRun] = []
    for trial in ledger.trials:
        at = trial.ended_at if trial.ended_at is not None else trial.started_at
        if at is None:
            at = sweep.started_at if sweep is not None else None
        if at is None:
            continue
        metric = sweep.metric if sweep is not None else COMPOSITE
        goal = sweep.goal if sweep is not None else METRIC_GOALS[metric]
        score = score_of(trial, metric, goal)
        found.append(
            WeekRun(
                name=trial.name,
                sweep=trial.sweep,
                member=trial.member or (sweep.member if sweep is not None else None) or UNKNOWN,
                model=_model(trial.resolved),
                outcome=trial.status,
                at=at,
                gpu_s=0.0 if trial.simulated else trial.gpu_seconds,
                simulated_gpu_s=trial.gpu_seconds if trial.simulated else 0.0,
                wall_s=trial.wall_s,
                scale=None if score is None else scale_of(metric, goal, trial.resolved),
                score=score,
                reason=trial.error.message if trial.error is not None and trial.status in BAD else "",
            )
        )
    return found, len(ledger.trials) - len(found)


def scale_of(metric: str, goal: Goal, config: Mapping[str, object]) -> Scale:
    """Returns the scale of a run's score."""
    data = str(config.get("dev_file") or "")
    return Scale(metric=metric, goal=goal, language=str(config.get("language") or ""), data=Path(data).name)


def summarize(runs: Sequence[WeekRun], end: datetime) -> Week:
    """Summarizes the seven days before a moment, and the seven days before those.

    Args:
        runs: Runs of any time.
        end: First moment after the week, with a time zone.
    """
    start = end - WEEK
    inside = sorted(
        (run for run in runs if (start - WEEK).timestamp() <= run.at < end.timestamp()), key=lambda run: run.at
    )
    now = [run for run in inside if run.at >= start.timestamp()]
    before = [run for run in inside if run.at < start.timestamp()]
    counts = Counter(run.scale for run in inside if run.scale is not None)
    scale = counts.most_common(1)[0][0] if counts else None
    reasons = Counter(run.reason for run in now if run.reason)
    return Week(
        start=start,
        end=end,
        runs=tuple(inside),
        scale=scale,
        total=_pair(now, before, scale),
        members=_by(now, before, scale, lambda run: run.member),
        models=_by(now, before, scale, lambda run: run.model),
        sweeps=_by(now, before, scale, lambda run: run.sweep),
        scales={
            one: _pair([r for r in now if r.scale == one], [r for r in before if r.scale == one], one)
            for one, _ in counts.most_common()
        },
        reasons=tuple(reasons.most_common()),
    )


def figures(runs: Sequence[WeekRun], scale: Scale | None) -> Figures:
    """Returns the sums over runs; only scores of the given scale count.

    >>> run = WeekRun(name="a", sweep="s", member="m", model="t5", outcome="finished", at=0.0, gpu_s=60.0)
    >>> found = figures([run, run], None)
    >>> found.runs, found.success, found.gpu_s, found.best
    (2, 1.0, 120.0, None)
    """
    comparable = [run for run in runs if scale is not None and run.scale == scale]
    best = best_of(comparable, lambda run: run.score, scale.goal) if scale else None
    return Figures(
        runs=len(runs),
        good=sum(1 for run in runs if run.outcome in GOOD),
        bad=sum(1 for run in runs if run.outcome in BAD),
        gpu_s=sum(run.gpu_s for run in runs),
        simulated_gpu_s=sum(run.simulated_gpu_s for run in runs),
        wall_s=sum(run.wall_s for run in runs),
        best=None if best is None else best.score,
        best_run="" if best is None else best.name,
    )


def _pair(now: Sequence[WeekRun], before: Sequence[WeekRun], scale: Scale | None) -> Pair:
    return Pair(now=figures(now, scale), before=figures(before, scale))


def _by(
    now: Sequence[WeekRun], before: Sequence[WeekRun], scale: Scale | None, key: Callable[[WeekRun], str]
) -> dict[str, Pair]:
    names = dict.fromkeys(key(run) for run in (*now, *before))
    pairs = {
        name: _pair([run for run in now if key(run) == name], [run for run in before if key(run) == name], scale)
        for name in names
    }
    order = sorted(pairs, key=lambda name: (-pairs[name].now.gpu_s, -pairs[name].now.wall_s, name))
    return {name: pairs[name] for name in order}


def _model(config: Mapping[str, object]) -> str:
    """Returns the model, shortened to the last part of its path or hub id."""
    model = str(config.get("model") or UNKNOWN).rstrip("/").removesuffix("/models/best_model")
    return model.rsplit("/", 1)[-1]
