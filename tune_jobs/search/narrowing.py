"""The box of the best trials: where the next search should look, with the reason for every bound. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune_jobs.config.fields import value_problems
from tune_jobs.config.parameters import show_value, to_number
from tune_jobs.config.space import (
    Bell,
    BellDistribution,
    Categorical,
    Constant,
    Parameter,
    Range,
    RangeDistribution,
    Space,
    Value,
)
from tuning_common.goal import Goal, best_first
from tuning_common.units import counted

LEAST_BEST = 3  # fewer trials span no box
LEAST_PAD = 0.05  # of the whole range, on each side: also a box around one point has a width
EDGE = 0.05  # of the whole range: so near to its end, better values may lie beyond
OPENS = 0.1  # of the whole range: so far such an end is opened
CHANCE = 0.2  # a value is left out only where chance alone would keep it out of the best more seldom than this
_RANGE_OF: Mapping[BellDistribution, RangeDistribution] = {
    "normal": "uniform",
    "q_normal": "q_uniform",
    "log_normal": "log_uniform_values",
    "q_log_normal": "q_log_uniform_values",
}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One configuration of the earlier search.

    Attributes:
        sampled: Its values.
        score: Mean over its seeds; None where its training broke down, which counts as the worst.
        whole: Whether it ran to its end; one that was stopped early might have become better.
    """

    sampled: Mapping[str, Value]
    score: float | None
    whole: bool = True


@dataclass(frozen=True, kw_only=True)
class Box:
    """What the best trials leave of a space.

    Attributes:
        space: Every parameter of the earlier one, narrower or as it was.
        reasons: Why each parameter has its bounds; one line for each bound or value.
        best: The configurations that span it, the best first.
        tried: How many there were.
        summary: How the best were chosen, in one sentence.
    """

    space: Space
    reasons: Mapping[str, str]
    best: tuple[Tried, ...]
    tried: int
    summary: str


def narrow(
    trials: Sequence[Tried],
    space: Space,
    *,
    goal: Goal = "maximize",
    keep_fraction: float = 0.25,
    margin: float = 0.1,
    noise: float | None = None,
) -> Box:
    """Cuts the box of the best trials out of a space.

    The best are the part `keep_fraction` of all, at least three, and whatever ties with the very best. A range becomes
    theirs, with a margin on each side, on the axis on which it is spread (logarithmic for log distributions). It stays
    inside the old one, unless the very best trial lies at an end: then that end opens by a tenth of the whole range
    where a run accepts the values. A category is left out where none of the best has it and chance alone would
    seldom do that (hypergeometric). Where every trial is among the best, nothing was learned and nothing is cut.

    Args:
        trials: Of the earlier search, in any order.
        space: That it searched.
        goal: Whether high or low scores are good.
        keep_fraction: Part of the trials that spans the box, above 0 and at most 1.
        margin: Part of the box's width added on each side.
        noise: By how much two scores may differ by chance; None where that is not known, so that only equals tie.

    >>> rate = Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-3)
    >>> tried = [Tried(sampled={"learning_rate": 10.0**-e}, score=-abs(e - 4)) for e in (3, 3.5, 4, 4.25, 4.5, 5)]
    >>> box = narrow(tried, Space(parameters=(rate,)), keep_fraction=0.5)
    >>> box.space["learning_rate"].spec()
    {'distribution': 'log_uniform_values', 'min': 4.46e-05, 'max': 0.000399}
    >>> print(box.reasons["learning_rate"])
    min: the lowest of the best is 5.62e-5; a margin of 5% of the whole range below it
    max: the highest of the best is 3.16e-4; a margin of 5% of the whole range above it
    """
    assert 0 < keep_fraction <= 1, keep_fraction
    assert margin >= 0, margin
    ranked = best_first(trials, lambda one: one.score, goal)
    best, summary = _choose(ranked, keep_fraction, noise)
    parameters: list[Parameter] = []
    reasons: dict[str, str] = {}
    for parameter in space.parameters:
        narrowed, reason = _narrow_one(parameter, ranked, best, margin)
        parameters.append(narrowed)
        reasons[parameter.name] = reason
    return Box(
        space=Space(parameters=tuple(parameters)), reasons=reasons, best=best, tried=len(ranked), summary=summary
    )


