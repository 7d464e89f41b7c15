"""Lists the trials of a search that knows them beforehand: grid and random."""

import random
from collections.abc import Iterator

from tune_jobs.config.points import grid_of_points
from tune_jobs.config.rules import ResolvedTrial
from tune_jobs.config.space import Space, Value
from tune_jobs.config.sweep import Sweep
from tuning_common.errors import Problems, RequestError

_MISSES = 100  # repeats in a row before the rest of a nearly exhausted space is listed instead of guessed


def sampled_configs(sweep: Sweep) -> tuple[dict[str, Value], ...]:
    """Returns the sampled configurations of a grid or random search, in the order in which they are tried.

    No configuration comes twice. Random: a larger count only adds trials behind the same first ones. A grid with a
    smaller count is a random part of the whole in the grid's order, since its first corner would say nothing about
    the parameters that change slowly. With `search.points` the grid is those points; see points.grid_of_points.

    Args:
        sweep: A plain sweep with method grid or random.

    >>> from tune_jobs.config.space import Categorical
    >>> beams, seed = Categorical(name="num_beams", options=(1, 4)), Categorical(name="seed", options=(7,))
    >>> space = Space(parameters=(beams, seed))
    >>> sampled_configs(Sweep(name="a", source="a.yaml", method="grid", space=space))
    ({'num_beams': 1, 'seed': 7}, {'num_beams': 4, 'seed': 7})
    """
    assert sweep.method in ("grid", "random"), f"{sweep.method} decides by the results so far"
    rng = random.Random(sweep.search.seed)
    if sweep.search.points:
        every = grid_of_points(sweep)
        return tuple(every[place] for place in sorted(rng.sample(range(len(every)), sweep.trials)))
    if sweep.method == "random":
        draws = _different(sweep.space, rng)
        return tuple(next(draws) for _ in range(sweep.trials))
    size = sweep.space.size
    assert size is not None, "a continuous grid is refused when it is read"
    if sweep.trials == size:
        return tuple(sweep.space.grid())
    return tuple(_nth(sweep.space, place) for place in sorted(rng.sample(range(size), sweep.trials)))


def drawn_configs(sweep: Sweep, count: int) -> tuple[dict[str, Value], ...]:
    """Draws configurations independently of each other; so one may come twice.

    They are the first population of pbt, and stand in a plan for trials that results will choose.
    """
    rng = random.Random(sweep.search.seed)
    return tuple(sweep.space.sample(rng) for _ in range(count))


def planned_trials(sweep: Sweep) -> tuple[ResolvedTrial, ...]:
    """Returns every trial of a grid or random search as it would be run.

    Raises:
        RequestError: With every trial that is no valid run, for example where accumulation does not divide the batch.
    """
    problems = Problems()
    trials: list[ResolvedTrial] = []
    for sampled in sampled_configs(sweep):
        try:
            trials.append(sweep.resolve(sampled))
        except RequestError as error:
            problems.extend([f"{error.message}: {problem}" for problem in error.problems])
    problems.raise_if_any(sweep.source)
    return tuple(trials)


def _different(space: Space, rng: random.Random) -> Iterator[dict[str, Value]]:
    seen: set[str] = set()
    misses = 0
    while misses < _MISSES:
        config = space.sample(rng)
        if repr(config) in seen:
            misses += 1
            continue
        seen.add(repr(config))
        misses = 0
        yield config
    size = space.size
    assert size is not None, "only a countable space repeats itself so often"
    rest = [config for config in (_nth(space, place) for place in range(size)) if repr(config) not in seen]
    rng.shuffle(rest)
    yield from rest


def _nth(space: Space, place: int) -> dict[str, Value]:
    """Returns one configuration of a grid by its place, without walking through the others."""
    values: dict[str, Value] = {}
    for parameter in reversed(space.parameters):
        options = parameter.values()
        place, digit = divmod(place, len(options))
        values[parameter.name] = options[digit]
    return {parameter.name: values[parameter.name] for parameter in space.parameters}
