"""A sweep and its phases as values. The file that they are read from is described in sweep_file."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dialsum.config import RunConfig
from tune_jobs.config.anomalies import Anomalies
from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.rules import ResolvedTrial, Rules, resolve
from tune_jobs.config.sections import Method, Metric, Resources, SearchOptions, TeamSection, Tracking
from tune_jobs.config.space import Constant, Space, Value

PhaseKind = Literal["quick_check", "wide", "narrow", "confirm"]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One search over one space by one metric; a staged file holds one such sweep for each of its phases.

    Attributes:
        name: Becomes part of every trial's name and of the result folder.
        source: The file, as the person gave it.
        description: For people.
        method: How trials are chosen.
        metric: What they are compared by.
        space: What may differ between them.
        count: How many are run (W&B's `run_cap`); None for a whole grid.
        early_terminate: When hopeless trials are stopped.
        base: Everything that is not searched.
        base_by_model: Bases of single models, which go before `base` where `model` is searched.
        base_files: Where the bases were read from: a model, or "" for all others, and its file.
        trained_model: A finished sweep or experiment whose best model writes the summaries of every trial: only
            generation differs, and nothing is trained.
        search: Seed and the knobs of the method.
        resources: What the sweep may use.
        tracking: Where results go beside the files.
        rules: Which parameters follow from others.
        anomalies: What is done about trials that go wrong.
        team: Whose quota is used.
        phases: The stages of a staged search, in order; empty for a plain sweep.
        notes: What the file says that has no effect here.
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

    @property
    def trials(self) -> int:
        """How many trials there will be: `count`, or fewer where a grid or random search has no more to try."""
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
        """Returns the base configuration that belongs to a sampled model, with the sweep's metric and goal."""
        base = self.base_by_model.get(str(sampled.get("model", self.base.model)), self.base)
        return dataclasses.replace(base, metric=self.metric.evaluated, goal=self.metric.goal)

    def resolve(self, sampled: Mapping[str, Value]) -> ResolvedTrial:
        """Returns the whole run configuration of a trial; see rules.resolve."""
        return resolve(self.base_for(sampled), sampled, self.rules)

    def with_member(self, member: str | None) -> "Sweep":
        """Returns the sweep of a member, phases and all; the file's own where None is given."""
        if member is None:
            return self
        phases = tuple(dataclasses.replace(phase, sweep=phase.sweep.with_member(member)) for phase in self.phases)
        return dataclasses.replace(self, team=dataclasses.replace(self.team, member=member), phases=phases)

    def with_fixed(self, fixed: Mapping[str, Value]) -> "Sweep":
        """Returns a sweep in which some parameters have one value, whether they were searched before or not."""
        kept = tuple(parameter for parameter in self.space.parameters if parameter.name not in fixed)
        constants = tuple(Constant(name=name, value=value) for name, value in fixed.items())
        return dataclasses.replace(self, space=Space(parameters=kept + constants))


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stage of a staged search.

    Attributes:
        name: Unique in its file.
        kind: quick_check proves the pipeline; wide looks everywhere; narrow looks inside the box of the best trials of
            the phase before; confirm trains the best again with several seeds.
        sweep: What the stage runs. For narrow, its space is what the box is cut out of; for confirm, its space is
            filled with the winners when they are known.
        keep_fraction: narrow: the part of the earlier trials that makes the box.
        margin: narrow: the box is widened by this part of its width on each side.
        winners: confirm: how many configurations are trained again.
        seeds: confirm: the seeds of each.
    """

    name: str
    kind: PhaseKind
    sweep: Sweep
    keep_fraction: float = 0.25
    margin: float = 0.1
    winners: int = 2
    seeds: tuple[int, ...] = (0, 1, 2)