def _choose(ranked: Sequence[Tried], keep_fraction: float, noise: float | None) -> tuple[tuple[Tried, ...], str]:
    scored = [one for one in ranked if one.score is not None]
    if not scored:
        return (), "no trial has a score"
    count = min(max(LEAST_BEST, math.ceil(keep_fraction * len(ranked) - 1e-9)), len(scored))
    first = scored[0].score
    ties = [one for one in scored[count:] if abs((one.score or 0.0) - (first or 0.0)) <= (noise or 0.0)]
    more = f", and {len(ties)} more that tie with the very best (noise {noise or 0.0:.2g})" if ties else ""
    return (*scored[:count], *ties), f"the best {count} of {counted(len(ranked), 'trial')}{more}"


def _narrow_one(
    parameter: Parameter, ranked: Sequence[Tried], best: Sequence[Tried], margin: float
) -> tuple[Parameter, str]:
    name = parameter.name
    if isinstance(parameter, Constant):
        return parameter, "the same in all trials"
    if name == "seed":
        return Constant(name=name, value=parameter.at(0.0)), "a search that chose seeds would choose luck"
    if not best:
        return parameter, "kept: no trial has a score"
    if len(best) == len(ranked):
        why = "one trial tells nothing about it" if len(ranked) == 1 else f"all {len(ranked)} trials are among the best"
        return parameter, f"kept: {why}"
    if isinstance(parameter, Categorical):
        return _narrow_values(parameter, ranked, best)
    values = [value for one in best if (value := to_number(one.sampled.get(name))) is not None]
    if isinstance(parameter, Range):
        values = [value for value in values if parameter.contains(value)]
    if not values:
        return parameter, "kept: none of the best trials has a value in this range"
    if isinstance(parameter, Bell):
        return _bound_bell(parameter, values, margin)
    return _narrow_range(parameter, values, margin)


def _narrow_values(parameter: Categorical, ranked: Sequence[Tried], best: Sequence[Tried]) -> tuple[Parameter, str]:
    """Keeps what the best have, and what was tried too seldom to say anything against it."""
    name = parameter.name
    kept: list[Value] = []
    lines: list[str] = []
    known = [one for one in ranked if name in one.sampled]
    top = [one for one in best if name in one.sampled]
    for option in parameter.options:
        same = Categorical(name=name, options=(option,))
        among = sum(1 for one in top if same.contains(one.sampled[name]))
        trials = sum(1 for one in known if same.contains(one.sampled[name]))
        chance = chance_of_none(len(known), trials, len(top))
        counted = f"{trials} trial{'' if trials == 1 else 's'}"
        if among:
            lines.append(
                f"{show_value(option)} kept: {among} of the best {len(top)} {'has' if among == 1 else 'have'} it"
            )
        elif chance > CHANCE:
            said = f"{counted} with it say too little (by chance {chance:.0%})" if trials else "it was not tried"
            lines.append(f"{show_value(option)} kept: {said}")
        else:
            none = f"none of its {counted} is among the best {len(top)} (by chance {chance:.0%})"
            lines.append(f"{show_value(option)} left out: {none}")
            continue
        kept.append(option)
    assert kept, "the best trials have some value"
    return _with_options(parameter, kept), "\n".join(lines)


def _with_options(parameter: Categorical, kept: Sequence[Value]) -> Categorical:
    if parameter.probabilities is None:
        return Categorical(name=parameter.name, options=tuple(kept))
    chances = [
        chance for option, chance in zip(parameter.options, parameter.probabilities, strict=True) if option in kept
    ]
    total = sum(chances)
    shares = tuple(chance / total for chance in chances) if total > 0 else None
    return Categorical(name=parameter.name, options=tuple(kept), probabilities=shares)


def chance_of_none(tried: int, having: int, best: int) -> float:
    """Returns the chance that none of the best has a value which makes no difference.

    Args:
        tried: Trials in all.
        having: Those that have the value.
        best: How many of all are called the best.

    >>> round(chance_of_none(24, 8, 6), 3), chance_of_none(24, 0, 6)
    (0.059, 1.0)
    """
    return math.comb(tried - having, best) / math.comb(tried, best)


