"""When to stop a trial early: rungs (ASHA, W&B's hyperband) and the median rule, decided from values alone.

Must not import ray: the same rules run in a sweep, in a replay of its ledger after a restart, and in a simulation.
An iteration is one evaluation of a trial, counted from 1.
"""

import math
import statistics
from dataclasses import dataclass, field
from typing import Protocol

from common.goal import Goal


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rule says about one reported value.

    Attributes:
        stop: Whether the trial should end here.
        rung: The iteration at which trials were compared, None where this report met no rung.
        reason: For people and for the ledger; empty where there is nothing to say.
    """

    stop: bool = False
    rung: int | None = None
    reason: str = ""


CONTINUE = Verdict()


class StoppingRule(Protocol):
    """Hears every evaluation of every trial, in the order in which they come."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """The iterations at which trials are compared, in rising order; empty for a rule without rungs."""
        ...

    def report(self, trial: str, iteration: int, value: float) -> Verdict:
        """Takes in one value and says whether the trial goes on."""
        ...


class NeverStop:
    """Lets every trial run to its end."""

    rungs: tuple[int, ...] = ()

    def report(self, trial: str, iteration: int, value: float) -> Verdict:
        """Always goes on."""
        return CONTINUE


def asha_rungs(*, min_iter: int, eta: float, max_iter: int) -> tuple[int, ...]:
    """Returns the rungs of asynchronous successive halving: min_iter * eta^k below max_iter.

    Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, algorithm 2. A rung at
    max_iter itself would only stop trials that end there anyway.

    >>> asha_rungs(min_iter=1, eta=3, max_iter=27)
    (1, 3, 9)
    """
    rungs: list[int] = []
    position = float(min_iter)
    while int(position) < max_iter:
        if not rungs or int(position) > rungs[-1]:
            rungs.append(int(position))
        position *= eta
    return tuple(rungs)


def hyperband_rungs(
    *, eta: float, max_iter: int | None = None, s: int | None = None, min_iter: int | None = None, last: int
) -> tuple[int, ...]:
    """Returns the brackets of W&B's `early_terminate: {type: hyperband}`.

    Source: https://docs.wandb.ai/guides/sweeps/sweep-config-keys: with `max_iter` and `s` they lie at max_iter / eta^k
    for k = 1..s, rounded down; with `min_iter` at min_iter * eta^k.

    Args:
        eta: Factor between brackets; 1/eta of the trials pass one.
        max_iter: The longest trial, in iterations.
        s: How many brackets to count down from max_iter.
        min_iter: The first bracket, instead of max_iter and s.
        last: Iterations that trials can reach; later brackets are left out.

    >>> hyperband_rungs(eta=3, max_iter=27, s=2, last=27), hyperband_rungs(eta=3, min_iter=3, last=30)
    ((3, 9), (3, 9, 27))
    """
    if max_iter is not None:
        positions = [max_iter / eta**k for k in range(1, (s or 1) + 1)]
        return tuple(sorted({int(position) for position in positions if 1 <= position <= last}))
    return asha_rungs(min_iter=min_iter or 1, eta=eta, max_iter=last + 1)


@dataclass(kw_only=True)
class RungRule:
    """Compares a trial at each rung with the trials that came there before it and stops it outside the best 1/eta.

    The cutoff is the (1 - 1/eta) quantile of the earlier values, interpolated (Li et al., 2020; the same numbers as
    Ray's ASHAScheduler).

    Attributes:
        rungs: Iterations in rising order.
        eta: 1/eta of the trials pass a rung.
        goal: Whether high or low values are good.
    """

    rungs: tuple[int, ...]
    eta: float
    goal: Goal
    _values: dict[int, dict[str, float]] = field(default_factory=dict, init=False)

    def report(self, trial: str, iteration: int, value: float) -> Verdict:
        """Takes in one value; only the highest rung that the trial has reached is looked at."""
        score = value if self.goal == "maximize" else -value
        for rung in reversed(self.rungs):
            recorded = self._values.setdefault(rung, {})
            if iteration < rung or trial in recorded:
                continue
            limit = quantile(list(recorded.values()), 1 - 1 / self.eta) if recorded else None
            count = len(recorded) + 1
            if not math.isnan(score):
                recorded[trial] = score
            if limit is not None and not score >= limit:  # NaN is never good enough
                return _stopped(value, limit if self.goal == "maximize" else -limit, rung, count)
            return Verdict(rung=rung)
        return CONTINUE


@dataclass(kw_only=True)
class BracketRule:
    """Stops trials as W&B's `early_terminate: {type: hyperband}` does.

    At every report the trial is compared at the last bracket that it has reached: with the value in place floor(n/eta),
    counted from 0, of all n trials that have come so far, its own among them. Others go on arriving, so a trial may
    fall behind after its bracket. Compared is the trial's best value so far; with `strict` its value at the bracket.

    Source: https://docs.wandb.ai/guides/sweeps/sweep-config-keys, and where that is silent hyperband_stopping.py of
    https://github.com/wandb/sweeps, which however looks only every few minutes.

    Attributes:
        rungs: The brackets, in rising order.
        eta: 1/eta of the trials pass a bracket.
        goal: Whether high or low values are good.
        strict: See above.
    """

    rungs: tuple[int, ...]
    eta: float
    goal: Goal
    strict: bool = False
    _scores: dict[str, dict[int, float]] = field(default_factory=dict, init=False)

    def report(self, trial: str, iteration: int, value: float) -> Verdict:
        """Takes in one value and compares at the last bracket behind it."""
        own = self._scores.setdefault(trial, {})
        own[iteration] = value if self.goal == "maximize" else -value
        reached = [rung for rung in self.rungs if rung <= iteration]
        if not reached:
            return CONTINUE
        rung = reached[-1]
        arrived = sorted((_at(scores, rung) for scores in self._scores.values() if max(scores) >= rung), reverse=True)
        limit = arrived[int(len(arrived) / self.eta)]
        score = _at(own, rung) if self.strict else max(map(_known, own.values()))
        if score < limit or math.isinf(score):  # a trial without a number is never good enough
            sign = 1 if self.goal == "maximize" else -1
            return _stopped(sign * score, sign * limit, rung, len(arrived))
        return Verdict(rung=rung if rung == iteration else None)


def _at(scores: dict[int, float], rung: int) -> float:
    """The value at a rung; after a restart the earlier one where it was not evaluated again."""
    return _known(scores[max(iteration for iteration in scores if iteration <= rung)]) if scores else -math.inf


def _known(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def _stopped(value: float, limit: float, rung: int, count: int) -> Verdict:
    return Verdict(stop=True, rung=rung, reason=f"{value:.4g} against {limit:.4g} at rung {rung} ({count} trials)")


@dataclass(kw_only=True)
class MedianRule:
    """Stops a trial whose best value is worse than the median of the other trials' running means.

    Source: Golovin et al., Google Vizier, KDD 2017, section 3.2.2; the same decisions as Ray's MedianStoppingRule,
    which however may pause trials: this rule never does.

    Attributes:
        goal: Whether high or low values are good.
        min_iter: No trial is stopped earlier, and earlier values are left out of the means.
        min_trials: So many other trials must have come as far.
    """

    goal: Goal
    min_iter: int = 1
    min_trials: int = 3
    rungs: tuple[int, ...] = ()
    _values: dict[str, list[tuple[int, float]]] = field(default_factory=dict, init=False)

    def report(self, trial: str, iteration: int, value: float) -> Verdict:
        """Takes in one value and compares the trial's best so far with the others."""
        score = value if self.goal == "maximize" else -value
        own = self._values.setdefault(trial, [])
        own.append((iteration, score))
        if iteration < self.min_iter:
            return CONTINUE
        means = [
            mean
            for other, values in self._values.items()
            if other != trial and values[-1][0] >= iteration and (mean := self._mean(values, iteration)) is not None
        ]
        if len(means) < self.min_trials:
            return CONTINUE
        median = statistics.median(means)
        best = max((score for _, score in own if not math.isnan(score)), default=-math.inf)
        if best >= median:
            return CONTINUE
        shown = median if self.goal == "maximize" else -median
        return Verdict(stop=True, reason=f"best value is worse than the median {shown:.4g} of {len(means)} trials")

    def _mean(self, values: list[tuple[int, float]], iteration: int) -> float | None:
        scores = [score for at, score in values if self.min_iter <= at <= iteration and math.isfinite(score)]
        return statistics.fmean(scores) if scores else None


def quantile(values: list[float], fraction: float) -> float:
    """Returns a quantile with linear interpolation between neighbours (numpy's default).

    >>> quantile([1.0, 2.0, 4.0], 0.5), quantile([0.0, 1.0], 0.75)
    (2.0, 0.75)
    """
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
