"""What the broker knows of a sweep, and of an allocation while it is held. Plain values."""

from dataclasses import dataclass

from cluster.scheduling.capacity import Slot
from cluster.scheduling.request import Allocation, Request


@dataclass(slots=True)
class SweepUse:
    """A sweep that submits requests.

    Attributes:
        member: Whose quota it uses; empty where it has none.
        max_concurrent: The most of its trials that may run at a time.
        count: Allocations that it holds.
        gpus: GPUs that it holds.
    """

    member: str = ""
    max_concurrent: int | None = None
    count: int = 0
    gpus: float = 0.0

    @property
    def is_full(self) -> bool:
        """Whether as many of its trials run as may."""
        return self.max_concurrent is not None and self.count >= self.max_concurrent


@dataclass(slots=True)
class Held:
    """An allocation that is held.

    Attributes:
        request: What was asked for.
        allocation: What was granted.
        slot: Where in the capacity; None where a node of it left the cluster.
        age: Of the request in the queue.
        number: Counts allocations; the youngest has the largest.
        member: Whose quota it uses.
        since_s: Unix seconds at which it was granted.
        started: Whether its process runs.
        pause_reason: Why it should be given back; empty where it may continue.
    """

    request: Request
    allocation: Allocation
    slot: Slot | None
    age: int
    number: int
    member: str
    since_s: float
    started: bool = False
    pause_reason: str = ""

    @property
    def gpus(self) -> float:
        """GPUs that it holds."""
        return self.allocation.alternative.gpus

    @property
    def card_units(self) -> int:
        """Units that it holds of each of its cards."""
        share = self.allocation.alternative.share
        return share.units if share else 0
