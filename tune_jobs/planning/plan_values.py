"""What a sweep would be: its trials, their memory and shares, how they pack, and how long they take. Plain values."""

from dataclasses import dataclass
from typing import Literal

from cluster.machines.hardware import Inventory
from dialsum.config import RunConfig
from tune_jobs.config.rules import ResolvedTrial
from tune_jobs.config.sweep import PhaseKind, Sweep
from tune_jobs.placing.placer import Option
from tune_jobs.planning.timeline import TimedTrial, Timeline


@dataclass(frozen=True, kw_only=True)
class MemoryGroup:
    """Trials that need the same memory and so run alike.

    Attributes:
        config: One of them.
        options: Every option to run them; empty where there is none.
        refused: Why they can never run here; empty where they can.
        needless_checkpointing: Whether their configuration has gradient checkpointing, and without it they would get
            the same shares with the same micro-batches.
    """

    config: RunConfig
    options: tuple[Option, ...] = ()
    refused: str = ""
    needless_checkpointing: bool = False

    @property
    def on_cards(self) -> tuple[Option, ...]:
        """The options on GPU models, by their labels; empty without cards."""
        return tuple(
            sorted((one for one in self.options if one.alternative.model), key=lambda one: one.alternative.model)
        )

    @property
    def cards(self) -> int:
        """Whole cards that each of them trains on, at most; 1 also where it has a part of one, or none."""
        return max((option.placement.bundle.ranks for option in self.options), default=1)


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """One trial.

    Attributes:
        number: In its phase, from 1.
        phase: Name of its phase; empty in a plain sweep.
        trial: As it is sampled and resolved.
        known: Whether exactly this trial will run; otherwise it was drawn to stand for one that results will choose.
        group: Index of its memory group in the plan.
        evaluations: When it is never stopped.
        expected_evaluations: When trials differ by chance alone.
        steps: Optimizer steps when it is never stopped; none where nothing is trained.
        epochs: Passes over the data when it is never stopped.
        options: Every option to run it; empty where there is none.
    """

    number: int
    phase: str
    trial: ResolvedTrial
    known: bool
    group: int
    evaluations: int
    expected_evaluations: int
    steps: int
    epochs: float
    options: tuple[Option, ...]

    @property
    def has_speed(self) -> bool:
        """Whether it is known how fast it goes wherever it may run."""
        return all(option.speed is not None for option in self.options)

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
        left: Trials that are expected to go on behind each.
        trials: By number.
        timed_trials: Those that can run, as they are submitted, with the expected stops.
        timeline: When and where, with the expected stops.
        at_most: The same when nothing is stopped.
    """

    name: str
    kind: PhaseKind | Literal[""]
    sweep: Sweep
    rungs: tuple[int, ...]
    left: tuple[int, ...]
    trials: tuple[PlannedTrial, ...]
    timed_trials: tuple[TimedTrial, ...]
    timeline: Timeline
    at_most: Timeline


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A whole plan. Times are seconds where `timed`, else epochs of a trial: nothing is known and nothing is invented.

    Attributes:
        sweep: As read.
        inventory: The cards.
        described: Whether the cards were described for this plan, and are not at hand.
        groups: Its memory groups.
        phases: One for a plain sweep.
        timed: Whether every trial's speed is known.
        basis: What the times rest on, for people.
        unknown: Runs of which nothing was measured, for people.
        absent: Data files that are not there; see search.inputs.DataSizes.
        cut_texts: See records.ledger.SweepRecord.
    """

    sweep: Sweep
    inventory: Inventory
    described: bool
    groups: tuple[MemoryGroup, ...]
    phases: tuple[PlannedPhase, ...]
    timed: bool
    basis: tuple[str, ...]
    unknown: tuple[str, ...]
    absent: tuple[str, ...]
    cut_texts: tuple[str, ...] = ()

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
