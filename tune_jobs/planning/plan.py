"""What a sweep would be, without running anything: its trials, their memory and shares, how they pack, and how long.

Decides from values: the sweep, the cards, the data's sizes and what was measured before. Nothing here trains or reads a
clock.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from cluster.machines.hardware import Inventory
from cluster.scheduling.placement import Demand
from common.errors import RequestError
from dialsum.config import RunConfig
from tune_jobs.config.rules import ResolvedTrial
from tune_jobs.config.sweep import Phase, PhaseKind, Sweep
from tune_jobs.placing.start_order import largest_numbers_first, reach_of, starts_largest_first
from tune_jobs.planning.expected_stops import expected_evaluations, left_at
from tune_jobs.planning.plan_clock import Job, Timeline, run_clock
from tune_jobs.planning.throughput import Speed, Throughput
from tune_jobs.records.trial_spec import Placed
from tune_jobs.search.grid import drawn_configs, planned_trials
from tune_jobs.search.inputs import evaluations_of

ASSUMED_DIALOGUES = 10_000  # about as many as the Korean DialogSum has to learn from
Offers = Callable[[str, RunConfig], tuple[Demand | None, dict[str, Placed]]]
"""Asks for a configuration's ways to run by GPU model; without a demand where trials are placed by CPUs."""

# Fields that no memory estimate looks at: trials that differ in nothing else are estimated once.
_NO_BYTES: Mapping[str, object] = {
    "learning_rate": 1e-3,
    "num_epochs": 1,
    "max_steps": None,
    "eval_steps": None,
    "lr_scheduler": "linear",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "seed": 0,
    "early_stopping_patience": None,
    "early_stopping_threshold": 0.0,
    "length_penalty": 1.0,
    "max_train_samples": None,
    "max_eval_samples": None,
}


@dataclass(frozen=True, kw_only=True)
class DataSizes:
    """Dialogues of each file.

    Attributes:
        of: File -> dialogues.
        absent: Files that are not there; then there are no times, and steps are counted for ASSUMED_DIALOGUES.
    """

    of: Mapping[str, int]
    absent: tuple[str, ...] = ()

    def train(self, config: RunConfig) -> int:
        """Dialogues that a run learns from."""
        return min(self.of.get(config.train_file, ASSUMED_DIALOGUES), config.max_train_samples or 10**12)

    def dev(self, config: RunConfig) -> int:
        """Dialogues that each evaluation scores."""
        return min(self.of.get(config.dev_file, ASSUMED_DIALOGUES), config.max_eval_samples or 10**12)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Trials that need the same memory and run alike.

    Attributes:
        config: One of them.
        offers: How they run, by GPU model; empty where there is no card, or no way.
        demand: What is placed.
        refused: Why they can never run here; empty where they can.
    """

    config: RunConfig
    offers: Mapping[str, Placed] = field(default_factory=dict)
    demand: Demand | None = None
    refused: str = ""

    @property
    def cards(self) -> int:
        """Whole cards that each of them trains on, at most; 1 also where it has a part of one, or none."""
        return max((placed.bundle.ranks for placed in self.offers.values()), default=1)


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """One trial.

    Attributes:
        number: Place in its phase, from 1.
        phase: Name of its phase; empty in a plain sweep.
        trial: As it is sampled and resolved.
        known: Whether exactly this trial will run; otherwise it was drawn to stand for one that results will choose.
        group: Place of its group in the plan.
        evaluations: When it is never stopped.
        likely: Evaluations when chance alone tells trials apart.
        epochs: Passes over the data when it is never stopped.
        speed: How fast it goes; None where nothing like it was measured.
    """

    number: int
    phase: str
    trial: ResolvedTrial
    known: bool
    group: int
    evaluations: int
    likely: int
    epochs: float
    speed: Speed | None

    @property
    def name(self) -> str:
        """Unique in the plan."""
        return f"{self.phase}/{self.number}" if self.phase else str(self.number)


@dataclass(frozen=True, kw_only=True)
class PlannedPhase:
    """A plain sweep, or one stage of a staged one.

    Attributes:
        name: Of the phase; empty in a plain sweep.
        kind: Of the phase; empty in a plain sweep.
        sweep: What it runs.
        rungs: Evaluations at which trials are compared.
        left: Trials that likely go on behind each.
        trials: In the order of their starts.
        timeline: When and where, with the likely stops.
        at_most: The same when nothing is stopped.
    """

    name: str
    kind: PhaseKind | Literal[""]
    sweep: Sweep
    rungs: tuple[int, ...]
    left: tuple[int, ...]
    trials: tuple[PlannedTrial, ...]
    timeline: Timeline
    at_most: Timeline


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A whole plan. Times are seconds where `timed`, else epochs of a trial: nothing is known and nothing is invented.

    Attributes:
        sweep: As read.
        inventory: The cards.
        described: Whether the cards were described for this plan, and are not at hand.
        groups: Distinct memory needs.
        phases: One for a plain sweep.
        timed: Whether every trial's speed is known.
        basis: What the times rest on, for people.
        unknown: Runs of which nothing was measured, for people.
        absent: Data files that are not there; see DataSizes.
    """

    sweep: Sweep
    inventory: Inventory
    described: bool
    groups: tuple[Group, ...]
    phases: tuple[PlannedPhase, ...]
    timed: bool
    basis: tuple[str, ...]
    unknown: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def makespan(self) -> float:
        """From the first start to the last end; phases follow each other."""
        return sum(phase.timeline.makespan for phase in self.phases)

    @property
    def makespan_at_most(self) -> float:
        """The same when nothing is stopped early."""
        return sum(phase.at_most.makespan for phase in self.phases)

    @property
    def gpu_time(self) -> float:
        """Shares of cards, times how long they are held."""
        return sum(phase.timeline.gpu_time for phase in self.phases)

    @property
    def gpu_time_at_most(self) -> float:
        """The same when nothing is stopped early."""
        return sum(phase.at_most.gpu_time for phase in self.phases)


