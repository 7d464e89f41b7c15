"""When and where the trials of a phase would run: the broker of real sweeps under a simulated clock. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cluster.machines.hardware import Inventory
from cluster.scheduling.events import SweepJoined
from cluster.scheduling.quotas import Team
from cluster.scheduling.request import Request
from cluster.scheduling.simulation import SimulatedTrial, simulate
from tune_jobs.placing.submission import SubmissionLimits

NO_LIMITS = SubmissionLimits()


@dataclass(frozen=True, kw_only=True)
class TimedTrial:
    """One trial.

    Attributes:
        name: Unique in the plan.
        request: What it asks the broker for.
        length: How long it takes where no seconds are known, in the plan's unit.
        alone_on: See SimulatedTrial; empty where no seconds are known.
    """

    name: str
    request: Request
    length: float
    alone_on: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """Where and when a trial runs, from its start or resumption to its end or pause.

    Attributes:
        name: The trial.
        gpu_model: Label of the cards; empty without.
        nodes: Name of the node of each card; one where only CPUs are counted.
        cards: Number of each card on its node.
        gpus: Share of a card, or whole cards.
        start: In the plan's unit.
        end: In the plan's unit.
    """

    name: str
    gpu_model: str = ""
    nodes: tuple[str, ...] = ()
    cards: tuple[int, ...] = ()
    gpus: float = 0.0
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """All trials of a phase.

    Attributes:
        runs: In the sequence in which the broker started them.
    """

    runs: tuple[PlannedRun, ...]

    @property
    def makespan(self) -> float:
        """The last end."""
        return max((run.end for run in self.runs), default=0.0)

    @property
    def gpu_time(self) -> float:
        """Shares, times how long they are held."""
        return sum(run.gpus * (run.end - run.start) for run in self.runs)

    @property
    def most_at_once(self) -> int:
        """Trials side by side at the fullest moment."""
        moves = sorted([(run.start, 1) for run in self.runs] + [(run.end, -1) for run in self.runs])
        running = most = 0
        for _, move in moves:  # at one moment ends (-1) come before starts
            running += move
            most = max(most, running)
        return most


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Whose quota a phase uses, and when it starts.

    Attributes:
        team: Members, windows, lending.
        member: Of the team.
        starts_at: With a time zone.
    """

    team: Team
    member: str
    starts_at: datetime


def run_timeline(
    trials: Sequence[TimedTrial],
    inventory: Inventory,
    limits: SubmissionLimits = NO_LIMITS,
    *,
    quota: Quota | None = None,
) -> Timeline | None:
    """Submits trials in their sequence to a broker and lets each run as long as it takes.

    Args:
        trials: Of one sweep; all can run.
        inventory: The nodes.
        limits: How many trials are under way at a time.
        quota: None where everything may be used; else the plan's unit is seconds.

    Returns:
        None where the quota never lets all trials end.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.alternatives import Need, find_alternatives
    >>> cluster = parse_simulated("1x24GiB")
    >>> half = find_alternatives([Need(upper_bytes=11 * 2**30)], cluster)
    >>> requests = [Request(name=f"s/{number}", sweep="s", alternatives=half) for number in (1, 2, 3)]
    >>> found = run_timeline([TimedTrial(name=one.name, request=one, length=10.0) for one in requests], cluster)
    >>> [(run.name, run.gpus, run.end) for run in found.runs]
    [('s/1', 0.5, 10.0), ('s/2', 0.5, 10.0), ('s/3', 0.5, 20.0)]
    """
    names = {trial.request.name: trial.name for trial in trials}
    member = quota.member if quota else None
    sweeps = {trial.request.sweep for trial in trials}
    done = simulate(
        [SimulatedTrial(request=one.request, work_s=one.length, alone_on=one.alone_on) for one in trials],
        inventory,
        sweeps=[SweepJoined(sweep=sweep, member=member, max_concurrent=limits.running) for sweep in sweeps],
        team=quota.team if quota else None,
        starts_at_s=quota.starts_at.timestamp() if quota else 0.0,
        may_submit=lambda waiting, running: limits.has_room(waiting=waiting, running=running),
    )
    assert not done.refusals, done.refusals
    if done.unfinished:
        return None
    runs = [
        PlannedRun(
            name=names[run.name],
            gpu_model=run.allocation.alternative.model,
            nodes=run.allocation.nodes,
            cards=run.allocation.cards,
            gpus=run.allocation.alternative.gpus,
            start=run.start_s,
            end=run.end_s,
        )
        for run in done.runs
    ]
    return Timeline(runs=tuple(runs))
