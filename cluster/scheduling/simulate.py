"""Placement under a simulated clock: when and where each trial of a sweep would run, and how long all of it takes.

What fits, and the share of each choice, are those of placement, which places real trials. Where all trials are
known, packer starts them, under other policies line; in order of arrival arrivals does, by the
decision of a real sweep.
Co-tenants share a card's compute as processes do that take turns (see compute_sharing). Pure, deterministic.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from cluster.machines.hardware import Inventory
from cluster.scheduling.arrivals import ArrivalLine
from cluster.scheduling.compute_sharing import FREE_OF_OVERHEAD, Contention, SharedCards
from cluster.scheduling.fair_line import PATIENCE, Reach
from cluster.scheduling.lower_bound import Load, lower_bound_s
from cluster.scheduling.occupancy import Occupancy, Spot
from cluster.scheduling.placement import Choice, Demand, Refusal, choose, refuse
from cluster.scheduling.shares import MAX_TENANTS, UNITS, Share

Policy = Literal["shares", "half", "whole"]
Order = Literal["arrival"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedTrial:
    """A trial, and what its placement does not know beforehand.

    Attributes:
        demand: What it asks for; `expected_s` of its needs is how long it takes alone on a card of speed 1.
        arrives_s: When it begins to wait.
        busy: Part of a card's compute that it keeps busy when alone.
    """

    demand: Demand
    arrives_s: float = 0.0
    busy: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """One trial's place over time.

    Attributes:
        name: The trial.
        spot: Its cards.
        share: What it holds of each.
        upper_bytes: What it may need on each.
        start_s: When it starts.
        end_s: When it ends.
    """

    name: str
    spot: Spot
    share: Share
    upper_bytes: int
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """What became of all trials.

    Attributes:
        placements: In the order of their starts.
        refusals: Trials that fit nowhere.
        makespan_s: From 0 to the last end.
        lower_bound_s: No placement of these trials ends earlier; see cluster.scheduling.lower_bound.
        gpu_utilisation: Part of all cards' compute that was busy until then.
        memory_utilisation: Part of all cards' usable memory that the trials' upper bytes filled until then.
    """

    placements: tuple[Placement, ...]
    refusals: tuple[Refusal, ...]
    makespan_s: float
    lower_bound_s: float
    gpu_utilisation: float
    memory_utilisation: float


def held_under(policy: Policy, choice: Choice, inventory: Inventory) -> Choice:
    """Returns what a trial holds under a policy.

    Args:
        policy: "shares" as placement chose it; "half": half a card, or a whole one where half is too small;
            "whole": one trial a card.
        choice: As placement chose it.
        inventory: Where it was chosen.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.placement import Need
    >>> trial, cluster = Demand(name="a", needs=(Need(upper_bytes=5 * 2**30),)), parse_simulated("2x24GiB")
    >>> (choice,) = choose(trial, cluster)
    >>> [held_under(policy, choice, cluster).share.gpus for policy in ("shares", "half", "whole")]
    [0.25, 0.5, 1.0]
    """
    if policy == "shares":
        return choice
    usable_bytes = next(pool.usable_bytes for pool in inventory.pools if pool.model == choice.model)
    half = Share(units=UNITS // 2)
    fits_half = policy == "half" and choice.share.cards == 1 and choice.upper_bytes <= half.cap_bytes(usable_bytes)
    share = half if fits_half else Share(units=UNITS, cards=choice.share.cards)
    return replace(
        choice,
        share=share,
        cap_bytes=share.cap_bytes(usable_bytes),
        fair_part=choice.fair_part * share.gpus / choice.share.gpus,
    )


def simulate(
    trials: Sequence[SimulatedTrial],
    inventory: Inventory,
    *,
    policy: Policy = "shares",
    order: Order = "arrival",
    max_tenants: int = MAX_TENANTS,
    contention: Contention = FREE_OF_OVERHEAD,
    cpus_per_trial: float = 0.0,
    patience: int = PATIENCE,
    reach: Reach = "list",
) -> Simulation:
    """Runs trials on an inventory under a simulated clock.

    Whenever something ends or arrives, waiting trials start; see packer, arrivals and line for which and where.

    Args:
        trials: In any order.
        inventory: The cards; need not be simulated ones.
        policy: What each trial holds.
        order: "largest" first where the order is ours; by "arrival" where trials come one by one.
        max_tenants: Most trials on one card, under "shares".
        contention: How co-tenants slow each other down.
        cpus_per_trial: Logical CPUs that each trial takes on its node; 0 does not count them.
        patience: With order "arrival", how often a trial may be overtaken; see cluster.scheduling.fair_line.
        reach: With order "arrival", how far the line looks for a trial that can use what those before it cannot.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.placement import Need
    >>> need = Need(upper_bytes=11 << 30, expected_s=60.0)
    >>> trials = [SimulatedTrial(demand=Demand(name=name, needs=(need,))) for name in "abc"]
    >>> done = simulate(trials, parse_simulated("1x24GiB"))
    >>> [(p.name, p.share.gpus, p.start_s, p.end_s) for p in done.placements], done.lower_bound_s
    ([('a', 0.5, 0.0, 60.0), ('b', 0.5, 0.0, 60.0), ('c', 0.5, 60.0, 120.0)], 90.0)
    """
    under_policy: dict[int, tuple[Choice, ...]] = {}
    loads: list[Load] = []
    refusals: list[Refusal] = []
    for number, trial in enumerate(trials):
        least = choose(trial.demand, inventory, max_tenants=max_tenants)
        if not least:
            refusal = refuse(trial.demand, inventory)
            assert refusal is not None, trial.demand.name
            refusals.append(refusal)
            continue
        under_policy[number] = tuple(held_under(policy, choice, inventory) for choice in least)
        loads.append(_load(trial, least, inventory, max_tenants))
    arrivals = sorted((trials[number].arrives_s, number) for number in under_policy)

    books, cards = Occupancy(inventory, cpus_per_trial=cpus_per_trial), SharedCards(contention)
    placements = _Run(trials, books, cards, ArrivalLine(under_policy, books, patience=patience, reach=reach)).go(
        arrivals
    )
    bound_s = lower_bound_s(loads, [pool.cards for pool in inventory.pools])
    return _result(placements, tuple(refusals), bound_s, inventory)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placed:
    """A placement, and the work in it."""

    placement: Placement
    busy_s: float


def _load(trial: SimulatedTrial, least: tuple[Choice, ...], inventory: Inventory, max_tenants: int) -> Load:
    """What no policy can go below: its bytes, and one of the places that a card has for co-tenants."""
    by_model = {choice.model: choice for choice in least}
    parts, durations_s = [], []
    for pool in inventory.pools:
        choice = by_model.get(pool.model)
        part = max(choice.upper_bytes / pool.usable_bytes, 1 / max_tenants) if choice else math.inf
        parts.append(float(choice.share.cards) if choice and choice.share.cards > 1 else part)
        durations_s.append(choice.expected_s if choice else 0.0)
    return Load(parts=tuple(parts), durations_s=tuple(durations_s), busy=trial.busy)


class _Starter(Protocol):
    """Says which trials start now, and where; see packer, arrivals and line."""

    def __len__(self) -> int: ...

    def add(self, number: int) -> None: ...

    def ended(self, spot: Spot) -> None: ...

    def start(self, now_s: float) -> Iterator[tuple[int, Choice, Spot]]: ...


class _Run:
    """One simulation under way."""

    def __init__(
        self, trials: Sequence[SimulatedTrial], books: Occupancy, cards: SharedCards, starter: _Starter
    ) -> None:
        self._trials, self._books, self._cards, self._starter = trials, books, cards, starter
        self._running: dict[int, tuple[Choice, Spot, float]] = {}
        self._placements: list[_Placed] = []

    def go(self, arrivals: Sequence[tuple[float, int]]) -> list[_Placed]:
        """Runs until nothing runs or waits."""
        coming = deque(arrivals)
        while coming or self._running:
            end = self._cards.next_end()
            now_s = min([coming[0][0]] * bool(coming) + ([end[0]] if end else []))
            while (end := self._cards.next_end()) is not None and end[0] == now_s:
                self._end(now_s, int(end[1]))
            while coming and coming[0][0] == now_s:
                self._starter.add(coming.popleft()[1])
            for number, choice, spot in self._starter.start(now_s):
                self._running[number] = (choice, spot, now_s)
                busy = self._trials[number].busy
                self._cards.start(str(number), card=spot.keys[0], work_s=choice.expected_s, busy=busy, now_s=now_s)
        assert not len(self._starter), "a trial that fits somewhere was left over"
        return self._placements

    def _end(self, now_s: float, number: int) -> None:
        self._cards.stop(str(number), now_s)
        choice, spot, start_s = self._running.pop(number)
        self._books.give_back(spot, choice.share)
        self._starter.ended(spot)
        trial = self._trials[number]
        placement = Placement(
            name=trial.demand.name,
            spot=spot,
            share=choice.share,
            upper_bytes=choice.upper_bytes,
            start_s=start_s,
            end_s=now_s,
        )
        busy_s = min(1.0, trial.busy) * choice.expected_s * len(spot.keys)
        self._placements.append(_Placed(placement=placement, busy_s=busy_s))


def _makespan_s(placed: Sequence[_Placed]) -> float:
    return max((done.placement.end_s for done in placed), default=0.0)


def _result(
    placed: Sequence[_Placed], refusals: tuple[Refusal, ...], bound_s: float, inventory: Inventory
) -> Simulation:
    placements = sorted((done.placement for done in placed), key=lambda one: (one.start_s, one.name))
    makespan_s = _makespan_s(placed)
    usable_bytes = sum(card.usable_bytes for node in inventory.nodes for card in node.cards)
    byte_s = sum(one.upper_bytes * len(one.spot.keys) * (one.end_s - one.start_s) for one in placements)
    return Simulation(
        placements=tuple(placements),
        refusals=refusals,
        makespan_s=makespan_s,
        lower_bound_s=bound_s,
        gpu_utilisation=sum(one.busy_s for one in placed) / (inventory.cards * makespan_s) if makespan_s else 0.0,
        memory_utilisation=byte_s / (usable_bytes * makespan_s) if makespan_s else 0.0,
    )
