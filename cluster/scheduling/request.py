"""What a trial asks for, and what it was granted. Plain values; must not import Ray, NVML or torch."""

from dataclasses import dataclass

from cluster.scheduling.shares import UNITS, Share


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """One possibility to run a trial: on cards of one GPU model, or on CPUs alone.

    Attributes:
        model: Label of the GPU model; empty where the trial runs on CPUs.
        share: What it holds of the model's cards; None where it runs on CPUs.
        cpus: Logical CPUs of all its processes together.
        host_bytes: Host memory of all its processes together.
        upper_bytes: Upper estimate of its device bytes on each card.
        cap_bytes: What it may hold on each card before it is stopped; at least upper_bytes.
        expected_s: Expected duration alone on this model; None where nobody knows.
        busy: Part of a card's compute that it keeps busy alone; None where nobody knows.
        spread: Whether its cards may lie in several machines.
    """

    model: str
    share: Share | None
    cpus: float
    host_bytes: int = 0
    upper_bytes: int = 0
    cap_bytes: int = 0
    expected_s: float | None = None
    busy: float | None = None
    spread: bool = False

    @property
    def gpus(self) -> float:
        """What Ray is asked for; 0 where the trial runs on CPUs.

        >>> Alternative(model="A40", share=Share(units=5000), cpus=1).gpus
        0.5
        """
        return self.share.gpus if self.share else 0.0

    @property
    def cards(self) -> int:
        """Number of cards; 0 where the trial runs on CPUs."""
        return self.share.cards if self.share else 0

    @property
    def units(self) -> int:
        """Units that it holds of all its cards together (see shares.UNITS)."""
        return self.share.units * self.share.cards if self.share else 0

    @property
    def bundles(self) -> int:
        """Number of processes, each with an equal part of CPUs and host memory."""
        return max(1, self.cards)

    @property
    def bundle_cpu_units(self) -> int:
        """CPUs of one process in 1/10,000, Ray's own granularity."""
        return round(self.cpus * UNITS / self.bundles)

    @property
    def bundle_host_bytes(self) -> int:
        """Host memory of one process."""
        return self.host_bytes // self.bundles

    @property
    def footprint(self) -> tuple[str, int, int, int, int, bool]:
        """What it takes: alternatives of equal footprints fit on the same nodes."""
        share = self.share
        units, cards = (share.units, share.cards) if share else (0, 0)
        return (self.model, units, cards, self.bundle_cpu_units, self.bundle_host_bytes, self.spread)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A trial that wants to run.

    Attributes:
        name: Unique on the cluster.
        sweep: Whose trial it is.
        alternatives: Every possibility to run it; it gets one of them.
        first: Whether it goes before the other requests of its sweep.
    """

    name: str
    sweep: str
    alternatives: tuple[Alternative, ...]
    first: bool = False

    @property
    def quickest_s(self) -> float | None:
        """Its shortest expected duration; None where nobody knows it for every alternative."""
        found = [one.expected_s for one in self.alternatives if one.expected_s is not None]
        return min(found) if found and len(found) == len(self.alternatives) else None

    @property
    def least_gpus(self) -> float:
        """The fewest GPUs with which it can run."""
        return min((one.gpus for one in self.alternatives), default=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class CardUse:
    """What runs on the card of an allocation, itself included.

    Attributes:
        tenants: Trials, also of other sweeps.
        slowdown: How much longer each takes than alone, as packing assumes; None where a busy part is not known.
    """

    tenants: int
    slowdown: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """A request that was granted.

    Attributes:
        name: The request.
        alternative: How it runs.
        nodes: Name of the node of each bundle: one for each card of several, else exactly one.
        cards: Index of each card on its node, as the broker models it; Ray chooses the real one.
    """

    name: str
    alternative: Alternative
    nodes: tuple[str, ...]
    cards: tuple[int, ...] = ()
