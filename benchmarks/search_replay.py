"""Replays a search on the table of search_table.jsonl: the product's samplers and schedulers, a simulated clock.

A proposal is replayed by the nearest configuration that this search has not tried. The sampler learns that
configuration's values and not those that it proposed, so no method is charged for the distance between the two.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.search_table import EVALUATIONS, SPACE, TABLE
from tune_jobs.analysis.sweep_analysis import analyse
from tune_jobs.config.space import Categorical, Parameter, Range, Space, Value
from tune_jobs.config.sweep import Sweep
from tune_jobs.records.ledger import Ledger, SweepRecord, TrialOutcome, TrialRecord
from tune_jobs.search.early_stopping import EVALUATION, EarlyStopping
from tune_jobs.search.phase_decisions import Done, prepare
from tune_jobs.search.samplers import CompletedTrial, Outcome, Sampler, sampler_of
from tune_jobs.search.tune_schedulers import scheduler_for
from tuning_common.files import read_jsonl
from tuning_common.strict import from_mapping

SIDE_BY_SIDE = 4
WITHIN = 0.5  # points below the best score of the table: the target
MOST_ATTEMPTS = 3  # searches one after the other: a rule that always stops the best trial never reaches the target
METRIC = "eval/rouge_combined_f1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One evaluation of a trial: scores 0 to 100, the dev loss, and CPU seconds since the trial's start."""

    score: float
    half: float
    loss: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A trial of the table; see search_table.Planned."""

    name: str
    model: str
    configuration: int
    seed: int
    sampled: Mapping[str, Value]
    evaluations: tuple[Evaluation, ...]

    @property
    def best(self) -> float:
        """Its best score."""
        return max((one.score for one in self.evaluations), default=-math.inf)


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """What one search found.

    Attributes:
        spent_s: CPU seconds until the target was reached.
        trials: Started until then.
        distance: Mean distance of proposals from the configurations that stood in for them, 0 to 1.
        curve: (CPU seconds, best score so far), at each improvement.
    """

    spent_s: float
    trials: int
    distance: float
    curve: tuple[tuple[float, float], ...]


def load_table(path: Path = TABLE) -> list[Row]:
    """Reads the table."""
    return [from_mapping(Row, row, where=str(path)) for row in read_jsonl(path)[0]]


def of_model(table: Sequence[Row], model: str) -> list[Row]:
    """Returns a model's trials of the first seed: what a search searches in."""
    return [row for row in table if row.model == model and row.seed == 0]


def place_of(parameter: Parameter, value: Value) -> float:
    """Returns where a value lies in its range, 0 to 1, on the axis on which values are uniform.

    >>> place_of(SPACE["batch_size"], 64), round(place_of(SPACE["learning_rate"], 3e-3), 3)
    (1.0, 0.596)
    """
    if isinstance(parameter, Range):
        low, high = parameter.to_log(parameter.low), parameter.to_log(parameter.high)
        return (parameter.to_log(value) - low) / (high - low)
    assert isinstance(parameter, Categorical)
    return parameter.to_log(value) / (len(parameter.options) - 1)


def distance(one: Mapping[str, Value], other: Mapping[str, Value]) -> float:
    """Returns the distance of two configurations, 0 to 1; two schedules are as far apart as the ends of a range."""
    squares = [
        float(one[p.name] != other[p.name])
        if p.name == "lr_scheduler"
        else (place_of(p, one[p.name]) - place_of(p, other[p.name])) ** 2
        for p in SPACE.parameters
    ]
    return math.sqrt(sum(squares) / len(squares))


