"""Configurations that a search starts from (`search.points`): reading, checks, and the grid that they span."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from tune_jobs.config.fields import to_value
from tune_jobs.config.sections import READ_BY
from tune_jobs.config.space import Constant, Space, Value
from tune_jobs.config.sweep import Sweep
from tuning_common.errors import Problems
from tuning_common.strict import Located

SCORE = "score"  # a key of a point, beside the parameters


@dataclass(frozen=True, kw_only=True)
class Point:
    """A configuration to start from.

    Attributes:
        sampled: Values of the searched parameters.
        score: The metric's value where it is known from an earlier run; None where the point is to be run.
    """

    sampled: Mapping[str, Value]
    score: float | None = None


def points_of(sweep: Sweep) -> tuple[Point, ...]:
    """Returns the points of a sweep, in the order of its file."""
    return tuple(
        Point(
            sampled={name: to_value(value) for name, value in raw.items() if name != SCORE},
            score=cast("float | None", raw.get(SCORE)),
        )
        for raw in sweep.search.points
    )


def grid_of_points(sweep: Sweep) -> tuple[dict[str, Value], ...]:
    """Returns every configuration of a grid with points; the parameters that a point leaves open change fastest.

    >>> from tune_jobs.config.sections import SearchOptions
    >>> from tune_jobs.config.space import Categorical
    >>> rate, seed = Categorical(name="learning_rate", options=(1e-3, 3e-3)), Categorical(name="seed", options=(1, 2))
    >>> sweep = Sweep(name="confirm", source="", method="grid", space=Space(parameters=(rate, seed)),
    ...               search=SearchOptions(points=({"learning_rate": 3e-3},)))
    >>> grid_of_points(sweep)
    ({'learning_rate': 0.003, 'seed': 1}, {'learning_rate': 0.003, 'seed': 2})
    """
    found = []
    for point in points_of(sweep):
        axes = [
            (point.sampled[one.name],) if one.name in point.sampled else one.values() for one in sweep.space.parameters
        ]
        names = [one.name for one in sweep.space.parameters]
        found += [dict(zip(names, values, strict=True)) for values in itertools.product(*axes)]
    return tuple(found)


def check_points(sweep: Sweep, document: Located, problems: Problems) -> None:
    """Collects points outside the space or unusable for the method.

    Args:
        sweep: The sweep, as read so far.
        document: The sweep file.
        problems: Collects the problems.
    """
    if sweep.phases and sweep.search.points and not any(phase.sweep.search.points for phase in sweep.phases):
        problems.add(
            f"{document.where('search', 'points')}: no phase starts from points: only a wide phase does, whose method "
            f"is {', '.join(READ_BY['points'][:-1])} or {READ_BY['points'][-1]}"
        )
    needed = {one.name for one in sweep.space.parameters if not isinstance(one, Constant)}
    for index, raw in enumerate(sweep.search.points):
        for key, value in raw.items():
            where = document.where("search", "points", index, key)
            if key == SCORE:
                _check_score(sweep, value, where, problems)
            elif key not in needed:
                known = ", ".join(sorted(needed)) or "nothing"
                problems.add(f"{where}: {key} is not searched, so no point can set it; searched: {known}")
            else:
                _check_value(sweep.space, key, value, where, problems)
        missing = sorted(needed - set(raw))
        if missing and sweep.method != "grid":
            problems.add(
                f"{document.where('search', 'points', index)}: a point of {sweep.method} has every searched parameter; "
                f"missing: {', '.join(missing)}"
            )


def _check_score(sweep: Sweep, value: object, where: str, problems: Problems) -> None:
    if sweep.method == "grid":
        problems.add(f"{where}: a grid runs every point, so a score has no effect; remove it")
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        problems.add(f"{where}: score must be a number, a value of {sweep.metric.name}, but is {value!r}")


def _check_value(space: Space, name: str, value: object, where: str, problems: Problems) -> None:
    try:
        inside = space[name].contains(to_value(value))
    except ValueError as error:
        problems.add(f"{where}: {name}: {error}")
        return
    if not inside:
        problems.add(
            f"{where}: {name} {value!r} lies outside {space[name].spec()}; change one of the two, or remove the point"
        )
