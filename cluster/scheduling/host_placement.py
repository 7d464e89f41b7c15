"""Placement on machines without a GPU: by CPUs and host memory. Pure; must not import Ray, NVML or torch."""

from dataclasses import dataclass

from cluster.machines.hardware import Inventory, Node
from cluster.scheduling.placement import Refusal
from common.units import format_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class HostNeed:
    """What a trial takes on a machine without a GPU.

    Attributes:
        name: The trial.
        cpus: CPUs that its threads keep busy.
        host_bytes: Upper estimate of its host memory.
    """

    name: str
    cpus: float
    host_bytes: int


def choose_hosts(need: HostNeed, inventory: Inventory) -> tuple[Node, ...] | Refusal:
    """Finds the nodes on which a trial can run without a GPU, the one that holds most of such trials first."""
    fitting = [node for node in inventory.nodes if node.cpus >= need.cpus and node.memory_bytes >= need.host_bytes]
    if fitting:
        return tuple(sorted(fitting, key=lambda node: (-host_slots(need, node), node.name)))
    most_cpus = max((node.cpus for node in inventory.nodes), default=0.0)
    most_bytes = max((node.memory_bytes for node in inventory.nodes), default=0)
    return Refusal(
        name=need.name,
        asked=f"{need.cpus:g} CPUs and {format_bytes(need.host_bytes)} of host memory on one machine",
        found=f"at most {most_cpus:g} CPUs and {format_bytes(most_bytes)}",
        remedies=("fewer cpu_threads", "a smaller batch, length or model"),
    )


def host_slots(need: HostNeed, node: Node) -> int:
    """Counts how many such trials a machine can hold at once, by CPUs and by host memory.

    >>> host_slots(HostNeed(name="a", cpus=1, host_bytes=2 * 2**30), Node(name="n", cpus=4, memory_bytes=5 * 2**30))
    2
    """
    by_cpus = int(node.cpus / need.cpus) if need.cpus > 0 else 10**6
    by_memory = node.memory_bytes // need.host_bytes if need.host_bytes > 0 else 10**6
    return min(by_cpus, by_memory)
