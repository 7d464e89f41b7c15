"""A broker under a simulated clock: when and where trials run, and how long all of it takes. Pure, deterministic.

The broker is the one that serves real sweeps. Only its events are simulated: trials arrive, run for as long as they
take beside their co-tenants (see compute_sharing), pause when the broker asks for it, and end.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from cluster.machines.hardware import Inventory
from cluster.scheduling.broker import Broker
from cluster.scheduling.compute_sharing import FREE_OF_OVERHEAD, Contention, SharedCards
from cluster.scheduling.events import Ended, Event, Refusal, Started, Submitted, SweepJoined, Tick
from cluster.scheduling.lookahead import RULES
from cluster.scheduling.lower_bound import Load, lower_bound_s
from cluster.scheduling.packing_prices import Rule
from cluster.scheduling.quotas import Team, next_change
from cluster.scheduling.request import Allocation, Alternative, Request
from cluster.scheduling.shares import MAX_TENANTS, UNITS, Share

_MOST_IDLE_S = 8 * 24 * 3600.0  # quotas repeat every week: what they forbid for so long they forbid for ever
Policy = Literal["shares", "half", "whole"]
MaySubmit = Callable[[int, int], bool]  # called with how many trials wait at the broker and how many run


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedTrial:
    """A request, and what becomes of it; the broker knows only the request.

    Attributes:
        request: What it asks for.
        work_s: How long it really takes alone on a card of speed 1, or on CPUs.
        busy: Part of a card's compute that it really keeps busy alone.
        arrives_s: When it is submitted.
        alone_on: By GPU model, where that is known: the seconds that it takes alone there, and the part that it keeps
            busy; these count instead of work_s and busy.
    """

    request: Request
    work_s: float
    busy: float = 0.0
    arrives_s: float = 0.0
    alone_on: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def duration_s(self, model: str, speed: float) -> float:
        """Returns how long it takes alone on cards of a GPU model of a speed.

        >>> asked = Request(name="a", sweep="", alternatives=())
        >>> SimulatedTrial(request=asked, work_s=60.0).duration_s("A40", speed=2.0)
        30.0
        >>> SimulatedTrial(request=asked, work_s=60.0, alone_on={"A40": (15.0, 0.5)}).duration_s("A40", speed=2.0)
        15.0
        """
        return self.alone_on[model][0] if model in self.alone_on else self.work_s / speed

    def busy_on(self, model: str) -> float:
        """Returns the part of a card of a GPU model that it keeps busy alone."""
        return self.alone_on[model][1] if model in self.alone_on else self.busy


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedRun:
    """One trial's run, or one part of it where it paused.

    Attributes:
        allocation: What it held.
        start_s: When it started.
        end_s: When it ended or paused.
    """

    allocation: Allocation
    start_s: float
    end_s: float

    @property
    def name(self) -> str:
        """The trial."""
        return self.allocation.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """What became of all trials.

    Attributes:
        runs: In the sequence in which the broker started them.
        refusals: Trials that fit nowhere.
        unfinished: Names of trials that quotas never let run to their end.
        makespan_s: From 0 to the last end.
        gpu_utilisation: Part of all cards' compute that was busy until then.
        memory_utilisation: Part of all cards' usable memory that the trials' upper bytes filled until then.
    """

    runs: tuple[SimulatedRun, ...]
    refusals: tuple[Refusal, ...]
    unfinished: tuple[str, ...]
    makespan_s: float
    gpu_utilisation: float
    memory_utilisation: float


def rules_under(policy: Policy) -> tuple[Rule, ...]:
    """Returns the rules of packing under a policy: with fixed shares none are compared."""
    return RULES if policy == "shares" else RULES[:1]


def hold_under(policy: Policy, request: Request, inventory: Inventory) -> Request:
    """Returns a request that holds what a policy gives.

    Args:
        policy: "shares" as asked for; "half": half a card, or a whole one where half is too small; "whole": one trial a
            card.
        request: As asked for.
        inventory: Where it would run.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.alternatives import Need, find_alternatives
    >>> cluster = parse_simulated("2x24GiB")
    >>> small = Request(name="a", sweep="", alternatives=find_alternatives((Need(upper_bytes=5 << 30),), cluster))
    >>> [hold_under(policy, small, cluster).least_gpus for policy in ("shares", "half", "whole")]
    [0.25, 0.5, 1.0]
    """
    if policy == "shares":
        return request
    usable_bytes = {pool.model: pool.usable_bytes for pool in inventory.pools}
    half = Share(units=UNITS // 2)

    def held(one: Alternative) -> Alternative:
        if one.share is None:
            return one
        fits_half = one.cards == 1 and one.upper_bytes <= half.cap_bytes(usable_bytes[one.model])
        share = half if policy == "half" and fits_half else Share(units=UNITS, cards=one.cards)
        return replace(one, share=share, cap_bytes=share.cap_bytes(usable_bytes[one.model]))

    return replace(request, alternatives=tuple(held(one) for one in request.alternatives))


def _at_once(waiting: int, running: int) -> bool:
    return True


def simulate(
    trials: Sequence[SimulatedTrial],
    inventory: Inventory,
    *,
    sweeps: Sequence[SweepJoined] = (),
    team: Team | None = None,
    starts_at_s: float = 0.0,
    contention: Contention = FREE_OF_OVERHEAD,
    may_submit: MaySubmit = _at_once,
    rules: Sequence[Rule] = RULES,
) -> Simulation:
    """Runs trials on an inventory under a simulated clock.

    Args:
        trials: Those that arrive at the same time are submitted in this order.
        inventory: The nodes; need not be simulated ones.
        sweeps: Members and limits of the sweeps that have any.
        team: Quotas; None where everybody may use everything.
        starts_at_s: Unix seconds at second 0; quotas follow the wall clock.
        contention: How co-tenants slow each other down.
        may_submit: Whether a trial that has arrived is submitted while so many wait and so many run.
        rules: Of packing, see Broker; the first one alone where trials hold what a fixed policy gives.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.alternatives import Need, find_alternatives
    >>> cluster = parse_simulated("1x24GiB")
    >>> half = find_alternatives((Need(upper_bytes=11 << 30),), cluster)
    >>> asked = [Request(name=name, sweep="s", alternatives=half) for name in "abc"]
    >>> done = simulate([SimulatedTrial(request=request, work_s=60.0) for request in asked], cluster)
    >>> [(run.name, run.allocation.alternative.gpus, run.start_s, run.end_s) for run in done.runs]
    [('a', 0.5, 0.0, 60.0), ('b', 0.5, 0.0, 60.0), ('c', 0.5, 60.0, 120.0)]
    """
    broker = Broker(inventory, team=team, refuse_after_s=0.0, contention=contention, rules=rules)
    run = _Clock(broker, trials, inventory, contention, team=team, starts_at_s=starts_at_s, may_submit=may_submit)
    return run.go(sweeps)


def bound_s(trials: Sequence[SimulatedTrial], inventory: Inventory, *, max_tenants: int = MAX_TENANTS) -> float:
    """Returns a time before which nothing can have ended these trials, whatever they hold; see lower_bound.

    Args:
        trials: With the smallest shares that hold them; those without an alternative are left out.
        inventory: The nodes.
        max_tenants: Most trials on one card.
    """
    loads = []
    for trial in trials:
        by_model = {one.model: one for one in trial.request.alternatives if one.share}
        parts, durations_s = [], []
        for pool in inventory.pools:
            one = by_model.get(pool.model)
            part = max(one.upper_bytes / pool.usable_bytes, 1 / max_tenants) if one else math.inf
            parts.append(float(one.cards) if one and one.cards > 1 else part)
            durations_s.append(trial.duration_s(pool.model, pool.speed) if one else 0.0)
        if by_model:
            loads.append(Load(parts=tuple(parts), durations_s=tuple(durations_s), busy=trial.busy))
    return lower_bound_s(loads, [pool.cards for pool in inventory.pools])


@dataclass(slots=True)
class _Running:
    allocation: Allocation
    start_s: float
    sequence: int


@dataclass(slots=True)
class _Clock:
    """One simulation under way."""

    broker: Broker
    trials: Sequence[SimulatedTrial]
    inventory: Inventory
    contention: Contention
    team: Team | None = field(kw_only=True)
    starts_at_s: float = field(kw_only=True)
    may_submit: MaySubmit = field(kw_only=True)
    coming: deque[SimulatedTrial] = field(init=False)
    waiting: int = field(default=0, init=False)
    started: int = field(default=0, init=False)
    cards: SharedCards = field(init=False)
    by_name: dict[str, SimulatedTrial] = field(init=False)
    speeds: dict[str, float] = field(init=False)
    left: dict[str, float] = field(init=False)  # part of its work that each trial has left
    busy_s: float = field(default=0.0, init=False)
    running: dict[str, _Running] = field(default_factory=dict, init=False)
    runs: list[tuple[int, SimulatedRun]] = field(default_factory=list, init=False)
    refusals: list[Refusal] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.coming = deque(sorted(self.trials, key=lambda trial: trial.arrives_s))
        self.cards = SharedCards(self.contention)
        self.by_name = {trial.request.name: trial for trial in self.trials}
        self.speeds = {pool.model: pool.speed for pool in self.inventory.pools}
        self.left = dict.fromkeys(self.by_name, 1.0)

    def go(self, sweeps: Sequence[SweepJoined]) -> Simulation:
        """Runs until nothing runs or waits."""
        now_s = busy_until_s = 0.0
        self._decide(sweeps, now_s)
        while self.left and now_s - busy_until_s < _MOST_IDLE_S:
            end = self.cards.next_end()
            times = [end[0]] if end else []
            if self.coming and self.coming[0].arrives_s > now_s:
                times.append(self.coming[0].arrives_s)
            if times:
                busy_until_s = max(now_s, min(times))
            if self.team and (change := next_change(self.team, self._instant(now_s))):
                times.append(change.timestamp() - self.starts_at_s)
            if not times:
                break
            now_s = max(now_s, min(times))
            ended: list[Event] = []
            while (end := self.cards.next_end()) is not None and end[0] <= now_s:
                ended.append(self._end(end[1], now_s))
            self._decide(ended, now_s)
        assert self.team or not self.left, f"{len(self.left)} trials wait on cards that are all free"
        return self._result()

    def _arrivals(self, now_s: float) -> list[Event]:
        """Submits the trials that have arrived and may be submitted."""
        arrived: list[Event] = []
        while self.coming and self.coming[0].arrives_s <= now_s and self.may_submit(self.waiting, len(self.running)):
            arrived.append(self._submit(self.coming.popleft()))
        return arrived

    def _submit(self, trial: SimulatedTrial) -> Submitted:
        self.waiting += 1
        return Submitted(request=trial.request)

    def _decide(self, events: Sequence[Event], now_s: float) -> None:
        """Submits who has arrived, lets the broker decide and does as it says, until nothing more follows at once."""
        pending = [*events, *self._arrivals(now_s)] or [Tick()]
        while pending:
            done = self.broker.handle(*pending, elapsed_s=now_s, wall_s=self.starts_at_s + now_s)
            self.waiting -= len(done.refusals) + len(done.allocations)
            for refusal in done.refusals:
                self.refusals.append(refusal)
                del self.left[refusal.name]
            for allocation in done.allocations:
                self._start(allocation, now_s)
            pending = [Started(name=one.name) for one in done.allocations] if done.pauses else []
            for pause in done.pauses:
                pending += [self._end(pause.name, now_s), self._submit(self.by_name[pause.name])]
            pending += self._arrivals(now_s)

    def _start(self, allocation: Allocation, now_s: float) -> None:
        name, cards = allocation.name, allocation.cards
        trial = self.by_name[name]
        work_s = self.left[name] * self._duration_s(trial, allocation)
        card = (allocation.nodes[0], cards[0]) if cards else name
        self.started += 1
        self.running[name] = _Running(allocation, now_s, self.started)
        busy = trial.busy_on(allocation.alternative.model) if cards else 0.0
        self.cards.start(name, card=card, work_s=work_s, busy=busy, now_s=now_s)

    def _end(self, name: str, now_s: float) -> Ended:
        one, trial = self.running.pop(name), self.by_name[name]
        left_s = self.cards.stop(name, now_s)
        if left_s:
            self.left[name] = left_s / self._duration_s(trial, one.allocation)
        else:
            del self.left[name]
            held = one.allocation.alternative
            self.busy_s += min(1.0, trial.busy_on(held.model)) * held.cards * self._duration_s(trial, one.allocation)
        self.runs.append((one.sequence, SimulatedRun(allocation=one.allocation, start_s=one.start_s, end_s=now_s)))
        return Ended(name=name)

    def _duration_s(self, trial: SimulatedTrial, allocation: Allocation) -> float:
        model = allocation.alternative.model
        return trial.duration_s(model, self.speeds.get(model, 1.0))

    def _instant(self, now_s: float) -> datetime:
        return datetime.fromtimestamp(self.starts_at_s + now_s, tz=UTC)

    def _result(self) -> Simulation:
        runs = [run for _, run in sorted(self.runs, key=lambda one: one[0])]
        makespan_s = max((run.end_s for run in runs), default=0.0)
        byte_s = 0.0
        for run in runs:
            byte_s += run.allocation.alternative.upper_bytes * len(run.allocation.cards) * (run.end_s - run.start_s)
        usable_bytes = sum(card.usable_bytes for node in self.inventory.nodes for card in node.cards)
        gpu_s = self.inventory.cards * makespan_s
        return Simulation(
            runs=tuple(runs),
            refusals=tuple(self.refusals),
            unfinished=tuple(self.left),
            makespan_s=makespan_s,
            gpu_utilisation=self.busy_s / gpu_s if gpu_s else 0.0,
            memory_utilisation=byte_s / (usable_bytes * makespan_s) if gpu_s else 0.0,
        )