def make_plan(
    sweep: Sweep,
    inventory: Inventory,
    *,
    described: bool,
    offers: Offers,
    sizes: DataSizes,
    throughput: Throughput,
    cards: Callable[[str], Sequence[str]],
) -> SweepPlan:
    """Plans a sweep.

    Args:
        sweep: As read; its trials must be valid runs.
        inventory: The cards.
        described: See SweepPlan.
        offers: Estimates memory and finds shares.
        sizes: Of the data files.
        throughput: What was measured.
        cards: GPU model's label -> names under which it may have been measured, the best first.

    Raises:
        RequestError: With every trial that is no valid run.
    """
    places = [(cards(pool.model), pool.speed) for pool in inventory.pools] or [(cards(""), 1.0)]

    def speed_of(config: RunConfig) -> Speed | None:
        """Of a card of speed 1, from the first GPU model on which something like it was measured."""
        found = ((throughput.of(config, names), factor) for names, factor in places)
        return next((speed.times(factor) for speed, factor in found if speed is not None), None)

    groups = _Groups(offers)
    drafts = [
        (name, part, _draft(name, trials, known, sweep.trained_model is None, groups, sizes, speed_of))
        for name, part, trials, known in _parts(sweep)
    ]
    runs = [trial for _, _, trials in drafts for trial in trials if not groups.found[trial.group].refused]
    timed = all(trial.speed is not None for trial in runs) and bool(runs) and not sizes.absent
    kinds = {phase.name: phase.kind for phase in sweep.phases}
    phases = tuple(
        _phase(name, kinds.get(name, ""), part, trials, inventory, groups, sizes, timed)
        for name, part, trials in drafts
    )
    return SweepPlan(
        sweep=sweep,
        inventory=inventory,
        described=described,
        groups=tuple(groups.found),
        phases=phases,
        timed=timed,
        basis=tuple(sorted({trial.speed.source for trial in runs if trial.speed is not None})),
        unknown=tuple(sorted({_alike(trial.trial.resolved) for trial in runs if trial.speed is None})),
        absent=sizes.absent,
    )


class _Groups:
    """Asks once for each distinct need."""

    def __init__(self, offers: Offers) -> None:
        self.found: list[Group] = []
        self._offers = offers
        self._places: dict[tuple[object, ...], int] = {}

    def place(self, config: RunConfig) -> int:
        values = vars(config) | dict(_NO_BYTES)
        values["dropout"] = config.dropout if not config.dropout else 0.1
        values["label_smoothing"] = float(config.label_smoothing > 0)
        key = tuple(values.values())
        if key not in self._places:
            self._places[key] = len(self.found)
            self.found.append(self._ask(config))
        return self._places[key]

    def _ask(self, config: RunConfig) -> Group:
        try:
            demand, offers = self._offers(_shown(config), config)
        except RequestError as error:
            return Group(config=config, refused=str(error))
        return Group(config=config, offers=offers, demand=demand)


def _parts(sweep: Sweep) -> list[tuple[str, Sweep, list[ResolvedTrial], bool]]:
    """Phase name, its sweep, its trials, and whether exactly these will run."""
    if not sweep.phases:
        return [("", sweep, *_trials(sweep))]
    parts: list[tuple[str, Sweep, list[ResolvedTrial], bool]] = []
    searched: Sweep = sweep
    for phase in sweep.phases:
        if phase.kind == "confirm":
            parts.append((phase.name, phase.sweep, _winners(phase, searched), False))
            continue
        trials, known = _trials(phase.sweep)
        parts.append((phase.name, phase.sweep, trials, known and phase.kind != "narrow"))
        searched = phase.sweep if phase.kind in ("wide", "narrow") else searched
    return parts


