"""Ray Tune's schedulers for sweep files, and their arguments. Imports ray.tune (about one second)."""

import dataclasses
import inspect
from collections.abc import Mapping
from types import MappingProxyType

from ray.tune import schedulers

from tune_jobs.config.early_terminate import LEAST_REDUCTION, MOST_BRACKETS
from tune_jobs.config.space import Value
from tuning_common.errors import Problems, RequestError
from tuning_common.strict import from_mapping, nearest

TIME_ATTRS = ("training_iteration", "time_total_s")  # keys of every report of a trial
_REFUSED = MappingProxyType(
    {
        "HyperBandForBOHB": "needs Ray's TuneBOHB searcher and the package hpbandster, which is no longer kept up; "
        "write `method: bohb`, which is TPE with HyperBand's budgets",
        "PB2": "needs the packages GPy and scikit-learn; write `method: pbt`",
        "PopulationBasedTrainingReplay": "replays the policy file of another run; "
        "`python -m tune_jobs reproduce` trains a trial again",
        "ResourceChangingScheduler": "changes what a running trial holds, which the broker decides here; "
        "set `resources` instead",
        "TrialScheduler": "is the base class of the others",
    }
)
_SET_ELSEWHERE = MappingProxyType(
    {
        "metric": "comes from `metric.name`",
        "mode": "comes from `metric.goal`",
        "hyperparam_mutations": "comes from `parameters`",
        "custom_explore_fn": "is set here: it keeps values in their ranges",
        "log_config": "is set here: the ledger has every exchange",
    }
)


def scheduler_class(name: str) -> type:
    """Returns a class of ray.tune.schedulers.

    Raises:
        RequestError: When no such class exists, or when it cannot be used here.
    """
    if name in _REFUSED:
        raise RequestError(f"{name} {_REFUSED[name]}")
    usable = [known for known in schedulers.__all__ if known not in _REFUSED]
    if name not in usable:
        hint = nearest(name, usable) or f"; known: {', '.join(usable)}"
        raise RequestError(f"{name} is no class of ray.tune.schedulers{hint}")
    found: type = getattr(schedulers, name)
    return found


def check_arguments(name: str, given: Mapping[str, object]) -> dict[str, Value]:
    """Checks arguments against a class's own signature and constructor.

    Args:
        name: The class.
        given: The arguments in the sweep file, without `type`.

    Returns:
        The same arguments, with lists as tuples.

    Raises:
        RequestError: With every unknown argument (and the known ones with their defaults), every argument that is set
            elsewhere, every wrong type, or the constructor's error.
    """
    parameters = inspect.signature(scheduler_class(name)).parameters
    defaults = {key: one.default for key, one in parameters.items() if key not in _SET_ELSEWHERE}
    problems = Problems()
    for key in [key for key in given if key not in defaults]:
        if key in parameters:
            problems.add(f"{key} {_SET_ELSEWHERE[key]}")
        else:
            listed = ", ".join(f"{known}={_default(known, value)!r}" for known, value in defaults.items())
            known = f"it has {listed}" if listed else "it has none"
            problems.add(f"{key} is no argument of {name}{nearest(key, list(defaults))}; {known}")
    hints = [(key, parameters[key].annotation, dataclasses.field(default=default)) for key, default in defaults.items()]
    known_ones = {key: value for key, value in given.items() if key in defaults}
    checked: dict[str, Value] = {}
    try:
        values: object = from_mapping(dataclasses.make_dataclass(name, hints, kw_only=True), known_ones)
        checked = {key: getattr(values, key) for key in known_ones}
    except RequestError as error:
        problems.extend(error.problems)
    if checked.get("time_attr", TIME_ATTRS[0]) not in TIME_ATTRS:
        problems.add(f"time_attr must be one of {', '.join(TIME_ATTRS)}, but is {checked['time_attr']!r}")
    brackets, reduction = checked.get("brackets"), checked.get("reduction_factor")
    if isinstance(brackets, int) and brackets > MOST_BRACKETS:
        problems.add(f"brackets must be at most {MOST_BRACKETS}, but is {brackets}")
    if isinstance(reduction, (int, float)) and not reduction >= LEAST_REDUCTION:
        problems.add(f"reduction_factor must be at least {LEAST_REDUCTION}, but is {reduction:g}")
    problems.raise_if_any(f"early_terminate {name}")
    new_scheduler(name, checked)
    return checked


def new_scheduler(name: str, arguments: Mapping[str, object]) -> schedulers.TrialScheduler:
    """Returns a scheduler without metric and mode; its default time attribute counts evaluations.

    Raises:
        RequestError: When the constructor refuses the arguments.
    """
    known = inspect.signature(scheduler_class(name)).parameters
    ours: dict[str, object] = {"time_attr": TIME_ATTRS[0], "log_config": False, "custom_explore_fn": dict}
    try:
        return scheduler_class(name)(**{key: value for key, value in ours.items() if key in known} | dict(arguments))
    except (AssertionError, ValueError, TypeError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise RequestError(f"{name}({shown}) is refused by Ray: {error}") from error


def _default(name: str, value: object) -> object:
    return TIME_ATTRS[0] if name == "time_attr" else value
