"""What a ledger says: who won and how sure that is, what it cost, what failed. Pure: draws and writes nothing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tune_jobs.parameters import Parameter, find_parameters
from tune_jobs.records import OUTCOMES, Ledger, SweepRecord, TrialOutcome, TrialRecord
from tune_jobs.sections import COMPOSITE, METRIC_GOALS
from tune_jobs.stopping import Goal

# KoBART on Korean dialogues, 500 examples: four seeds of one configuration differ by sd 0.31 points of ROUGE-L, 13
# configurations trained twice by sd 0.23 and at most 0.65 points. Below half a point an order says nothing.
ROUGE_NOISE_POINTS = 0.5
# 97.5 % quantiles of Student's t by degrees of freedom, for sd's that come from a few repeated trainings.
_STUDENT = {2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 10: 2.23}
Sureness = Literal["nothing", "single", "tied", "clear", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A trial and its best value of the sweep's metric."""

    trial: TrialRecord
    score: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration; trials that differ only in their seed are one candidate.

    Attributes:
        trials: The best first.
        score: Mean over the trials.
        spread: Standard deviation over the trials; None for a single one.
    """

    trials: tuple[Scored, ...]
    score: float
    spread: float | None = None

    @property
    def best(self) -> Scored:
        """The best of its trials."""
        return self.trials[0]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How far two single trainings of one configuration may lie apart.

    Attributes:
        band: In units of the metric; None where it is not known.
        source: Where the number comes from, for people.
    """

    band: float | None
    source: str

    def between(self, one: Candidate, other: Candidate) -> float | None:
        """The band for two means over several seeds: it narrows with the root of their number."""
        if self.band is None:
            return None
        return self.band * math.sqrt((1 / len(one.trials) + 1 / len(other.trials)) / 2)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a sweep used.

    Attributes:
        span_s: From the first start to the last end.
        trial_s: Seconds in which trials ran, by outcome.
        gpu_s: Share times seconds, by outcome; all zero on a machine without GPUs.
        evaluations: Over all trials.
        saved_s: Trial seconds that stopping early spared: what stopped trials would still have taken at their own
            pace to as many evaluations as the longest finished trial made. An estimate; 0 where nothing was stopped.
    """

    span_s: float
    trial_s: Mapping[TrialOutcome, float]
    gpu_s: Mapping[TrialOutcome, float]
    evaluations: int
    saved_s: float

    @property
    def on_gpus(self) -> bool:
        """Whether any trial held a part of a GPU."""
        return sum(self.gpu_s.values()) > 0


@dataclass(frozen=True, kw_only=True)
class PhaseSummary:
    """One stage of a staged search: its trials, its best score and its seconds."""

    name: str
    trials: int
    best: float | None
    trial_s: float
    gpu_s: float


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything that the reports show.

    Attributes:
        sweep: Description; the default metric stands in where the ledger has none.
        ledger: As it was read.
        candidates: By score, the best first.
        noise: What counts as a tie.
        tied: Candidates that the noise does not tell from the best; the best itself is the first.
        sureness: "unknown" where the noise of the metric is not known.
        scored: Every trial with a score, the best first; without quick checks where there is more than those.
        parameters: Searched parameters with at least two values.
        fixed: Searched parameters that had one value in all trials.
        failures: Trials that failed, ran out of memory or were refused.
        cost: What it used.
        phases: Stages in order; empty where there is one.
    """

    sweep: SweepRecord
    ledger: Ledger
    candidates: tuple[Candidate, ...]
    noise: Noise
    tied: tuple[Candidate, ...]
    sureness: Sureness
    scored: tuple[Scored, ...]
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, object]
    failures: tuple[TrialRecord, ...]
    cost: Cost
    phases: tuple[PhaseSummary, ...]

    @property
    def winner(self) -> Scored | None:
        """The best trial of the best candidate; None where no trial has a score."""
        return self.candidates[0].best if self.candidates else None

    @property
    def maximize(self) -> bool:
        """Whether high scores are good."""
        return self.sweep.goal == "maximize"

    @property
    def band(self) -> float | None:
        """By how much the best and the second may differ by chance; None where that is not known."""
        if not self.candidates:
            return None
        return self.noise.between(self.candidates[0], self.candidates[min(1, len(self.candidates) - 1)])

    def count(self, *outcomes: TrialOutcome) -> int:
        """How many trials came to these ends."""
        return sum(1 for trial in self.ledger.trials if trial.status in outcomes)