class Replay:
    """One search for a target score, in one or several sweeps one after the other.

    Args:
        rows: The trials of one model, one seed.
        target: The score that ends it.
    """

    def __init__(self, rows: Sequence[Row], target: float) -> None:
        self._rows, self._target = rows, target
        self._left: list[Row] = list(rows)
        self._distances: list[float] = []
        self._best = -math.inf
        self.spent_s = 0.0
        self.curve: list[tuple[float, float]] = []

    @property
    def is_over(self) -> bool:
        """Whether the target is reached."""
        return self._best >= self._target

    def forget(self) -> None:
        """Allows every configuration again."""
        self._left = list(self._rows)

    def result(self) -> Replayed:
        """Returns what was found."""
        mean = sum(self._distances) / max(len(self._distances), 1)
        return Replayed(spent_s=self.spent_s, trials=len(self._distances), distance=mean, curve=tuple(self.curve))

    def nearest(self, space: Space, proposed: Mapping[str, Value]) -> Row | None:
        """Takes the nearest configuration that was not tried, inside of a space where there is one; None: all were."""
        inside = [row for row in self._left if space.contains(row.sampled)] or self._left
        if not inside:
            return None
        found = min(inside, key=lambda row: distance(proposed, row.sampled))
        self._left.remove(found)
        self._distances.append(distance(proposed, found.sampled))
        return found

    def evaluated(self, score: float, step_s: float, under_way_s: float) -> None:
        """Counts one evaluation, and the seconds of those under way where it is the best so far."""
        self.spent_s += step_s
        if score > self._best:
            self._best = score
            self.curve.append((self.spent_s + under_way_s, score))
            self.spent_s += under_way_s if self.is_over else 0.0


@dataclass(kw_only=True, slots=True)
class Trial:
    """A trial of a replayed sweep: its row of the table, evaluations so far, end, and when the last one came."""

    row: Row
    made: int = 0
    status: TrialOutcome = "running"
    since_s: float = 0.0

    @property
    def step_s(self) -> float:
        """CPU seconds of its next evaluation, with the training before it."""
        times = [0.0, *(one.cpu_s for one in self.row.evaluations)]
        return times[self.made + 1] - times[self.made] if self.made + 1 < len(times) else 0.0

    @property
    def ledger_history(self) -> list[dict[str, float | None]]:
        """Its evaluations so far."""
        return [{METRIC: one.score} for one in self.row.evaluations[: self.made]]


