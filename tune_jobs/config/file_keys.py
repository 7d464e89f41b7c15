"""The keys of a sweep file, with types and descriptions: for the reader's lists of keys and for the JSON Schema."""

from typing import Annotated, Literal

from pydantic import ConfigDict
from typing_extensions import TypedDict

from dialsum.config import Count
from tune_jobs.config.anomalies import Anomalies
from tune_jobs.config.rules import Rules
from tune_jobs.config.sections import Method, Resources, SearchOptions, TeamSection, Tracking
from tuning_common.goal import Goal


class MetricFile(TypedDict, total=False):
    """The metric that ranks trials."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    name: Annotated[str, "A metric of every evaluation, or the best so far (best/...); also a name of another trainer."]
    goal: Annotated[Goal, "The metric's own goal, which may be left out."]


class Specification(TypedDict, total=False):
    """The values of a parameter."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    value: Annotated[object, "The same value in every trial."]
    values: Annotated[list[object], "The values to choose from."]
    probabilities: Annotated[list[float], "One for each of the values; they add up to 1."]
    distribution: Annotated[str, "How values are drawn; the default follows from the other keys."]
    min: Annotated[float, "Lower bound."]
    max: Annotated[float, "Upper bound."]
    q: Annotated[float, "Values are multiples of this."]
    mu: Annotated[float, "Mean."]
    sigma: Annotated[float, "Standard deviation."]
    parameters: Annotated[dict[str, object], "A group of parameters, instead of all other keys."]


class PhaseFile(TypedDict, total=False):
    """One phase of a staged search."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # as pydantic's documentation says

    name: Annotated[str, "Unique in the file; the kind too, where there is no `kind`."]
    kind: Annotated[Literal["quick_check", "wide", "narrow", "confirm"], "What the phase does."]
    method: Annotated[Method, "The search method of the phase."]
    set: Annotated[dict[str, object], "Fields of a run that are fixed in the phase."]
    early_terminate: Annotated[object, "The phase's own rule."]


class SweepFile(TypedDict, total=False):
    """A sweep: what is tried, by which metric trials are compared, and when they are stopped."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    name: Annotated[str, "Name of the result folder; the file's name by default."]
    description: Annotated[str | None, "The question that the sweep answers, for people."]
    method: Annotated[Method, "The search method."]
    metric: Annotated[MetricFile, "The metric that ranks trials."]
    parameters: Annotated[dict[str, object], "The searched and the fixed fields of a run."]
    early_terminate: Annotated[object, "The rule that stops bad trials early."]
    count: Annotated[Count, "Number of trials."]
    run_cap: Annotated[Count, "W&B's name of count."]
    base_config: Annotated[str | dict[str, str] | None, "A run configuration, or one for each searched model."]
    trained_model: Annotated[str | None, "Folder of a trained model, whose generation is searched."]
    phases: Annotated[list[PhaseFile], "The phases of a staged search, each from the one before."]
    search: Annotated[SearchOptions, "Options of the method."]
    resources: Annotated[Resources, "Compute limits."]
    tracking: Annotated[Tracking, "W&B and the output folder."]
    rules: Annotated[Rules, "Rules by which some parameters follow from others."]
    anomalies: Annotated[Anomalies, "The reaction to each kind of failure."]
    team: Annotated[TeamSection, "The team member whose quota the sweep uses."]
    project: Annotated[str | None, "W&B project, as in tracking."]
    entity: Annotated[str | None, "W&B user or team, as in tracking."]
    program: Annotated[str | None, "W&B's name of a program, which is not run."]
    command: Annotated[list[object], "W&B's command, which is not run."]