def analyse(ledger: Ledger) -> Analysis:
    """Sums up a ledger.

    Args:
        ledger: Also of a sweep that goes on, of one in which everything failed, and an empty one.
    """
    sweep = ledger.sweep or _guess_sweep(ledger.trials)
    every = _score_all(ledger.trials, sweep)
    scored = tuple(one for one in every if one.trial.phase != "quick_check") or every
    candidates = group_seeds(scored, sweep.goal)
    noise = find_noise(sweep.metric, candidates)
    tied = tuple(one for one in candidates if _is_tied(candidates[0], one, noise))
    searched = [trial for trial in ledger.trials if trial.sampled]
    parameters, fixed = find_parameters([trial.sampled for trial in searched], sweep.parameters)
    return Analysis(
        sweep=sweep,
        ledger=ledger,
        candidates=candidates,
        noise=noise,
        tied=tied,
        sureness=_sureness(candidates, tied, noise),
        scored=scored,
        parameters=parameters,
        fixed=fixed,
        failures=tuple(trial for trial in ledger.trials if trial.status in ("failed", "oom", "refused")),
        cost=find_cost(ledger.trials),
        phases=_phases(ledger.trials, every),
    )


def score_of(trial: TrialRecord, metric: str, goal: Goal) -> float | None:
    """Returns a trial's best value of a metric, None where it has none.

    The trainer names its best values best/*; an earlier evaluation may be better than the last.

    >>> trial = TrialRecord(trial_id="1", name="a", sweep="s", status="stopped", metrics={"eval/loss": 2.0},
    ...                     history=[{"eval/loss": 1.5}, {"eval/loss": 2.0}])
    >>> score_of(trial, "eval/loss", "minimize")
    1.5
    """
    names = (metric, "best/" + metric.split("/", 1)[-1])
    rows: list[Mapping[str, float | None]] = [*trial.history, trial.metrics, trial.best_metrics]
    values = [row.get(name) for row in rows for name in names]
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return max(known) if goal == "maximize" else min(known)


def group_seeds(scored: Iterable[Scored], goal: Goal) -> tuple[Candidate, ...]:
    """Puts trials together that differ only in their seed.

    Only trials that ran to their end are averaged where a candidate has any: one that was stopped early would pull the
    mean down for having had less time.

    Returns:
        Candidates, the best first; of equals the one that came first.
    """
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        key = repr(sorted((name, repr(value)) for name, value in one.trial.sampled.items() if name != "seed"))
        groups.setdefault(key if one.trial.sampled else one.trial.trial_id, []).append(one)
    candidates = [_candidate(group, goal) for group in groups.values()]
    return tuple(sorted(candidates, key=lambda one: -one.score if goal == "maximize" else one.score))


def find_noise(metric: str, candidates: Sequence[Candidate]) -> Noise:
    """Says when two trainings are a tie.

    Args:
        metric: Of the sweep.
        candidates: Those with several seeds measure the noise of this very sweep.

    Returns:
        With at least two degrees of freedom: the 95 % band of a difference of two runs. Else the published noise of
        ROUGE, or nothing for metrics whose noise nobody has measured.
    """
    repeated = [one for one in candidates if one.spread is not None]
    freedom = sum(len(one.trials) - 1 for one in repeated)
    if freedom >= 2:
        squares = sum((len(one.trials) - 1) * (one.spread or 0.0) ** 2 for one in repeated)
        spread = math.sqrt(squares / freedom)
        band = _STUDENT.get(freedom, 2.1) * math.sqrt(2) * spread
        runs = sum(len(one.trials) for one in repeated)
        return Noise(band=band, source=f"{runs} runs of this sweep differ only in their seed, with sd {spread:.2g}")
    if "rouge" in metric:
        return Noise(
            band=ROUGE_NOISE_POINTS, source="on 500 dialogues, runs that differ only in their seed lie so far apart"
        )
    return Noise(band=None, source=f"how far {metric} varies between seeds was not measured")