class SweepRun:
    """One plain sweep of a search.

    Args:
        replay: The search.
        sweep: What is to be run.
        sampler: Instead of the sweep's own.
    """

    def __init__(self, replay: Replay, sweep: Sweep, sampler: Sampler | None = None) -> None:
        self._replay, self._sweep = replay, sweep
        self._last = EVALUATIONS
        self._stopping = EarlyStopping(
            scheduler_for(sweep, last=self._last, side_by_side=SIDE_BY_SIDE), seed=sweep.search.seed
        )
        self._sampler = sampler or sampler_of(sweep)
        self._upcoming = iter(self._sampler.order)
        self._trials: dict[int, Trial] = {}
        self._running: list[tuple[float, int]] = []  # time of the next evaluation, trial
        self._waiting: deque[int] = deque()  # that the scheduler paused and let go on
        self._clock_s = 0.0

    def run(self) -> tuple[TrialRecord, ...]:
        """Runs until the end or the target; returns the trials as a ledger would have them."""
        while not self._replay.is_over:
            while len(self._running) < SIDE_BY_SIDE and (number := self._next()) is not None:
                self._go_on(number)
            if not self._running:
                break
            self._clock_s, number = heapq.heappop(self._running)
            self._evaluate(number, self._trials[number])
        return tuple(
            TrialRecord(
                trial_id=str(number), name=one.row.name, sweep=self._sweep.name, sampled=dict(one.row.sampled),
                status="stopped" if one.status == "running" else one.status, history=one.ledger_history,
                resolved={"model": f"tiny-{one.row.model}"},
            )
            for number, one in self._trials.items()
        )  # fmt: skip

    def _next(self) -> int | None:
        if self._waiting:
            return self._waiting.popleft()
        number = next(self._upcoming, None)
        proposed = None if number is None else self._sampler.suggest(number)
        row = None if proposed is None else self._replay.nearest(self._sweep.space, proposed)
        if number is None or row is None:
            return None
        self._trials[number] = Trial(row=row)
        self._stopping.add(number, dict(row.sampled))
        self._waiting.extend(one for one in self._stopping.runnable() if one != number)
        return number

    def _go_on(self, number: int) -> None:
        trial = self._trials[number]
        trial.since_s = self._clock_s
        heapq.heappush(self._running, (self._clock_s + trial.step_s, number))

    def _evaluate(self, number: int, trial: Trial) -> None:
        """Reports a trial's next evaluation and does what the scheduler decides."""
        stopped: tuple[int, ...] = ()
        if trial.made < len(trial.row.evaluations):
            score = trial.row.evaluations[trial.made].score
            under_way_s = sum(self._clock_s - self._trials[other].since_s for _, other in self._running)
            self._replay.evaluated(score, trial.step_s, under_way_s)
            trial.made += 1
            stopped = self._stopping.report(number, {EVALUATION: trial.made, METRIC: score}).stopped
        if trial.made == len(trial.row.evaluations):
            trial.status = "finished"
            if trial.made < self._last:  # it diverged
                stopped += self._stopping.fail(number).stopped
        elif self._stopping.is_finished(number):
            trial.status = "stopped"
        elif self._stopping.is_running(number):
            self._go_on(number)
        if trial.status != "running":
            self._observe(number, trial)
        for other in stopped:  # paused ones
            if other != number:
                self._trials[other].status = "stopped"
                self._observe(other, self._trials[other])
        self._waiting.extend(self._stopping.runnable())

    def _observe(self, number: int, trial: Trial) -> None:
        """Gives the sampler the values and the score of the table's trial; those that it proposed, if outside."""
        outcome: Outcome = "finished" if trial.status == "finished" else "stopped"
        score = max((one.score for one in trial.row.evaluations[: trial.made]), default=None)
        sampled = trial.row.sampled
        known = CompletedTrial(sampled=sampled, outcome=outcome, value=score, step=trial.made)
        if not self._sweep.space.contains(sampled):
            self._sampler.observe(number, known)
            return
        self._sampler.observe(number, CompletedTrial(sampled=sampled, outcome="out_of_memory"))  # counts as nothing
        self._sampler.observe(0, known)


def run_phases(replay: Replay, sweep: Sweep) -> None:
    """Runs the searching phases of a staged sweep, each prepared by the product from those before it."""
    done: list[Done] = []
    for phase in sweep.phases:
        if replay.is_over or phase.kind not in ("wide", "narrow"):
            continue
        plain = prepare(sweep, phase, done).sweep
        trials = SweepRun(replay, plain).run()
        record = SweepRecord(sweep=plain.name, metric=METRIC, goal="maximize", trials=len(trials))
        done.append(Done(phase=phase, sweep=plain, analysis=analyse(Ledger(sweep=record, trials=trials))))


def rank_correlation(rows: Sequence[Row], evaluation: int, value: Callable[[Evaluation], float]) -> float:
    """Returns Kendall's tau between a value at an evaluation and the best score of the trial."""
    from scipy.stats import kendalltau

    whole = [row for row in rows if len(row.evaluations) >= evaluation]
    found = kendalltau([value(row.evaluations[evaluation - 1]) for row in whole], [row.best for row in whole])
    return float(found.statistic)


def seed_spread(rows: Sequence[Row]) -> float:
    """Returns the standard deviation of the best score between seeds of one configuration."""
    groups = [list(found) for _, found in itertools.groupby(sorted(rows, key=_of_one), key=_of_one)]
    repeated = [[row.best for row in group] for group in groups if len(group) > 1]
    squares = sum(sum((one - sum(group) / len(group)) ** 2 for one in group) for group in repeated)
    freedom = sum(len(group) - 1 for group in repeated)
    return math.sqrt(squares / freedom) if freedom else math.nan


def _of_one(row: Row) -> tuple[str, int]:
    return row.model, row.configuration