def _narrow_range(parameter: Range, values: Sequence[float], margin: float) -> tuple[Parameter, str]:
    places = [parameter.to_log(value) for value in values]
    low, high = parameter.to_log(parameter.low), parameter.to_log(parameter.high)
    pad = max(margin * (max(places) - min(places)), LEAST_PAD * (high - low))
    below = _Bound(parameter=parameter, side=-1, best=min(places), end=low, pad=pad)
    above = _Bound(parameter=parameter, side=1, best=max(places), end=high, pad=pad)
    wide = (
        f"{max(margin, 0.0):.0%} of their width"
        if pad > LEAST_PAD * (high - low)
        else f"{LEAST_PAD:.0%} of the whole range"
    )
    new_low, why_low = below.find(places[0], wide)
    new_high, why_high = above.find(places[0], wide)
    narrowed = Range(
        name=parameter.name, distribution=parameter.distribution, low=new_low, high=new_high, q=parameter.q
    )
    return narrowed, f"min: {why_low}\nmax: {why_high}"


@dataclass(frozen=True, kw_only=True)
class _Bound:
    """One end of a range that is to be narrowed; places are on the parameter's own axis.

    Attributes:
        parameter: Before.
        side: -1 for the lower end, 1 for the upper one.
        best: The outermost of the best.
        end: The old end.
        pad: The margin.
    """

    parameter: Range
    side: int
    best: float
    end: float
    pad: float

    def find(self, very_best: float, margin: str) -> tuple[float, str]:
        """Returns the new bound as a value, and why."""
        old = self.parameter.low if self.side < 0 else self.parameter.high
        word, where = ("lowest", "below") if self.side < 0 else ("highest", "above")
        width = abs(self.parameter.to_log(self.parameter.high) - self.parameter.to_log(self.parameter.low))
        shown = show_value(self._value(self.best))
        at_end = (self.end - very_best) * self.side <= EDGE * width
        if at_end:
            opened = self._rounded(self.end + self.side * OPENS * width)
            outside = (opened - old) * self.side > 0
            if outside and not value_problems(self.parameter.name, opened):
                return opened, f"the very best trial lies at the end {show_value(old)}, so it is opened"
            return old, f"the very best trial lies at the end {show_value(old)}" + (
                ", beyond which no run accepts a value" if outside else ""
            )
        rounded = self._rounded(self.best + self.side * self.pad)
        if (rounded - old) * self.side >= 0:
            return old, f"as before: the {word} of the best is {shown}"
        return rounded, f"the {word} of the best is {shown}; a margin of {margin} {where} it"

    def _value(self, place: float) -> float:
        return float(f"{math.exp(place):.12g}") if self.parameter.log else place

    def _rounded(self, place: float) -> float:
        """Rounds outward: to a step of the parameter, to three digits, or to a hundredth of the old width."""
        value, to_whole = self._value(place), math.floor if self.side < 0 else math.ceil
        if self.parameter.distribution == "int_uniform":
            return to_whole(value)
        if self.parameter.q is not None:
            times = to_whole(value / self.parameter.q - self.side * 1e-9)
            return (
                times * self.parameter.q
                if isinstance(self.parameter.q, int)
                else float(f"{times * self.parameter.q:.12g}")
            )
        scale = abs(value) if self.parameter.log else self.parameter.high - self.parameter.low
        step = 10.0 ** (math.floor(math.log10(scale)) - 2)
        return float(f"{to_whole(value / step - self.side * 1e-9) * step:.12g}")


def _bound_bell(parameter: Bell, values: Sequence[float], margin: float) -> tuple[Parameter, str]:
    """A bell has no bounds that could be narrowed: it becomes the range of the best."""
    places = [parameter.to_log(value) for value in values if not (parameter.log and value <= 0)]
    if not places:
        return parameter, "kept: none of the best trials has a value above 0"
    pad = max(margin * (max(places) - min(places)), LEAST_PAD * 4 * parameter.sigma)
    ends = []
    for place, side in ((min(places), -1), (max(places), 1)):
        inner, outer = (math.exp(place), math.exp(place + side * pad)) if parameter.log else (place, place + side * pad)
        if parameter.q is not None:
            outer = (math.floor if side < 0 else math.ceil)(outer / parameter.q) * parameter.q
        refused = value_problems(parameter.name, outer) or (parameter.log and outer <= 0)
        ends.append(float(f"{inner if refused else outer:.3g}") if parameter.q is None else inner if refused else outer)
    shown = " to ".join(show_value(value) for value in (min(values), max(values)))
    reason = f"{parameter.distribution} has no bounds; the best lie at {shown}, and a margin is added on each side"
    if ends[0] >= ends[1]:
        return Constant(name=parameter.name, value=ends[0]), f"all of the best have {shown}"
    distribution = _RANGE_OF[parameter.distribution]
    return Range(name=parameter.name, distribution=distribution, low=ends[0], high=ends[1], q=parameter.q), reason
