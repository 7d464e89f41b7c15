"""What the broker takes in (events) and gives out (decisions). Plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.machines.hardware import Inventory
from cluster.scheduling.quotas import Team
from cluster.scheduling.request import Allocation, Request


@dataclass(frozen=True, kw_only=True, slots=True)
class NodesChanged:
    """The nodes of the cluster, as they are from now on."""

    inventory: Inventory


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeUse:
    """GPUs that Ray counts as used by others on each node; a node that is not named is free of others."""

    gpus: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class QuotasChanged:
    """The quotas that are in force from now on; None where everybody may use everything."""

    team: Team | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepJoined:
    """A sweep will submit requests.

    Attributes:
        sweep: Its name, unique on the cluster.
        member: Whose quota it uses.
        max_concurrent: The most of its trials that may run at a time.
    """

    sweep: str
    member: str | None = None
    max_concurrent: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepLeft:
    """A sweep is over, or silent for too long: everything that it holds or asks for is gone."""

    sweep: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """A request joins the queue; ignored where its name is queued or held already."""

    request: Request


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """A request holds what an earlier broker granted.

    Attributes:
        request: As it was submitted.
        allocation: As it was granted.
        started: Whether its process runs.
    """

    request: Request
    allocation: Allocation
    started: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdrawn:
    """A request is not wanted any more; gives back what it was granted."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The process of an allocated request runs."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NotPlaced:
    """Ray did not place an allocated request: it returns to the queue, and is kept off these nodes for a while."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """An allocated request holds nothing any more."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """Nothing but time has passed."""


Event = (
    NodesChanged
    | NodeUse
    | QuotasChanged
    | SweepJoined
    | SweepLeft
    | Submitted
    | Restored
    | Withdrawn
    | Started
    | NotPlaced
    | Ended
    | Tick
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """An allocation that should be checkpointed and given back; it holds its share until it ended."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A request that no node of the present inventory can ever hold; it left the queue."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisions:
    """What follows from events.

    Attributes:
        allocations: Requests that may start now, each once.
        pauses: Allocations to give back, each once.
        refusals: Requests that can never run.
    """

    allocations: tuple[Allocation, ...] = field(default=())
    pauses: tuple[Pause, ...] = field(default=())
    refusals: tuple[Refusal, ...] = field(default=())
