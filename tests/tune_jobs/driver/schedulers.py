"""Fresh schedulers of every kind for sweeps of a few trials with made-up scores."""

import random
from collections.abc import Callable

from ray.tune.schedulers import TrialScheduler

from tests.tune_jobs.specs_of import METRIC
from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.sections import Metric, SearchOptions
from tune_jobs.config.space import Range, Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.search.tune_schedulers import scheduler_for

LONGEST = 4
COUNT = 5
SPACE = Space(parameters=(Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-3),))


def sweep_of(method: str, early_terminate: EarlyTerminate, exploit_fraction: float = 0.25) -> Sweep:
    return Sweep(
        name="sample",
        source="",
        method="pbt" if method == "pbt" else "random",
        space=SPACE,
        count=COUNT,
        metric=Metric(name=METRIC, goal="maximize"),
        early_terminate=early_terminate,
        search=SearchOptions(exploit_fraction=exploit_fraction),
    )


SCHEDULERS: dict[str, Callable[[], TrialScheduler]] = {
    "none": lambda: made(sweep_of("random", EarlyTerminate(type="none"))),
    "asha": lambda: made(sweep_of("random", EarlyTerminate(type="asha", min_iter=1, eta=2))),
    "asha with brackets": lambda: made(sweep_of("random", EarlyTerminate(type="asha", min_iter=1, eta=2, brackets=2))),
    "HyperBandScheduler": lambda: made(
        sweep_of(
            "random", EarlyTerminate(type="HyperBandScheduler", arguments={"max_t": LONGEST, "reduction_factor": 2})
        )
    ),
    "hyperband": lambda: made(sweep_of("random", EarlyTerminate(type="hyperband", min_iter=1, eta=2))),
    "median": lambda: made(sweep_of("random", EarlyTerminate(type="median", min_iter=1, min_trials=2))),
    "pbt": lambda: made(sweep_of("pbt", EarlyTerminate(type="none"))),
    "pbt of two": lambda: made(sweep_of("pbt", EarlyTerminate(type="none"), exploit_fraction=0.5)),
    "synchronous pbt": lambda: made(sweep_of("pbt", EarlyTerminate(type="none")), side_by_side=2),
}


def made(sweep: Sweep, side_by_side: int = 16) -> TrialScheduler:
    return scheduler_for(sweep, last=LONGEST, side_by_side=side_by_side)


def score_of(seed: int) -> Callable[[int, int], float]:
    return lambda number, evaluation: float(random.Random(f"{seed}/{number}/{evaluation}").randrange(1000))
