"""From the `early_terminate` section and the method of a sweep to a scheduler of Ray Tune."""

import random
from collections.abc import Callable

from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.ray_schedulers import new_scheduler
from tune_jobs.config.space import Bell, Categorical, Constant, Parameter, Space, Value
from tune_jobs.config.sweep import Sweep
from tune_jobs.search.early_stopping import EVALUATION
from tune_jobs.search.wandb_hyperband import WandbHyperBand


def scheduler_for(sweep: Sweep, *, last: int, side_by_side: int) -> TrialScheduler:
    """Returns a fresh scheduler for a sweep.

    Args:
        sweep: Its method, metric and early termination decide.
        last: Evaluations of a trial that is never stopped.
        side_by_side: Trials that can run at a time. A population that does not fit side by side is synchronous: it
            exchanges when all of its trials have come as far.
    """
    if sweep.method == "pbt":
        scheduler = _population(sweep, synchronous=side_by_side < sweep.trials)
    else:
        scheduler = _stopping(sweep.early_terminate, last)
    scheduler.set_search_properties(sweep.metric.name, "max" if sweep.metric.goal == "maximize" else "min")
    return scheduler


def _stopping(stop: EarlyTerminate, last: int) -> TrialScheduler:
    first = stop.min_iter or 1
    if stop.is_ray_class:
        return new_scheduler(stop.type, stop.arguments)
    if stop.type == "asha":
        return ASHAScheduler(
            time_attr=EVALUATION,
            grace_period=first,
            max_t=max(stop.max_iter or last, first),
            reduction_factor=stop.eta,
            brackets=stop.brackets,
            stop_last_trials=False,  # max_iter is where rungs end; trials end by themselves
        )
    if stop.type == "hyperband":
        return WandbHyperBand(brackets=stop.rungs(last), eta=stop.eta, strict=stop.strict)
    if stop.type == "median":
        return MedianStoppingRule(time_attr=EVALUATION, grace_period=first, min_samples_required=stop.min_trials)
    return FIFOScheduler()


def _population(sweep: Sweep, *, synchronous: bool) -> PopulationBasedTraining:
    options = sweep.search
    arguments: dict[str, object] = {
        "time_attr": EVALUATION,
        "perturbation_interval": options.perturbation_interval,
        "quantile_fraction": options.exploit_fraction,
        "resample_probability": options.resample_probability,
        "synch": synchronous,
        "log_config": False,
        **sweep.early_terminate.arguments,
        "hyperparam_mutations": {parameter.name: _mutation(parameter) for parameter in sweep.space.searched},
        "custom_explore_fn": _keep_in_space(sweep.space),
    }
    return PopulationBasedTraining(**arguments)


def _mutation(parameter: Parameter) -> list[Value] | Callable[[], Value]:
    """Returns a list, in which Ray moves a value to a neighbour, or a function that draws one, which Ray scales."""
    if isinstance(parameter, Categorical):
        return list(parameter.options)
    return lambda: parameter.at(random.random())  # early_stopping seeds it


def _keep_in_space(space: Space) -> Callable[[dict[str, Value]], dict[str, Value]]:
    """Returns Ray's hook behind its changes: values stay in their ranges and on their steps."""

    def explore(config: dict[str, Value]) -> dict[str, Value]:
        return config | {one.name: nearest_value(one, config[one.name]) for one in space.searched}

    return explore


def nearest_value(parameter: Parameter, value: Value) -> Value:
    """Returns the value that a parameter can take and that is nearest.

    >>> from tune_jobs.config.space import Range
    >>> nearest_value(Range(name="learning_rate", distribution="uniform", low=1e-5, high=1e-4), 1.2e-4)
    0.0001
    >>> nearest_value(Range(name="dropout", distribution="q_uniform", low=0.0, high=0.3, q=0.1), 0.12)
    0.1
    """
    if isinstance(parameter, (Categorical, Constant)):
        return value
    assert isinstance(value, (int, float))
    if isinstance(parameter, Bell):
        return value if parameter.q is None else type(parameter.q)(round(value / parameter.q) * parameter.q)
    if parameter.size is None:
        return min(max(float(f"{value:.12g}"), parameter.low), parameter.high)
    return min(parameter.values(), key=lambda one: abs(_number(one) - value))


def _number(value: Value) -> float:
    assert isinstance(value, (int, float))
    return float(value)