def _trials(sweep: Sweep) -> tuple[list[ResolvedTrial], bool]:
    if sweep.method in ("grid", "random"):
        return list(planned_trials(sweep)), True
    trials = [sweep.resolve(sampled) for sampled in drawn_configs(sweep, sweep.trials)]
    return trials, sweep.method == "pbt"  # which starts with exactly these


def _winners(phase: Phase, searched: Sweep) -> list[ResolvedTrial]:
    """Configurations that stand for the winners, each with every seed."""
    return [
        phase.sweep.resolve({**sampled, "seed": seed})
        for sampled in drawn_configs(searched, phase.winners)
        for seed in phase.seeds
    ]


def _draft(
    phase: str,
    trials: Sequence[ResolvedTrial],
    known: bool,
    trains: bool,
    groups: _Groups,
    sizes: DataSizes,
    speed: Callable[[RunConfig], Speed | None],
) -> list[PlannedTrial]:
    drafts = []
    for number, trial in enumerate(trials, start=1):
        config = trial.resolved
        evaluations = evaluations_of(config, sizes.train(config)) if trains else 1
        group = groups.place(config)
        drafts.append(
            PlannedTrial(
                number=number,
                phase=phase,
                trial=trial,
                known=known,
                group=group,
                evaluations=evaluations,
                likely=evaluations,
                epochs=_epochs(config, sizes) if trains else 0.0,
                speed=None if groups.found[group].refused else speed(config),
            )
        )
    return drafts


def _phase(
    name: str,
    kind: PhaseKind | Literal[""],
    sweep: Sweep,
    trials: Sequence[PlannedTrial],
    inventory: Inventory,
    groups: _Groups,
    sizes: DataSizes,
    timed: bool,
) -> PlannedPhase:
    running = _as_started(
        sweep, [trial for trial in trials if not groups.found[trial.group].refused], inventory, groups
    )

    def timeline(evaluations: Sequence[int]) -> Timeline:
        jobs = [
            Job(
                name=trial.name,
                demand=groups.found[trial.group].demand,
                length=_length(trial, made, sizes, timed, groups.found[trial.group].cards),
            )
            for trial, made in zip(running, evaluations, strict=True)
        ]
        return run_clock(jobs, inventory, sweep.resources, reach_of(sweep))

    whole = [trial.evaluations for trial in running]
    at_most = timeline(whole)
    likely = expected_evaluations(sweep, whole, side_by_side=at_most.most_at_once)
    rungs = sweep.early_terminate.rungs(max(whole, default=1))
    made_by = dict(zip((trial.name for trial in running), likely, strict=True))
    return PlannedPhase(
        name=name,
        kind=kind,
        sweep=sweep,
        rungs=rungs,
        left=tuple(left_at(rungs, likely)),
        trials=tuple(replace(trial, likely=made_by.get(trial.name, 0)) for trial in trials),
        timeline=timeline(likely) if likely != whole else at_most,
        at_most=at_most,
    )


def _as_started(
    sweep: Sweep, trials: Sequence[PlannedTrial], inventory: Inventory, groups: _Groups
) -> Sequence[PlannedTrial]:
    """Puts trials into the order in which the sweep will start them."""
    if not inventory.cards or not starts_largest_first(sweep):
        return trials
    demands = {place: demand for place, one in enumerate(trials, start=1) if (demand := groups.found[one.group].demand)}
    return [trials[place - 1] for place in largest_numbers_first(len(trials), demands, inventory)]


def _length(trial: PlannedTrial, evaluations: int, sizes: DataSizes, timed: bool, cards: int) -> float:
    config = trial.trial.resolved
    epochs = trial.epochs * evaluations / trial.evaluations
    if not timed or trial.speed is None:
        return epochs / cards or 1.0  # a trained model only summarizes: one evaluation is counted as one epoch
    return trial.speed.trial_s(
        evaluations=evaluations,
        dialogues=epochs / evaluations * sizes.train(config),
        dev_dialogues=sizes.dev(config),
        cards=cards,
    )


def _epochs(config: RunConfig, sizes: DataSizes) -> float:
    if config.max_steps is None:
        return float(config.num_epochs)
    return config.max_steps / max(1, -(-sizes.train(config) // config.batch_size))


def _shown(config: RunConfig) -> str:
    return f"{config.model}, batch {config.batch_size}, {config.encoder_max_len}/{config.decoder_max_len} tokens"


def _alike(config: RunConfig) -> str:
    return f"{config.model} at {config.encoder_max_len}/{config.decoder_max_len} tokens"
