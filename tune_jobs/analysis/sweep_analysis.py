"""Analyses a ledger: the winner and its certainty, cost, failures. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dialsum.config import COMPOSITE
from tune_jobs.analysis.candidates import Candidate, Noise, Scored, find_noise, group_seeds, is_tied, score_of
from tune_jobs.analysis.lineage import all_values, as_it_scored
from tune_jobs.analysis.significance import PairedDifference
from tune_jobs.config.parameters import Parameter, find_parameters
from tune_jobs.config.sections import METRIC_GOALS
from tune_jobs.records.ledger import OUTCOMES, Ledger, SweepRecord, TrialOutcome, TrialRecord
from tuning_common.goal import best_first

Sureness = Literal["nothing", "single", "tied", "uncertain", "clear", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a sweep.

    Attributes:
        span_s: From the first start to the last end.
        trial_s: Seconds in which trials ran, by outcome.
        gpu_s: Share times seconds, by outcome; all zero on a machine without GPUs.
        evaluations: Over all trials.
        saved_s: Estimated trial seconds saved by early stopping: the time of stopped trials, at their own speed, up to
            the number of evaluations of the longest finished trial. 0 where nothing was stopped.
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
    """One phase of a staged search: its trials, best score and seconds."""

    name: str
    trials: int
    best: float | None
    trial_s: float
    gpu_s: float


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The content of the reports.

    Attributes:
        sweep: Description; with the default metric where the ledger has none.
        ledger: The ledger.
        candidates: By score, best first. Where a staged search has confirmed some, only those: the best single run of
            a search is partly luck and would beat means over seeds.
        noise: The noise between two trainings, which decides ties.
        tied: Candidates within the noise of the best; the best itself is the first.
        sureness: "uncertain" where the lead is above the noise, but other dialogues might reverse it; "unknown" where
            the noise is unknown.
        paired: The best against the second on the same dialogues; None where there are no summaries of both.
        scored: Every trial with a score, best first; without quick checks where other trials have scores.
        parameters: Searched parameters with at least two values.
        fixed: Searched parameters that had one value in all trials.
        failures: Trials that failed, ran out of memory or were refused.
        unscored: Trials that finished or were stopped without a score.
        is_running: Whether a driver runs the sweep now.
        cost: Its cost.
        phases: Phases in order; empty where there is only one.
    """

    sweep: SweepRecord
    ledger: Ledger
    candidates: tuple[Candidate, ...]
    noise: Noise
    tied: tuple[Candidate, ...]
    sureness: Sureness
    paired: PairedDifference | None
    scored: tuple[Scored, ...]
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, object]
    failures: tuple[TrialRecord, ...]
    unscored: tuple[TrialRecord, ...]
    is_running: bool
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
        """Difference that chance can make between the best and the second; None where it is unknown."""
        if not self.candidates:
            return None
        return self.noise.between(self.candidates[0], self.candidates[min(1, len(self.candidates) - 1)])

    @property
    def missing(self) -> int:
        """Number of trials of the sweep that have not ended."""
        ended = len(self.ledger.trials) - self.count("running")
        return max((self.sweep.trials or 0) - ended, self.count("running"))

    def count(self, *outcomes: TrialOutcome) -> int:
        """Returns the number of trials with these outcomes."""
        return sum(1 for trial in self.ledger.trials if trial.status in outcomes)


def analyse(
    ledger: Ledger,
    *,
    dialogues: int | None = None,
    paired: PairedDifference | None = None,
    is_running: bool = False,
) -> Analysis:
    """Analyses a ledger.

    Args:
        ledger: A ledger; also of a running sweep, of one where everything failed, or an empty one.
        dialogues: Number of scored dialogues, where it is known.
        paired: The best candidate against the second on the same dialogues, where it is known.
        is_running: Whether a driver runs the sweep now.
    """
    sweep = ledger.sweep or _guess_sweep(ledger.trials)
    every = _score_all(ledger.trials, sweep)
    with_score = {one.trial.trial_id for one in every}
    scored = tuple(one for one in every if one.trial.phase != "quick_check") or every
    confirmed = tuple(one for one in scored if one.trial.phase == "confirm")
    candidates = group_seeds(confirmed or scored, sweep.goal)
    noise = find_noise(sweep.metric, candidates, dialogues=dialogues)
    tied = tuple(one for one in candidates if is_tied(candidates[0], one, noise))
    settings = [values for trial in ledger.trials for values in all_values(trial) if values]
    parameters, fixed = find_parameters(settings, sweep.parameters)
    return Analysis(
        sweep=sweep,
        ledger=ledger,
        candidates=candidates,
        noise=noise,
        tied=tied,
        sureness=_sureness(candidates, tied, noise, paired),
        paired=paired,
        scored=scored,
        parameters=parameters,
        fixed=fixed,
        failures=tuple(trial for trial in ledger.trials if trial.status in ("failed", "oom", "refused")),
        unscored=tuple(
            trial
            for trial in ledger.trials
            if trial.status in ("finished", "stopped") and trial.trial_id not in with_score
        ),
        is_running=is_running,
        cost=find_cost(ledger.trials),
        phases=_phases(ledger.trials, every),
    )


def find_cost(trials: Sequence[TrialRecord]) -> Cost:
    """Adds up the cost of trials."""
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


def _score_all(trials: Sequence[TrialRecord], sweep: SweepRecord) -> tuple[Scored, ...]:
    pairs = [(trial, score_of(trial, sweep.metric, sweep.goal)) for trial in trials]
    scored = [
        Scored(trial=as_it_scored(trial, sweep.metric, sweep.goal), score=score)
        for trial, score in pairs
        if score is not None
    ]
    return tuple(best_first(scored, lambda one: one.score, sweep.goal))


def _sureness(
    candidates: Sequence[Candidate], tied: Sequence[Candidate], noise: Noise, paired: PairedDifference | None
) -> Sureness:
    if not candidates:
        return "nothing"
    if len(candidates) == 1:
        return "single"
    if len(tied) > 1:
        return "tied"
    if noise.band is None:
        return "unknown"
    return "uncertain" if paired is not None and not paired.is_clear else "clear"


def _guess_sweep(trials: Sequence[TrialRecord]) -> SweepRecord:
    """Returns a description for a ledger without its first line: the default metric, or the only one in its trials."""
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
    """Returns a configuration as one line, in the order of the parameters, without shared settings."""
    return ", ".join(f"{one.name} {one.show(sampled[one.name])}" for one in parameters if one.name in sampled)
