"""Reads the `metric` of a sweep file, also with other trainers' names."""

from collections.abc import Mapping
from types import MappingProxyType

from dialsum.aliases import our_metric
from dialsum.config import COMPOSITE
from tune_jobs.config.sections import METRIC_GOALS, Metric
from tune_jobs.config.space import Constant, Space
from tune_jobs.config.sweep_parts import read_mapping
from tuning_common.errors import Problems
from tuning_common.strict import Located, nearest

_REFUSED = MappingProxyType(
    {
        "target": "`count`, `resources.time_budget` and `early_terminate` end a sweep",
        "impute": "a failed trial has no score and teaches a search nothing",
        "impute_while_running": "a running trial is compared by what it has reported",
    }
)


def with_weights(space: Space, weights: tuple[float, float, float] | None) -> Space:
    """Returns the space with the weights that make the composite rank as the metric of the file."""
    if weights is None or "rouge_weights" in space:
        return space
    return Space(parameters=(*space.parameters, Constant(name="rouge_weights", value=weights)))


def read_metric(
    raw: Mapping[str, object], document: Located, problems: Problems
) -> tuple[Metric, tuple[float, float, float] | None]:
    """Returns the metric, and the weights of ROUGE that a metric of another trainer needs."""
    section = raw.get("metric", {})
    if not isinstance(section, dict):
        problems.add(f"{document.where('metric')}: write `metric: {{name: {section}}}`, a mapping")
        return Metric(), None
    for key in [str(key) for key in section if key in _REFUSED]:
        problems.add(f"{document.where('metric', key)}: metric.{key} of W&B has no meaning here: {_REFUSED[key]}")
    values = {str(key): value for key, value in section.items() if key not in _REFUSED}
    weights, named = None, values.get("name")
    if isinstance(named, str) and named not in METRIC_GOALS and (ours := our_metric(named)) is not None:
        values["name"], weights = ours
    goal = values.get("goal")
    values["goal"] = own = METRIC_GOALS.get(str(values.get("name", COMPOSITE)), "maximize")  # W&B would minimize
    found = read_mapping(Metric, values, ("metric",), document, problems)
    if goal not in (None, "maximize", "minimize"):
        hint = nearest(str(goal), ("maximize", "minimize"))
        problems.add(
            f"{document.where('metric', 'goal')}: metric.goal must be maximize or minimize, but is {goal!r}{hint}"
        )
    elif found is not None and goal not in (None, own):
        read_mapping(Metric, values | {"goal": goal}, ("metric",), document, problems)  # adds its problems
    return found or Metric(), weights


def metric_note(
    raw: Mapping[str, object], metric: Metric, weights: tuple[float, float, float] | None, document: Located
) -> list[str]:
    section = raw.get("metric")
    named = section.get("name", metric.name) if isinstance(section, dict) else metric.name
    if named == metric.name:
        return []
    mean = ", with ROUGE-1, -2 and -L weighed alike" if weights else ""
    return [f"{document.where('metric')}: metric {named} is {metric.name} here{mean}"]
