"""Which requests start now, and where: order, fairness between sweeps, backfill, reservations. Pure."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field, replace

from cluster.scheduling.capacity import Capacity, Slot
from cluster.scheduling.queue import Kind
from cluster.scheduling.request import Alternative
from cluster.scheduling.work import Pass

_NEAR = 0.2  # part by which models may cost more than the best one and count as equal, while half of all cards is free
_TINY = 1e-9


@dataclass(order=True, slots=True)
class _Entry:
    """A kind in the order of its sweep: what lies inside the quota goes before what is borrowed."""

    borrows: bool
    is_later: bool
    age: int
    kind: Kind = field(compare=False)


class QueuePolicy:
    """Starts requests in their order, as far as there is room.

    Requests of a sweep go in the order in which they were submitted. Among sweeps, the one that holds least goes first.
    A later request starts when no earlier one can use what it takes (backfill). Among the GPU models with room a
    request goes where the smallest part of all cards is then held; among equals, where least was allocated so far.
    Where nothing else waits, only models count on which it costs later ones about least (see fragmentation). A kind
    that was overtaken too often gets a reservation: the node on which least must still come free is kept for it, and
    nothing after it starts there. Requests beyond a quota get no reservation.
    """

    def __init__(self) -> None:
        self._allocated_units: defaultdict[str, int] = defaultdict(int)

    def run(self, work: Pass, kinds: Iterable[Kind]) -> None:
        """Grants what requests of these kinds get now."""
        entries: dict[str, list[_Entry]] = defaultdict(list)
        for kind in kinds:
            kind.waits_for = "concurrency"
            entries[kind.key.sweep].append(_entry(kind, work))
        for some in entries.values():
            heapq.heapify(some)

        sweeps = work.sweeps

        def turn(name: str) -> tuple[float | int, ...]:
            first, sweep = entries[name][0], sweeps[name]
            return (first.borrows, sweep.gpus, sweep.count, first.age)

        while entries:
            name = min(entries, key=turn)
            if not sweeps[name].is_full:
                again = self._try(heapq.heappop(entries[name]), work)
                if again is not None:
                    heapq.heappush(entries[name], again)
            if sweeps[name].is_full or not entries[name]:
                del entries[name]

    def _try(self, entry: _Entry, work: Pass) -> _Entry | None:
        """Starts the first request of a kind if it can; returns where the kind comes again in this pass."""
        kind, request = entry.kind, work.queue.head(entry.kind)
        allowed = work.allowed(request, borrows=entry.borrows)
        found = self._cheapest(allowed, kind.key.avoid | work.closed, work.capacity, is_last=len(work.queue) == 1)
        if found is not None:
            work.grant(kind, *found)
            self._allocated_units[found[0].model] += found[0].units
            return _entry(kind, work) if kind.keys else None
        kind.waits_for = "room" if allowed else "quota"
        if allowed and not entry.borrows:
            work.unserved.append(kind)
            work.keep(kind)
        may_borrow = work.use is not None and not entry.borrows and len(allowed) < len(request.alternatives)
        return replace(entry, borrows=True) if may_borrow else None

    def _cheapest(
        self, allowed: Sequence[Alternative], avoid: Set[str], capacity: Capacity, *, is_last: bool
    ) -> tuple[Alternative, Slot] | None:
        """Lets all models work while others wait, as those fill what a start spoils; then saves room for who comes."""
        options = []
        for number, alternative in enumerate(allowed):
            found = capacity.cheapest(alternative, avoid=avoid)
            if found is not None:
                held, allocated_units = capacity.part(alternative), self._allocated_units[alternative.model]
                allocated = allocated_units / max(1, capacity.cards_of(alternative.model))
                options.append((found[0], (held, allocated, alternative.model, number), alternative, found[1]))
        if is_last and options:
            free_gpus = capacity.free_gpus
            near = 1 + _NEAR * free_gpus / max(capacity.gpus - free_gpus, _TINY)
            most = near * min(option[0] for option in options)
            options = [option for option in options if option[0] <= most]
        return min(options, key=lambda option: option[1])[2:] if options else None


def _entry(kind: Kind, work: Pass) -> _Entry:
    head = work.queue.head(kind)
    return _Entry(False, not head.first, work.queue.age(head.name), kind)
