"""The one object that decides which request runs where and when: events in, decisions out.

It owns the capacity of a cluster, its queue and its quotas. Pure: it reads no clock and knows no Ray. Three shells
drive it: the sweep's driver (embedded), the broker's process (a cluster) and the simulation.
"""

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from cluster.machines.hardware import Inventory
from cluster.scheduling.capacity import Capacity, Slot
from cluster.scheduling.compute_sharing import FREE_OF_OVERHEAD, Contention
from cluster.scheduling.events import (
    Decisions,
    Ended,
    Event,
    NodesChanged,
    NodeUse,
    NotPlaced,
    Pause,
    QuotasChanged,
    Refusal,
    Restored,
    Started,
    Submitted,
    SweepJoined,
    SweepLeft,
    Withdrawn,
)
from cluster.scheduling.explain import Circumstances, explain_refused, explain_waiting, status_of
from cluster.scheduling.fragmentation import Demand
from cluster.scheduling.held import Held, SweepUse
from cluster.scheduling.lookahead import RULES, Lookahead
from cluster.scheduling.packing import Packing
from cluster.scheduling.packing_prices import Rule
from cluster.scheduling.policy import QueuePolicy
from cluster.scheduling.queue import Kind, Queue
from cluster.scheduling.quota_use import QuotaUse, choose_returns
from cluster.scheduling.quotas import Team
from cluster.scheduling.request import Allocation, CardUse, Request
from cluster.scheduling.shares import MAX_TENANTS
from cluster.scheduling.work import Granted, Pass

MAX_OVERTAKEN = 4  # later requests that may get room which an earlier one could have used
AVOID_S = 60.0  # so long a request is kept off a node on which Ray did not place it
REFUSE_AFTER_S = 60.0  # so long a request waits for a node that is large enough: one that restarts comes back


