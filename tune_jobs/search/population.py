"""Population based training: which trial gives up its weights for a better one's, and how its values then change.

Source: Jaderberg et al., Population Based Training of Neural Networks, 2017 (https://arxiv.org/abs/1711.09846), with
truncation selection as in Ray's PopulationBasedTraining (2.60): at each interval a trial in the bottom quantile copies
from a random one of the top, and every value is drawn anew or moved by a factor. Unlike Ray's, values stay in their
ranges. Pure: chance comes from the seed, the trial and the evaluation alone, so a resumed sweep decides alike.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from common.goal import Goal
from tune_jobs.config.sections import SearchOptions
from tune_jobs.config.space import Bell, Categorical, Constant, Parameter, Range, Space, Value

FACTORS = (0.8, 1.2)  # of the paper and of Ray
# What may change in the middle of a training: a checkpoint fixes the model's shape and counts its steps in batches.
MOVABLE = (
    "learning_rate", "weight_decay", "dropout", "label_smoothing", "max_grad_norm", "num_beams", "length_penalty",
    "no_repeat_ngram_size",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Move:
    """What becomes of a trial at the end of an interval.

    Attributes:
        donor: The trial whose weights it goes on with.
        sampled: Its values from now on.
        changes: What was done to each of the donor's values, for people.
    """

    donor: int
    sampled: Mapping[str, Value]
    changes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PopulationRule:
    """Decides for a whole population.

    Attributes:
        space: What may be tried.
        goal: Whether high or low values are good.
        options: Interval, quantile, chance of resampling and seed.
    """

    space: Space
    goal: Goal
    options: SearchOptions

    def is_due(self, evaluation: int) -> bool:
        """Whether an interval ends with an evaluation."""
        return evaluation % self.options.perturbation_interval == 0

    def decide(
        self, number: int, evaluation: int, scores: Mapping[int, float], sampled: Mapping[int, Mapping[str, Value]]
    ) -> Move | None:
        """Says whether a trial copies from another; None where it goes on as it is.

        Args:
            number: The trial, at the end of an interval.
            evaluation: Its evaluations so far.
            scores: The last values of all trials under way, its own among them.
            sampled: The values of those that can be copied from.
        """
        bottom, top = quantiles(scores, self.options.exploit_fraction, self.goal)
        donors = [donor for donor in top if donor in sampled and donor != number]
        if number not in bottom or not donors:
            return None
        rng = random.Random(f"{self.options.seed}/{number}/{evaluation}")
        donor = rng.choice(donors)
        values, changes = explore(self.space, sampled[donor], rng, self.options.resample_probability)
        return Move(donor=donor, sampled=values, changes=changes)


def quantiles(scores: Mapping[int, float], fraction: float, goal: Goal) -> tuple[list[int], list[int]]:
    """Returns the trials at the bottom and at the top, the worst first; both empty for a single trial.

    >>> quantiles({1: 5.0, 2: 1.0, 3: 3.0, 4: 4.0}, 0.25, "maximize")
    ([2], [1])
    """
    sign = 1 if goal == "maximize" else -1
    known = {number: score for number, score in scores.items() if not math.isnan(score)}
    ordered = sorted(known, key=lambda number: (sign * known[number], number))
    size = math.ceil(len(ordered) * fraction)
    if size > len(ordered) / 2:
        size = len(ordered) // 2
    return (ordered[:size], ordered[-size:]) if size and len(ordered) > 1 else ([], [])


def explore(
    space: Space, values: Mapping[str, Value], rng: random.Random, resample_probability: float
) -> tuple[dict[str, Value], tuple[str, ...]]:
    """Changes every searched value a little, or draws it anew; all stay in their ranges.

    Args:
        space: What may be tried.
        values: Those of the donor.
        rng: Where chance comes from.
        resample_probability: Of drawing a value anew.

    Returns:
        The values, and what was done to each, for people.

    >>> rate = Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-4)
    >>> explore(Space(parameters=(rate,)), {"learning_rate": 9e-5}, random.Random(0), 0.0)
    ({'learning_rate': 0.0001}, ('learning_rate 9e-05 -> 0.0001: x 1.2, at its bound',))
    """
    changed: dict[str, Value] = {}
    notes: list[str] = []
    for parameter in space.parameters:
        before = values[parameter.name]
        if isinstance(parameter, Constant):
            changed[parameter.name] = before
            continue
        if rng.random() < resample_probability:
            after, how = parameter.at(rng.random()), "drawn anew"
        else:
            after, how = _moved(parameter, before, rng)
        changed[parameter.name] = after
        notes.append(f"{parameter.name} {_short(before)} -> {_short(after)}: {how}")
    return changed, tuple(notes)


def _moved(parameter: Parameter, before: Value, rng: random.Random) -> tuple[Value, str]:
    if isinstance(parameter, Categorical):
        step = rng.choice((-1, 1))
        place = int(parameter.to_log(before))
        kept = min(max(place + step, 0), len(parameter.options) - 1)
        return parameter.options[kept], f"{'left' if step < 0 else 'right'} in the list{_bound(kept == place)}"
    assert isinstance(before, (int, float))
    factor = rng.choice(FACTORS)
    wanted = before * factor
    if isinstance(parameter, Bell):
        after: Value = wanted if parameter.q is None else type(parameter.q)(round(wanted / parameter.q) * parameter.q)
        return after, f"x {factor:g}"
    assert isinstance(parameter, Range)
    if parameter.size is None:
        after = min(max(float(f"{wanted:.12g}"), parameter.low), parameter.high)
    else:
        options = [float(str(value)) for value in parameter.values()]
        nearest = min(range(len(options)), key=lambda place: abs(options[place] - wanted))
        after = parameter.values()[nearest]
    return after, f"x {factor:g}{_bound(after in (parameter.low, parameter.high))}"


def _bound(reached: bool) -> str:
    return ", at its bound" if reached else ""


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
