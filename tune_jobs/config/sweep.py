"""A sweep and its phases as values; sweep_file reads them from a file."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dialsum.config import RunConfig
from tune_jobs.config.anomalies import Anomalies
from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.language import Language
from tune_jobs.config.rules import ResolvedTrial, Rules, resolve
from tune_jobs.config.sections import Method, Metric, Resources, SearchOptions, TeamSection, Tracking
from tune_jobs.config.space import Constant, Space, Value

PhaseKind = Literal["quick_check", "wide", "narrow", "confirm", "generation"]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One search over one space by one metric; a staged file holds one such sweep for each of its phases.

    Attributes:
        name: Becomes part of every trial's name and of the result folder.
        source: Path of the file, as given.
        description: Free text for people.
        method: Search method.
        metric: The metric that ranks trials.
        space: The search space.
        count: Number of trials (W&B's `run_cap`); None for a whole grid.
        early_terminate: The rule that stops bad trials early.
        base: Configuration of everything that is not searched.
        base_by_model: Base configurations of single models, which replace `base` where `model` is searched.
        base_files: File of each base configuration, by model; "" stands for all others.
        trained_model: A finished sweep or experiment whose best model every trial uses: trials differ only in
            generation, and nothing is trained.
        search: Options of the search method.
        resources: Compute limits.
        tracking: Settings for W&B and the output folder.
        rules: Rules by which parameters follow from others.
        anomalies: Reactions to failed, hanging and diverged trials.
        team: The team member whose quota is used.
        phases: The phases of a staged search, in order; empty for a plain sweep.
        notes: Settings of the file that have no effect here, or were translated.
        given_count: The count from the command line, where the file has none.
    """

    name: str
    source: str
    method: Method
    space: Space
    description: str = ""
    metric: Metric = field(default_factory=Metric)
    count: int | None = None
    early_terminate: EarlyTerminate = field(default_factory=EarlyTerminate)
    base: RunConfig = field(default_factory=RunConfig)
    base_by_model: Mapping[str, RunConfig] = field(default_factory=dict)
    base_files: Mapping[str, str] = field(default_factory=dict)
    trained_model: str | None = None
    search: SearchOptions = field(default_factory=SearchOptions)
    resources: Resources = field(default_factory=Resources)
    tracking: Tracking = field(default_factory=Tracking)
    rules: Rules = field(default_factory=Rules)
    anomalies: Anomalies = field(default_factory=Anomalies)
    team: TeamSection = field(default_factory=TeamSection)
    phases: tuple["Phase", ...] = ()
    notes: tuple[str, ...] = ()
    given_count: int | None = None

    @property
    def trials(self) -> int:
        """Number of trials: `count`, or fewer where a grid or random search has fewer configurations."""
        if self.phases:
            return sum(phase.sweep.trials for phase in self.phases)
        distinct = self._distinct() if self.method in ("grid", "random") else None
        sizes = [size for size in (self.count, distinct) if size is not None]
        assert sizes, "a sweep without an end is refused when it is read"
        return min(sizes)

    def _distinct(self) -> int | None:
        if not self.search.points:
            return self.space.size
        left = [[one.size for one in self.space.parameters if one.name not in point] for point in self.search.points]
        return sum(math.prod(size or 0 for size in sizes) for sizes in left)

    def base_for(self, sampled: Mapping[str, Value]) -> RunConfig:
        """Returns the base configuration of a sampled model, with the sweep's metric and goal."""
        base = self.base_by_model.get(str(sampled.get("model", self.base.model)), self.base)
        return dataclasses.replace(base, metric=self.metric.evaluated, goal=self.metric.goal)

    def resolve(self, sampled: Mapping[str, Value]) -> ResolvedTrial:
        """Returns the complete run configuration of a trial; see rules.resolve."""
        return resolve(self.base_for(sampled), sampled, self.rules)

    def with_member(self, member: str | None) -> "Sweep":
        """Returns the sweep, with its phases, for a team member; None keeps the file's member."""
        if member is None:
            return self
        phases = tuple(dataclasses.replace(phase, sweep=phase.sweep.with_member(member)) for phase in self.phases)
        return dataclasses.replace(self, team=dataclasses.replace(self.team, member=member), phases=phases)

    def with_language(self, language: Language | None) -> "Sweep":
        """Returns the sweep, with its phases, with reports in a language; None keeps the file's."""
        if language is None:
            return self
        phases = tuple(dataclasses.replace(phase, sweep=phase.sweep.with_language(language)) for phase in self.phases)
        tracking = dataclasses.replace(self.tracking, language=language)
        return dataclasses.replace(self, tracking=tracking, phases=phases)

    def with_fixed(self, fixed: Mapping[str, Value]) -> "Sweep":
        """Returns the sweep with some parameters fixed, searched or not."""
        kept = tuple(parameter for parameter in self.space.parameters if parameter.name not in fixed)
        constants = tuple(Constant(name=name, value=value) for name, value in fixed.items())
        return dataclasses.replace(self, space=Space(parameters=kept + constants))


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of a staged search.

    Attributes:
        name: Unique in its file.
        kind: quick_check tests the pipeline; wide searches the whole space; narrow searches the box around the best
            trials of the phase before; confirm trains the best configurations again with several seeds; generation
            writes summaries with the best trained model and other settings of the decoding.
        sweep: The sweep of the phase. For narrow, its space limits the box; for confirm, the winners become its space
            when they are known.
        keep_fraction: narrow: fraction of the earlier trials, the best, that defines the box.
        margin: narrow: fraction of its width by which the box grows on each side.
        winners: confirm: number of configurations to train again.
        seeds: confirm: the seeds of each configuration.
    """

    name: str
    kind: PhaseKind
    sweep: Sweep
    keep_fraction: float = 0.25
    margin: float = 0.1
    winners: int = 2
    seeds: tuple[int, ...] = (0, 1, 2)
