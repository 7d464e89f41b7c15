"""Which requests start now, and where: order, fairness between sweeps, backfill, reservations. Pure."""

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.scheduling.capacity import Capacity, Slot
from cluster.scheduling.held import Sweep
from cluster.scheduling.queue import Key, Kind, Queue
from cluster.scheduling.quota_use import QuotaUse
from cluster.scheduling.request import Alternative, Request

MAX_OVERTAKEN = 4  # later requests that may get room which an earlier one could have used


@dataclass(frozen=True, kw_only=True, slots=True)
class Granted:
    """A request that starts now.

    Attributes:
        request: It left the queue.
        age: That it had there.
        alternative: How it runs.
        slot: What it holds of the capacity.
    """

    request: Request
    age: int
    alternative: Alternative
    slot: Slot


@dataclass(kw_only=True, slots=True)
class Pass:
    """What one scheduling pass works on.

    Attributes:
        queue: Who waits.
        capacity: What is free.
        sweeps: By name.
        use: What members hold of their quotas; None where there are none.
        granted: Requests that start.
        unserved: Kinds that quotas allow to start and for which there was no room, in order.
    """

    queue: Queue
    capacity: Capacity
    sweeps: Mapping[str, Sweep]
    use: QuotaUse | None
    granted: list[Granted] = field(default_factory=list)
    unserved: list[Kind] = field(default_factory=list)


@dataclass(order=True, slots=True)
class _Entry:
    """A kind in the order of its sweep: what lies inside the quota goes before what is borrowed."""

    borrows: bool
    key: Key
    kind: Kind = field(compare=False)


class QueuePolicy:
    """Starts requests in their order, as far as there is room.

    Requests of a sweep go in the order in which they were submitted. Among sweeps, the one that holds least goes first.
    A later request starts when no earlier one can use what it takes (backfill). Among the GPU models with room a
    request goes where the smallest part of all cards is then held; among equals, where least was allocated so far. A
    kind whose first was overtaken too often gets a reservation: the cards on which least must still come free are kept
    for it. Requests beyond a quota get no reservation.

    Args:
        max_overtaken: How many later requests may get room that an earlier one could have used.
    """

    def __init__(self, *, max_overtaken: int = MAX_OVERTAKEN) -> None:
        self._max_overtaken = max_overtaken
        self._allocated_units: defaultdict[str, int] = defaultdict(int)

    def run(self, queue: Queue, capacity: Capacity, sweeps: Mapping[str, Sweep], use: QuotaUse | None) -> Pass:
        """Takes the requests that start now out of the queue, and what they hold from the capacity."""
        work = Pass(queue=queue, capacity=capacity, sweeps=sweeps, use=use)
        entries: dict[str, list[_Entry]] = defaultdict(list)
        for kind in queue.kinds():
            kind.waits_for = "concurrency"
            entries[kind.key.sweep].append(_Entry(False, kind.keys[0], kind))
        for some in entries.values():
            heapq.heapify(some)

        def turn(name: str) -> tuple[bool, float, int, Key]:
            first, sweep = entries[name][0], sweeps[name]
            return (first.borrows, sweep.gpus, sweep.count, first.key)

        while entries:
            name = min(entries, key=turn)
            if not sweeps[name].is_full:
                again = self._try(heapq.heappop(entries[name]), work)
                if again is not None:
                    heapq.heappush(entries[name], again)
            if sweeps[name].is_full or not entries[name]:
                del entries[name]
        return work

    def _try(self, entry: _Entry, work: Pass) -> _Entry | None:
        """Starts the first request of a kind if it can; returns where the kind comes again in this pass."""
        kind, request = entry.kind, work.queue.head(entry.kind)
        allowed = _allowed(request, entry.borrows, work)
        found = self._cheapest(allowed, kind, work.capacity)
        if found is not None:
            self._grant(kind, *found, work)
            return _Entry(False, kind.keys[0], kind) if kind.keys else None
        kind.waits_for = "room" if allowed else "quota"
        if allowed and not entry.borrows:
            work.unserved.append(kind)
        may_borrow = work.use is not None and not entry.borrows and len(allowed) < len(request.alternatives)
        return _Entry(True, entry.key, kind) if may_borrow else None

    def _cheapest(
        self, allowed: Sequence[Alternative], kind: Kind, capacity: Capacity
    ) -> tuple[Alternative, Slot] | None:
        options = []
        for number, alternative in enumerate(allowed):
            slot = capacity.find(alternative, owner=kind.key, avoid=kind.key.avoid)
            if slot is not None:
                held, allocated_units = capacity.part(alternative), self._allocated_units[alternative.model]
                allocated = allocated_units / max(1, capacity.cards_of(alternative.model))
                options.append(((held, allocated, alternative.model, number), alternative, slot))
        return min(options, key=lambda option: option[0])[1:] if options else None

    def _grant(self, kind: Kind, alternative: Alternative, slot: Slot, work: Pass) -> None:
        work.capacity.release(kind.key, slot)
        work.capacity.take(alternative, slot)
        self._allocated_units[alternative.model] += alternative.units
        name = work.queue.head(kind).name
        age = work.queue.age(name)
        work.granted.append(Granted(request=work.queue.pop(kind), age=age, alternative=alternative, slot=slot))
        sweep = work.sweeps[kind.key.sweep]
        sweep.count, sweep.gpus = sweep.count + 1, sweep.gpus + alternative.gpus
        if work.use is not None:
            work.use.take(sweep.member, alternative.gpus)
        if not kind.keys:
            work.capacity.release(kind.key)
        if kind in work.unserved:
            work.unserved.remove(kind)
        for other in work.unserved:
            if alternative.model in other.models:
                self._overtake(other, work)

    def _overtake(self, kind: Kind, work: Pass) -> None:
        kind.overtaken += 1
        if kind.overtaken < self._max_overtaken or work.capacity.reservations(kind.key):
            return
        options = []
        for number, alternative in enumerate(work.queue.head(kind).alternatives):
            soonest = work.capacity.soonest(alternative, owner=kind.key)
            if soonest is not None:
                options.append((soonest[0], number, alternative, soonest[1]))
        if options:
            _, _, alternative, slot = min(options, key=lambda option: option[:2])
            work.capacity.reserve(kind.key, alternative, slot)


def _allowed(request: Request, borrows: bool, work: Pass) -> Sequence[Alternative]:
    """Returns the alternatives inside the member's quota, or those that it may borrow."""
    use = work.use
    if use is None:
        return request.alternatives
    member = work.sweeps[request.sweep].member
    if not borrows:
        return [one for one in request.alternatives if use.is_own(member, one.gpus)]
    lendable_gpus = use.lendable_gpus(member, work.capacity.free_gpus, work.unserved, work.sweeps)
    beyond = [one for one in request.alternatives if not use.is_own(member, one.gpus)]
    return [one for one in beyond if one.gpus <= lendable_gpus]
