"""A week of a team's runs against the week before: how many, how they ended, what they cost, the best score. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from common.goal import Goal, best_of
from dialsum.config import COMPOSITE
from tune_jobs.analysis.candidates import score_of
from tune_jobs.config.sections import METRIC_GOALS
from tune_jobs.records.ledger import Ledger, TrialOutcome

WEEK = timedelta(days=7)
GOOD: tuple[TrialOutcome, ...] = ("finished", "stopped")  # stopped early is the scheduler's success
BAD: tuple[TrialOutcome, ...] = ("failed", "oom", "refused")
UNKNOWN = "not named"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Scores are comparable within one scale only.

    Attributes:
        metric: Name of the metric.
        goal: Whether high or low is good.
        language: Of the scorer; empty where it is not known.
        data: Name of the dev file; empty where it is not known.
    """

    metric: str
    goal: Goal
    language: str = ""
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class WeekRun:
    """One run, from a ledger or from W&B.

    Attributes:
        name: Of the run.
        sweep: Its sweep or group.
        member: Who ran it.
        model: What was trained.
        outcome: How it ended.
        at: When it ended; for a run that goes on, when it started. Unix seconds.
        gpu_s: GPU seconds on real cards.
        simulated_gpu_s: On logical cards.
        wall_s: Seconds in which it ran.
        scale: What its score is measured in; None without a score.
        score: Its best score; None without one.
        reason: Why it failed; empty where it did not or nobody knows.
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
        runs: How many.
        good: Those that finished or were stopped early by the scheduler.
        bad: Those that failed, ran out of memory or were refused.
        gpu_s: On real cards.
        simulated_gpu_s: On logical ones.
        wall_s: All runs together.
        best: The best score in the scale that is asked for; None without one.
        best_run: Its name.
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
        """Part of the runs that are over which are good; None where none is over."""
        over = self.good + self.bad
        return self.good / over if over else None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """This week and the one before."""

    now: Figures
    before: Figures


@dataclass(frozen=True, kw_only=True)
class Week:
    """What the dashboard shows.

    Attributes:
        start: First moment, local time.
        end: First moment after it.
        runs: Of this week and the one before, by time.
        scale: That of most runs, in which scores are shown; None without any score.
        total: All runs.
        members: By member, those with the most GPU time first.
        models: By model.
        sweeps: By sweep.
        scales: The best scores in each scale: figures count only its runs.
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
    """Takes the runs out of a sweep's ledger.

    A trial that never started counts when its sweep started.

    Returns:
        The runs, and how many trials name no time at all and so belong to no week.
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
    """Says what a score is measured in, from the run's configuration."""
    data = str(config.get("dev_file") or "")
    return Scale(metric=metric, goal=goal, language=str(config.get("language") or ""), data=Path(data).name)


def summarize(runs: Sequence[WeekRun], end: datetime) -> Week:
    """Sums up the seven days before a moment, and the seven before those.

    Args:
        runs: Of any time.
        end: First moment after the week; with its time zone.
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
    """Adds runs up; scores of another scale than the given one do not count.

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
    """The last part of a path: a folder of weights is named by it, as a hub id is."""
    model = str(config.get("model") or UNKNOWN).rstrip("/").removesuffix("/models/best_model")
    return model.rsplit("/", 1)[-1]