def find_cost(trials: Sequence[TrialRecord]) -> Cost:
    """Adds up what trials used; see Cost."""
    starts = [trial.started_at for trial in trials if trial.started_at is not None]
    ends = [trial.ended_at for trial in trials if trial.ended_at is not None]
    outcomes = [outcome for outcome in OUTCOMES if any(trial.status == outcome for trial in trials)]
    longest = max((len(trial.history) for trial in trials if trial.status == "finished"), default=0)
    stopped = [trial for trial in trials if trial.status == "stopped" and trial.history]
    spared = [trial.wall_s / len(trial.history) * max(longest - len(trial.history), 0) for trial in stopped]
    return Cost(
        span_s=max(ends) - min(starts) if starts and ends else 0.0,
        trial_s={end: sum(trial.wall_s for trial in trials if trial.status == end) for end in outcomes},
        gpu_s={end: sum(trial.gpu_seconds for trial in trials if trial.status == end) for end in outcomes},
        evaluations=sum(len(trial.history) for trial in trials),
        saved_s=sum(spared),
    )


def _candidate(group: Sequence[Scored], goal: Goal) -> Candidate:
    whole = [one for one in group if one.trial.status == "finished"] or list(group)
    ordered = sorted(whole, key=lambda one: -one.score if goal == "maximize" else one.score)
    scores = [one.score for one in ordered]
    mean = sum(scores) / len(scores)
    spread = math.sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1)) if len(scores) > 1 else None
    return Candidate(trials=tuple(ordered), score=mean, spread=spread)


def _score_all(trials: Sequence[TrialRecord], sweep: SweepRecord) -> tuple[Scored, ...]:
    pairs = [(trial, score_of(trial, sweep.metric, sweep.goal)) for trial in trials]
    scored = [Scored(trial=trial, score=score) for trial, score in pairs if score is not None]
    return tuple(sorted(scored, key=lambda one: -one.score if sweep.goal == "maximize" else one.score))


def _is_tied(best: Candidate, other: Candidate, noise: Noise) -> bool:
    band = noise.between(best, other)
    return other is best or abs(best.score - other.score) <= (band if band is not None else 0.0)


def _sureness(candidates: Sequence[Candidate], tied: Sequence[Candidate], noise: Noise) -> Sureness:
    if not candidates:
        return "nothing"
    if len(candidates) == 1:
        return "single"
    if len(tied) > 1:
        return "tied"
    return "clear" if noise.band is not None else "unknown"


def _guess_sweep(trials: Sequence[TrialRecord]) -> SweepRecord:
    """A ledger that lost its first line can still be read: the default metric, or the only one that trials have."""
    names = {name for trial in trials for row in trial.history for name in row}
    names |= {name for trial in trials for name in trial.metrics}
    metric = next((name for name in (COMPOSITE, *METRIC_GOALS) if name in names), COMPOSITE)
    return SweepRecord(
        sweep=trials[0].sweep if trials else "",
        metric=metric,
        goal=METRIC_GOALS[metric],
        simulated=any(trial.simulated for trial in trials),
    )


def _phases(trials: Sequence[TrialRecord], scored: Sequence[Scored]) -> tuple[PhaseSummary, ...]:
    names = list(dict.fromkeys(trial.phase for trial in trials))
    if len(names) < 2:
        return ()
    best = {name: next((one.score for one in scored if one.trial.phase == name), None) for name in names}
    return tuple(
        PhaseSummary(
            name=name,
            trials=sum(1 for trial in trials if trial.phase == name),
            best=best[name],
            trial_s=sum(trial.wall_s for trial in trials if trial.phase == name),
            gpu_s=sum(trial.gpu_seconds for trial in trials if trial.phase == name),
        )
        for name in names
    )


def describe_settings(sampled: Mapping[str, object], parameters: Sequence[Parameter]) -> str:
    """Says a configuration in one line, in the order of the parameters; settings all trials share are left out."""
    return ", ".join(f"{one.name} {one.show(sampled[one.name])}" for one in parameters if one.name in sampled)
