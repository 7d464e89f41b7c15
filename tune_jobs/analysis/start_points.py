"""The best configurations of earlier sweeps, for another sweep to start from (`search.points`)."""

import itertools
from collections.abc import Mapping, Sequence

from tune_jobs.analysis.candidates import group_seeds
from tune_jobs.analysis.sweep_analysis import Analysis


def start_points(analyses: Sequence[Analysis], count: int) -> list[dict[str, object]]:
    """Returns the best configurations of several sweeps: the first of each, then the second of each, and so on.

    They have no scores: those of another model, or of other data, are not comparable, so each is trained again.

    Args:
        analyses: Of the sweeps; the seed is no part of a configuration.
        count: Configurations of each sweep.
    """
    of_each = [
        [_values(one.best.trial.sampled) for one in group_seeds(analysis.scored, analysis.sweep.goal)[:count]]
        for analysis in analyses
    ]
    points: list[dict[str, object]] = []
    for point in itertools.chain.from_iterable(itertools.zip_longest(*of_each)):
        if point is not None and point not in points:
            points.append(point)
    return points


def _values(sampled: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in sampled.items() if name != "seed"}