class Broker:
    """Decides for one cluster.

    Args:
        inventory: Its nodes.
        team: Quotas in force; None where everybody may use everything.
        allocate_from_s: Elapsed seconds before which nothing new is allocated: a broker that replaces a lost one first
            lets every driver report what it holds.
        refuse_after_s: How long a request waits for a node that is large enough before it is refused.
        max_overtaken: How many later requests may get room that an earlier one could have used.
        contention: How co-tenants slow each other down, where busy parts are known.
        rules: Of packing, see lookahead; the first one holds until they are compared.

    >>> from cluster.machines.hardware import parse_simulated
    >>> from cluster.scheduling.alternatives import Need, find_alternatives
    >>> from cluster.scheduling.request import Request
    >>> cluster = parse_simulated("1x24GiB")
    >>> broker, half = Broker(cluster), find_alternatives((Need(upper_bytes=11 * 2**30),), cluster)
    >>> asked = [Submitted(request=Request(name=f"s/{n}", sweep="s", alternatives=half)) for n in (1, 2, 3)]
    >>> [one.name for one in broker.handle(*asked, elapsed_s=0.0, wall_s=0.0).allocations]
    ['s/1', 's/2']
    >>> [one.name for one in broker.handle(Ended(name="s/1"), elapsed_s=9.0, wall_s=9.0).allocations]
    ['s/3']
    """

    def __init__(
        self,
        inventory: Inventory,
        *,
        team: Team | None = None,
        allocate_from_s: float = -math.inf,
        refuse_after_s: float = REFUSE_AFTER_S,
        max_overtaken: int = MAX_OVERTAKEN,
        contention: Contention = FREE_OF_OVERHEAD,
        rules: Sequence[Rule] = RULES,
    ) -> None:
        self._inventory, self._team = inventory, team
        self._allocate_from_s, self._refuse_after_s = allocate_from_s, refuse_after_s
        self._demand, self._queue = Demand(), Queue()
        self._capacity, self._empty = Capacity(inventory, self._demand), Capacity(inventory)
        self._max_overtaken = max_overtaken
        self._rules, self._lookahead = tuple(rules), Lookahead()
        self._policy, self._packing, self._contention = QueuePolicy(), Packing(contention), contention
        self._sweeps: dict[str, SweepUse] = {}
        self._held: dict[str, Held] = {}
        self._lost: list[Held] = []  # that have no room since the nodes changed
        self._others_gpus: dict[str, float] = {}
        self._not_placed: dict[str, tuple[float, str]] = {}  # until when a request avoids nodes, and why
        self._allocated = 0
        self._elapsed_s = self._wall_s = 0.0

    def handle(self, *events: Event, elapsed_s: float, wall_s: float) -> Decisions:
        """Takes in events, in order, and decides once after all of them.

        Args:
            events: What happened.
            elapsed_s: Seconds that only grow.
            wall_s: Unix seconds; quotas follow the wall clock.
        """
        self._elapsed_s, self._wall_s = elapsed_s, wall_s
        for event in events:
            self._apply(event)
        self._end_avoidance()
        refusals = self._refuse()
        use = self._quota_use()
        if elapsed_s < self._allocate_from_s:
            return Decisions(pauses=tuple(self._pauses(use, ())), refusals=refusals)
        done = self._allocate(use)
        allocations = tuple(self._hold(granted) for granted in done.granted)
        return Decisions(allocations=allocations, pauses=tuple(self._pauses(use, done.unserved)), refusals=refusals)

    def waiting_reason(self, name: str) -> str:
        """Says what a request waits for; empty where it does not wait."""
        if name not in self._queue:
            return ""
        kind, request = self._queue.kind(name), self._queue.request(name)
        reason = explain_waiting(kind.waits_for, request, self._sweeps[request.sweep], self._circumstances())
        not_placed = f"; Ray did not place it on {self._not_placed[name][1]}" if name in self._not_placed else ""
        return reason + not_placed

    def status(self) -> dict[str, object]:
        """Lists who holds what, who waits and why; plain values, for `team` and `top`."""
        found = self._circumstances()
        waiting = []
        for kind in self._queue.kinds():
            head = self._queue.head(kind)
            reason = explain_waiting(kind.waits_for, head, self._sweeps[head.sweep], found)
            waiting += [(self._queue.request(name), reason) for *_, name in kind.keys]
        return status_of(self._capacity, self._sweeps, waiting, found)

    def card_uses(self, sweep: str) -> dict[str, CardUse]:
        """Returns what runs on the card of each running trial of a sweep, by the name of its request."""
        on_card: defaultdict[int, list[Held]] = defaultdict(list)
        running = [held for held in self._held.values() if held.started and held.slot is not None and held.slot.cards]
        for held in running:
            assert held.slot is not None
            on_card[held.slot.cards[0]].append(held)
        found: dict[str, CardUse] = {}
        for some in on_card.values():
            parts = [held.allocation.alternative.busy for held in some]
            known = [part for part in parts if part is not None]
            use = CardUse(
                tenants=len(some), slowdown=self._contention.slowdown(known) if len(known) == len(parts) else None
            )
            found |= {held.request.name: use for held in some if held.request.sweep == sweep}
        return found

    def validate(self) -> None:
        """Raises AssertionError where an invariant is broken; tests call it after every event."""
        self._capacity.validate()
        assert not set(self._held) & {request.name for request in self._queue}, "queued and held"
        fresh = Capacity(self._inventory)
        for held in self._held.values():
            if held.slot is not None:
                fresh.take(held.allocation.alternative, held.slot)
        assert self._capacity.same_use(fresh), "what is held is not what the capacity lacks"
        counts = Counter(held.request.sweep for held in self._held.values())
        gpus: defaultdict[str, float] = defaultdict(float)
        for held in self._held.values():
            gpus[held.request.sweep] += held.gpus
        for name, sweep in self._sweeps.items():
            assert sweep.count == counts[name], (name, sweep)
            assert math.isclose(sweep.gpus, gpus[name], abs_tol=1e-6), (name, sweep)

    def _circumstances(self) -> Circumstances:
        return Circumstances(
            held=tuple(self._held.values()),
            use=self._quota_use(),
            closed_s=max(0.0, self._allocate_from_s - self._elapsed_s),
        )

    def _apply(self, event: Event) -> None:
        match event:
            case NodesChanged(inventory=inventory):
                self._rebuild(inventory)
            case NodeUse(gpus=gpus):
                self._others_gpus = dict(gpus)
                self._capacity.set_others(self._others_gpus)
            case QuotasChanged(team=team):
                self._team = team
            case SweepJoined():
                known = self._sweeps.setdefault(event.sweep, SweepUse())
                known.member, known.max_concurrent = event.member or "", event.max_concurrent
            case SweepLeft(sweep=sweep):
                names = [one.request.name for one in self._held.values() if one.request.sweep == sweep]
                names += [request.name for request in self._queue if request.sweep == sweep]
                for name in names:
                    self._forget(name)
                self._sweeps.pop(sweep, None)
            case Submitted(request=request):
                if request.name not in self._held and request.name not in self._queue:
                    self._sweeps.setdefault(request.sweep, SweepUse())
                    self._queue.add(request)
                    self._demand.add(request)
            case Restored():
                self._restore(event)
            case Started(name=name):
                if name in self._held:
                    self._held[name].started = True
            case NotPlaced(name=name, reason=reason):
                self._return(name, reason)
            case Withdrawn(name=name) | Ended(name=name):
                self._forget(name)

    def _allocate(self, use: QuotaUse | None) -> Pass:
        """Packs where the durations of all that wait are known; else all go in their order."""
        work = Pass(
            queue=self._queue,
            capacity=self._capacity,
            sweeps=self._sweeps,
            use=use,
            max_overtaken=self._max_overtaken,
        )
        kinds = self._queue.kinds()
        is_known = all(kind.is_known or not kind.is_possible for kind in kinds)
        packed = [kind for kind in kinds if is_known and self._is_packed(kind)]
        is_compared = packed and use is None and len(self._rules) > 1
        if is_compared and self._lookahead.is_due(len(self._queue), len(self._held)):
            self._packing.follow(self._best_rule())
        chosen = {id(kind) for kind in packed}
        self._policy.run(work, [kind for kind in kinds if id(kind) not in chosen])
        self._packing.run(work, packed, self._elapsed_s)
        return work

    def _best_rule(self) -> Rule:
        """Returns the rule under which all known work ends first, if durations are right; the present one if equal."""
        present = self._packing.rule
        return min(dict.fromkeys((present, *self._rules)), key=self._foreseen_end_s)

    def _foreseen_end_s(self, rule: Rule) -> float:
        """Lets a copy of this broker run to the end under a rule; infinite where some would wait for ever."""
        values = [self._inventory, *self._queue]
        for held in self._held.values():
            values += [held.request, held.allocation]
        what_if = copy.deepcopy(self, {id(value): value for value in values})
        what_if._rules = (rule,)
        what_if._packing.follow(rule)
        return what_if._run_out()

    def _run_out(self) -> float:
        self.handle(elapsed_s=self._elapsed_s, wall_s=self._wall_s)
        while (end := self._packing.next_end()) is not None:
            self._elapsed_s = max(self._elapsed_s, end[0])
            while end is not None and end[0] <= self._elapsed_s:
                self._apply(Ended(name=end[1]))
                end = self._packing.next_end()
            self.handle(elapsed_s=self._elapsed_s, wall_s=self._wall_s)
        return math.inf if len(self._queue) else self._elapsed_s

    def _is_packed(self, kind: Kind) -> bool:
        """Whether a kind is chosen by what it makes of a card; not where it goes first or was passed over for long."""
        if kind.passed_over >= self._max_overtaken * MAX_TENANTS * self._capacity.gpus:
            kind.overtaken = max(kind.overtaken, self._max_overtaken)
            return False
        is_later, *_ = kind.keys[0]
        return bool(is_later and kind.takes_one_card and not kind.key.avoid and kind.is_possible)

    def _hold(self, granted: Granted) -> Allocation:
        self._not_placed.pop(granted.request.name, None)
        allocation = self._capacity.allocation(granted.request.name, granted.alternative, granted.slot)
        self._add_held(granted.request, allocation, granted.slot, granted.age)
        self._packing.started(granted.request, allocation, self._elapsed_s)
        return allocation

    def _restore(self, event: Restored) -> None:
        """Holds again what an earlier broker granted; where that is not free any more, it holds no room."""
        request, allocation = event.request, event.allocation
        self._forget(request.name)
        sweep = self._sweeps.setdefault(request.sweep, SweepUse())
        sweep.count, sweep.gpus = sweep.count + 1, sweep.gpus + allocation.alternative.gpus
        held = self._add_held(request, allocation, self._taken_slot(allocation), self._queue.new_age())
        held.started = event.started
        if held.slot is None:
            self._lost.append(held)
        self._packing.started(request, allocation, self._elapsed_s)

    def _add_held(self, request: Request, allocation: Allocation, slot: Slot | None, age: int) -> Held:
        self._allocated += 1
        held = self._held[request.name] = Held(
            request=request,
            allocation=allocation,
            slot=slot,
            age=age,
            number=self._allocated,
            member=self._sweeps[request.sweep].member,
            since_s=self._wall_s,
        )
        return held

    def _taken_slot(self, allocation: Allocation) -> Slot | None:
        slot = self._capacity.slot_of(allocation)
        if slot is None or not self._capacity.has(allocation.alternative, slot):
            return None
        self._capacity.take(allocation.alternative, slot)
        return slot

    def _rebuild(self, inventory: Inventory) -> None:
        """Counts anew on other nodes; what was reserved is reserved again when somebody is overtaken."""
        self._inventory = inventory
        self._capacity, self._empty = Capacity(inventory, self._demand), Capacity(inventory)
        for kind in self._queue.kinds():
            kind.is_possible, kind.kept = None, frozenset()
        for held in self._held.values():
            held.slot = self._taken_slot(held.allocation)
            if held.slot is None:
                self._lost.append(held)
        self._capacity.set_others(self._others_gpus)

    def _forget(self, name: str) -> Held | None:
        """Takes a request out of the queue, or takes back what it holds."""
        self._not_placed.pop(name, None)
        if name in self._queue:
            self._queue.remove(name)
        held = self._held.pop(name, None)
        if held is not None:
            sweep = self._sweeps[held.request.sweep]
            sweep.count, sweep.gpus = sweep.count - 1, sweep.gpus - held.gpus
            self._packing.ended(name, self._elapsed_s)
            if held.slot is not None:
                self._capacity.give_back(held.allocation.alternative, held.slot)
        return held

    def _return(self, name: str, reason: str) -> None:
        held = self._forget(name)
        if held is not None:
            avoid = frozenset(held.allocation.nodes)
            self._queue.add(held.request, age=held.age, avoid=avoid)
            self._not_placed[name] = (self._elapsed_s + AVOID_S, f"{', '.join(sorted(avoid))}: {reason}")

    def _end_avoidance(self) -> None:
        for name, (until_s, _) in tuple(self._not_placed.items()):
            if until_s <= self._elapsed_s:
                request, age = self._queue.request(name), self._queue.age(name)
                self._forget(name)
                self._queue.add(request, age=age)

    def _refuse(self) -> tuple[Refusal, ...]:
        """Refuses requests for which no node has been large enough for a while."""
        refused = []
        for kind in self._queue.kinds():
            if self._is_possible(kind):
                kind.homeless_since_s = None
                continue
            if kind.homeless_since_s is None:
                kind.homeless_since_s = self._elapsed_s
            if self._elapsed_s - kind.homeless_since_s >= self._refuse_after_s:
                refused += [self._queue.request(name) for *_, name in kind.keys]
        for request in refused:
            self._forget(request.name)
        return tuple(Refusal(name=one.name, reason=explain_refused(one, self._inventory)) for one in refused)

    def _is_possible(self, kind: Kind) -> bool:
        if kind.is_possible is None:
            alternatives = self._queue.head(kind).alternatives
            kind.is_possible = any(self._empty.find(alternative) is not None for alternative in alternatives)
        return kind.is_possible

    def _quota_use(self) -> QuotaUse | None:
        if self._team is None:
            return None
        held_gpus: defaultdict[str, float] = defaultdict(float)
        for sweep in self._sweeps.values():
            held_gpus[sweep.member] += sweep.gpus
        return QuotaUse(self._team, datetime.fromtimestamp(self._wall_s, tz=UTC), held_gpus)

    def _pauses(self, use: QuotaUse | None, unserved: Sequence[Kind]) -> Iterator[Pause]:
        """Names allocations on nodes that are gone, and borrowed ones that somebody inside a quota waits for."""
        for held in self._lost:
            if held.request.name in self._held and held.slot is None and not held.pause_reason:
                yield _pause(
                    held, f"{', '.join(held.allocation.nodes)} left the cluster, or has no room for it any more"
                )
        self._lost.clear()
        if use is None:
            return
        borrowed = [one for one in use.borrowed(self._held.values()) if not one.pause_reason]
        if not use.team.lend_idle:
            for held in borrowed:
                yield _pause(held, f"{use.describe(held.member)}{use.until()}")
            return
        freed: Counter[int] = Counter()
        for held in self._held.values():
            if held.pause_reason and held.slot is not None:
                freed.update(dict.fromkeys(held.slot.cards, held.card_units))
        for kind, count in use.entitled(unserved, self._sweeps) if borrowed or freed else ():
            owner = self._sweeps[kind.key.sweep].member
            for _ in range(count):
                own = [one for one in self._queue.head(kind).alternatives if use.is_own(owner, one.gpus)]
                found = choose_returns(own, self._capacity, borrowed, freed)
                if found is None:
                    break
                kind.kept |= self._capacity.names(found[0])
                for held in found[1]:
                    borrowed.remove(held)
                    yield _pause(held, f"{use.describe(held.member)} and {owner} asked for what is theirs{use.until()}")


def _pause(held: Held, reason: str) -> Pause:
    held.pause_reason = reason
    return Pause(name=held.request.name, reason=reason)
