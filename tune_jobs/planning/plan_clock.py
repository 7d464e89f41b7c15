"""A phase of a plan under a simulated clock: on cards by cluster.scheduling.simulate, without cards by CPUs. Pure."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.machines.hardware import Inventory, Node
from cluster.scheduling.fair_line import Reach
from cluster.scheduling.placement import Demand
from cluster.scheduling.shares import MAX_TENANTS
from cluster.scheduling.simulate import SimulatedTrial, simulate
from tune_jobs.config.sections import Resources
from tune_jobs.placing.resources import slots


@dataclass(frozen=True, kw_only=True)
class Job:
    """One trial.

    Attributes:
        name: Unique.
        demand: What it asks for; None where it is placed by CPUs.
        length: How long it takes alone on a card of speed 1, in the clock's unit.
    """

    name: str
    demand: Demand | None
    length: float


@dataclass(frozen=True, kw_only=True)
class Stay:
    """Where and when a trial runs.

    Attributes:
        name: The trial.
        gpu_model: Label of the cards; empty without.
        node: The node; empty where only CPUs are counted.
        cards: Numbers of its cards there.
        gpus: Share of a card, or whole cards.
        start: In the clock's unit.
        end: In the clock's unit.
    """

    name: str
    gpu_model: str = ""
    node: str = ""
    cards: tuple[int, ...] = ()
    gpus: float = 0.0
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """All trials of a phase.

    Attributes:
        stays: In the order of their starts.
    """

    stays: tuple[Stay, ...]

    @property
    def makespan(self) -> float:
        """The last end."""
        return max((stay.end for stay in self.stays), default=0.0)

    @property
    def gpu_time(self) -> float:
        """Shares, times how long they are held."""
        return sum(stay.gpus * (stay.end - stay.start) for stay in self.stays)

    @property
    def most_at_once(self) -> int:
        """Trials side by side at the fullest moment."""
        moves = sorted([(stay.start, 1) for stay in self.stays] + [(stay.end, -1) for stay in self.stays])
        running = most = 0
        for _, move in moves:  # at one moment ends (-1) come before starts
            running += move
            most = max(most, running)
        return most


def run_clock(jobs: Sequence[Job], inventory: Inventory, resources: Resources, reach: Reach = "list") -> Timeline:
    """Lets trials arrive in their order and start as they find a place, as in a real sweep.

    Args:
        jobs: In the order in which the sweep starts them; all can run.
        inventory: The cards, or the machines without any.
        resources: CPUs of a trial, and how many may run at a time.
        reach: How far the line looks for a trial that can use what those before it cannot.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.placement import Demand, Need
    >>> need = Need(upper_bytes=11 * 2**30)
    >>> jobs = [Job(name=name, demand=Demand(name=name, needs=(need,)), length=10.0) for name in "abc"]
    >>> [(stay.name, stay.gpus, stay.end) for stay in run_clock(jobs, parse_simulated("1x24GiB"), Resources()).stays]
    [('a', 0.5, 10.0), ('b', 0.5, 10.0), ('c', 0.5, 20.0)]
    """
    if not inventory.cards:
        side_by_side = min(slots(inventory, resources), resources.max_concurrent_trials or 10**9)
        return _by_slots(jobs, side_by_side)
    trials = [SimulatedTrial(demand=_timed(job)) for job in jobs]
    done = simulate(
        trials,
        _limited(inventory, resources),
        order="arrival",
        max_tenants=resources.max_trials_per_gpu or MAX_TENANTS,
        cpus_per_trial=resources.cpus_per_trial,
        reach=reach,
    )
    stays = [
        Stay(
            name=placement.name,
            gpu_model=placement.spot.model,
            node=placement.spot.node,
            cards=placement.spot.cards,
            gpus=placement.share.gpus,
            start=placement.start_s,
            end=placement.end_s,
        )
        for placement in done.placements
    ]
    return Timeline(stays=tuple(stays))


def _timed(job: Job) -> Demand:
    assert job.demand is not None, job.name
    needs = tuple(replace(need, expected_s=max(job.length, 1e-9)) for need in job.demand.needs)
    return replace(job.demand, name=job.name, needs=needs)


def _limited(inventory: Inventory, resources: Resources) -> Inventory:
    """Takes CPUs away until no more trials than allowed fit at a time, from each node by its cards."""
    limit = resources.max_concurrent_trials
    if limit is None:
        return inventory
    with_cards = [node for node in inventory.nodes if node.cards]
    nodes: list[Node] = []
    left, cards_left = limit, inventory.cards
    for node in sorted(with_cards, key=lambda node: (len(node.cards), node.name)):
        part = -(-left * len(node.cards) // cards_left)
        left, cards_left = left - part, cards_left - len(node.cards)
        nodes.append(replace(node, cpus=min(node.cpus, part * resources.cpus_per_trial)))
    return replace(inventory, nodes=tuple(nodes))


def _by_slots(jobs: Sequence[Job], side_by_side: int) -> Timeline:
    free = [0.0] * max(1, side_by_side)
    stays = []
    for job in jobs:
        start = heapq.heappop(free)
        heapq.heappush(free, start + job.length)
        stays.append(Stay(name=job.name, start=start, end=start + job.length))
    return Timeline(stays=tuple(stays))
