"""Plans a sweep without running anything: estimates its trials, packs them as its broker would, and adds up the time.

Decides from values: the sweep, the cards, the data's sizes and what was measured before. Nothing here trains or reads a
clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster.machines.hardware import Inventory
from dialsum.config import RunConfig
from tune_jobs.config.rules import ResolvedTrial
from tune_jobs.config.sweep import Phase, Sweep
from tune_jobs.placing.durations import epochs_of
from tune_jobs.placing.memory_requests import memory_key
from tune_jobs.placing.placer import Option
from tune_jobs.placing.submission import largest_first, request_for, starts_largest_first, submission_limits
from tune_jobs.planning.expected_stops import expected_evaluations, left_at
from tune_jobs.planning.plan_values import MemoryGroup, PlannedPhase, PlannedTrial, SweepPlan
from tune_jobs.planning.timeline import TimedTrial, Timeline, run_timeline
from tune_jobs.search.grid import drawn_configs, planned_trials
from tune_jobs.search.inputs import DataSizes, count_evaluations, count_steps
from tuning_common.errors import RequestError

FindOptions = Callable[[str, RunConfig], Sequence[Option]]  # see placer.Placer.options


def make_plan(
    sweep: Sweep,
    inventory: Inventory,
    *,
    described: bool,
    options: FindOptions,
    sizes: DataSizes,
) -> SweepPlan:
    """Plans a sweep.

    Args:
        sweep: As read; its trials must be valid runs.
        inventory: The cards.
        described: See SweepPlan.
        options: Finds how a configuration can run.
        sizes: Of the data files.

    Raises:
        RequestError: With every trial that is no valid run.
    """
    groups = _Groups(options)
    phases = _phases(sweep)
    planned = [
        [_planned(phase, number, trial, groups, sizes) for number, trial in enumerate(phase.trials, start=1)]
        for phase in phases
    ]
    runs = [trial for trials in planned for trial in trials if not groups.found[trial.group].refused]
    timed = all(trial.has_speed for trial in runs) and bool(runs)
    packing = _Packing(inventory=inventory, groups=groups.found, sizes=sizes, timed=timed)
    return SweepPlan(
        sweep=sweep,
        inventory=inventory,
        described=described,
        groups=tuple(groups.found),
        phases=tuple(_packed(phase, trials, packing) for phase, trials in zip(phases, planned, strict=True)),
        timed=timed,
        basis=tuple(sorted({one.speed.source for trial in runs for one in trial.options if one.speed is not None})),
        unknown=tuple(sorted({_alike(trial.trial.resolved) for trial in runs if not trial.has_speed})),
        absent=sizes.absent,
    )


@dataclass(frozen=True, kw_only=True)
class _PhaseTrials:
    """A plain sweep, or one stage of a staged one, with its trials.

    Attributes:
        stage: None in a plain sweep.
        sweep: What it runs.
        trials: By number.
        known: Whether exactly these will run.
    """

    stage: Phase | None = None
    sweep: Sweep
    trials: Sequence[ResolvedTrial]
    known: bool

    @property
    def name(self) -> str:
        return self.stage.name if self.stage else ""


def _phases(sweep: Sweep) -> list[_PhaseTrials]:
    if not sweep.phases:
        return [_listed(None, sweep)]
    phases: list[_PhaseTrials] = []
    searched = sweep
    for stage in sweep.phases:
        if stage.kind == "confirm":
            winners = _winners(stage, searched)
            phases.append(_PhaseTrials(stage=stage, sweep=stage.sweep, trials=winners, known=False))
            continue
        phases.append(_listed(stage, stage.sweep))
        searched = stage.sweep if stage.kind in ("wide", "narrow") else searched
    return phases


def _listed(stage: Phase | None, sweep: Sweep) -> _PhaseTrials:
    if sweep.method in ("grid", "random"):
        known = stage is None or stage.kind != "narrow"
        return _PhaseTrials(stage=stage, sweep=sweep, trials=planned_trials(sweep), known=known)
    trials = [sweep.resolve(sampled) for sampled in drawn_configs(sweep, sweep.trials)]
    known = sweep.method == "pbt" and (stage is None or stage.kind != "narrow")  # which starts with exactly these
    return _PhaseTrials(stage=stage, sweep=sweep, trials=trials, known=known)


def _winners(stage: Phase, searched: Sweep) -> list[ResolvedTrial]:
    """Configurations that stand for the winners, each with every seed."""
    return [
        stage.sweep.resolve({**sampled, "seed": seed})
        for sampled in drawn_configs(searched, stage.winners)
        for seed in stage.seeds
    ]


class _Groups:
    """Finds the options of each distinct memory need once."""

    def __init__(self, options: FindOptions) -> None:
        self.found: list[MemoryGroup] = []
        self._options = options
        self._indices: dict[tuple[object, ...], int] = {}

    def index(self, config: RunConfig) -> int:
        key = memory_key(config)
        if key not in self._indices:
            self._indices[key] = len(self.found)
            self.found.append(self._group(config))
        return self._indices[key]

    def options(self, config: RunConfig) -> tuple[Option, ...]:
        """Returns every option of a run, with its own duration."""
        name = f"{config.model}, batch {config.batch_size}, {config.encoder_max_len}/{config.decoder_max_len} tokens"
        return tuple(self._options(name, config))

    def _group(self, config: RunConfig) -> MemoryGroup:
        try:
            options = self.options(config)
        except RequestError as error:
            return MemoryGroup(config=config, refused=str(error))
        return MemoryGroup(
            config=config, options=options, needless_checkpointing=self._is_needless_checkpointing(config, options)
        )

    def _is_needless_checkpointing(self, config: RunConfig, options: Sequence[Option]) -> bool:
        """See MemoryGroup.needless_checkpointing; without it a plan may turn it on again, by the shape."""
        if not config.gradient_checkpointing or not any(option.alternative.model for option in options):
            return False
        try:
            others = self.options(config.with_changes({"gradient_checkpointing": False}))
        except RequestError:
            return False
        turned_on_again = any(option.placement.shape.gradient_checkpointing for option in others)
        return not turned_on_again and sorted(map(_place, others)) == sorted(map(_place, options))


def _place(option: Option) -> tuple[str, float, int, int, int]:
    shape, asked = option.placement.shape, option.alternative
    return asked.model, asked.gpus, asked.bundles, shape.micro_batch, shape.accumulation


def _planned(
    phase: _PhaseTrials,
    number: int,
    trial: ResolvedTrial,
    groups: _Groups,
    sizes: DataSizes,
) -> PlannedTrial:
    config, trains = trial.resolved, phase.sweep.trained_model is None
    evaluations = count_evaluations(config, sizes.train(config)) if trains else 1
    group = groups.index(config)
    return PlannedTrial(
        number=number,
        phase=phase.name,
        trial=trial,
        known=phase.known,
        group=group,
        evaluations=evaluations,
        expected_evaluations=evaluations,
        steps=count_steps(config, sizes.train(config)) if trains else 0,
        epochs=epochs_of(config, sizes.train(config)) if trains else 0.0,
        options=() if groups.found[group].refused else groups.options(config),
    )


@dataclass(frozen=True, kw_only=True)
class _Packing:
    """What the packing of every phase depends on; see SweepPlan."""

    inventory: Inventory
    groups: Sequence[MemoryGroup]
    sizes: DataSizes
    timed: bool

    def submitted(self, sweep: Sweep, trials: Sequence[PlannedTrial]) -> list[PlannedTrial]:
        """Returns the trials that can run, in the sequence in which the sweep submits them."""
        runs = [trial for trial in trials if not self.groups[trial.group].refused]
        if not starts_largest_first(sweep):
            return runs
        options = {index: self.groups[trial.group].options for index, trial in enumerate(runs, start=1)}
        return [runs[index - 1] for index in largest_first(len(runs), options)]

    def timed_trials(
        self, sweep: Sweep, trials: Sequence[PlannedTrial], evaluations: Sequence[int]
    ) -> tuple[TimedTrial, ...]:
        """Returns what the broker is asked for, and how long each trial takes when it makes so many evaluations."""
        return tuple(
            TimedTrial(
                name=trial.name,
                request=request_for(sweep.name, trial.number, trial.options),
                length=self._length(trial, made),
                alone_on=self._alone_on(trial, made) if self.timed else {},
            )
            for trial, made in zip(trials, evaluations, strict=True)
        )

    def timeline(self, sweep: Sweep, trials: Sequence[TimedTrial]) -> Timeline:
        found = run_timeline(
            trials,
            self.inventory,
            submission_limits(sweep, self.inventory),
        )
        assert found is not None, "without quotas every trial that fits runs at last"
        return found

    def _alone_on(self, trial: PlannedTrial, evaluations: int) -> dict[str, tuple[float, float]]:
        config = trial.trial.resolved
        found = {}
        for option in trial.options:
            if option.speed is not None:
                seconds = option.speed.trial_s(
                    evaluations=evaluations,
                    dialogues=trial.epochs / trial.evaluations * self.sizes.train(config),
                    dev_dialogues=self.sizes.dev(config),
                    cards=option.alternative.bundles,
                )
                found[option.alternative.model] = (seconds, option.speed.busy or 0.0)
        return found

    def _length(self, trial: PlannedTrial, evaluations: int) -> float:
        """Where no seconds are known; a trained model only summarizes: one evaluation is counted as one epoch."""
        return trial.epochs * evaluations / trial.evaluations / self.groups[trial.group].cards or 1.0


def _packed(phase: _PhaseTrials, trials: Sequence[PlannedTrial], packing: _Packing) -> PlannedPhase:
    sweep = phase.sweep
    submitted = packing.submitted(sweep, trials)
    evaluations = [trial.evaluations for trial in submitted]
    at_most = packing.timeline(sweep, packing.timed_trials(sweep, submitted, evaluations))
    rungs = sweep.early_terminate.rungs(max(evaluations, default=1))
    expected = expected_evaluations(sweep, evaluations, side_by_side=at_most.most_at_once)
    by_name = dict(zip((trial.name for trial in submitted), expected, strict=True))
    timed_trials = packing.timed_trials(sweep, submitted, expected)
    return PlannedPhase(
        name=phase.name,
        kind=phase.stage.kind if phase.stage else "",
        sweep=sweep,
        rungs=rungs,
        left=tuple(left_at(rungs, expected)),
        trials=tuple(replace(trial, expected_evaluations=by_name.get(trial.name, 0)) for trial in trials),
        timed_trials=timed_trials,
        timeline=packing.timeline(sweep, timed_trials) if expected != evaluations else at_most,
        at_most=at_most,
    )


def _alike(config: RunConfig) -> str:
    return f"{config.model} at {config.encoder_max_len}/{config.decoder_max_len} tokens"
