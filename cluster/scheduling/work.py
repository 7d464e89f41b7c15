"""One scheduling pass: what it works on and what it grants. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.scheduling.capacity import Capacity, Slot
from cluster.scheduling.held import SweepUse
from cluster.scheduling.queue import Kind, Queue
from cluster.scheduling.quota_use import QuotaUse
from cluster.scheduling.request import Alternative, Request


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
        max_overtaken: How many later requests may get room that an earlier one could have used.
        granted: Requests that start.
        unserved: Kinds that quotas allow to start and for which there was no room, in order.
        closed: Names of nodes that are kept for one of these; those after it do not start there.
    """

    queue: Queue
    capacity: Capacity
    sweeps: Mapping[str, SweepUse]
    use: QuotaUse | None
    max_overtaken: int
    granted: list[Granted] = field(default_factory=list)
    unserved: list[Kind] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)

    def allowed(self, request: Request, *, borrows: bool) -> Sequence[Alternative]:
        """Returns the alternatives inside the member's quota, or those that it may borrow."""
        member = self.sweeps[request.sweep].member
        return [one for one in request.alternatives if self.allows(member, one.gpus, borrows=borrows)]

    def allows(self, member: str, gpus: float, *, borrows: bool) -> bool:
        """Whether a member may take so many more GPUs: inside the quota, or beyond it what nobody waits for."""
        if self.use is None:
            return not borrows
        if not borrows or self.use.is_own(member, gpus):
            return not borrows and self.use.is_own(member, gpus)
        return gpus <= self.use.lendable_gpus(member, self.capacity.free_gpus, self.unserved, self.sweeps)

    def grant(self, kind: Kind, alternative: Alternative, slot: Slot) -> Granted:
        """Starts the first request of a kind; those that wait for room on its model were overtaken."""
        age = self.queue.age(self.queue.head(kind).name)
        granted = Granted(request=self.queue.pop(kind), age=age, alternative=alternative, slot=slot)
        self.capacity.take(alternative, slot)
        self.granted.append(granted)
        sweep = self.sweeps[kind.key.sweep]
        sweep.count, sweep.gpus = sweep.count + 1, sweep.gpus + alternative.gpus
        if self.use is not None:
            self.use.take(sweep.member, alternative.gpus)
        if kind in self.unserved:
            self.unserved.remove(kind)
        for other in self.unserved:
            if alternative.model in other.models:
                other.overtaken += 1
                self.keep(other)
        return granted

    def keep(self, kind: Kind) -> None:
        """Keeps a node for a kind that was overtaken too often, or for which borrowed GPUs come back."""
        if kind.overtaken >= self.max_overtaken and not kind.kept:
            options = []
            for number, alternative in enumerate(self.queue.head(kind).alternatives):
                soonest = self.capacity.soonest(alternative)
                if soonest is not None:
                    options.append((soonest[0], number, soonest[1]))
            if options:
                kind.kept = self.capacity.names(min(options, key=lambda option: option[:2])[2])
        self.closed |= kind.kept
