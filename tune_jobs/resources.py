"""From a run configuration to its place in Ray: memory plan, share of a card, node labels; or why there is none."""

import os
from dataclasses import dataclass

from cluster.hardware import Inventory, Node
from cluster.host_placement import HostNeed, choose_hosts
from cluster.placement import Refusal
from common.errors import RequestError
from dialsum.config import RunConfig
from tune_jobs.order_factory import Placed
from tune_jobs.orders import Bundle
from tune_jobs.recovery import RunShape

_HOST_BYTES = 2 * 2**30  # a trial's process with torch, transformers and Kiwi's model, measured at 1.2 GiB


@dataclass(frozen=True, kw_only=True)
class HostPlacer:
    """Places trials by CPUs and host memory: machines without a GPU.

    Attributes:
        inventory: What there is.
        cpus: Logical CPUs of one trial.
        simulated: Never: these CPUs are real.
    """

    inventory: Inventory
    cpus: float
    simulated: bool = False

    def place(self, name: str, config: RunConfig) -> Placed:
        """Returns a bundle without a card; see order_factory.Placer."""
        found = choose_hosts(HostNeed(name=name, cpus=self.cpus, host_bytes=_HOST_BYTES), self.inventory)
        if isinstance(found, Refusal):
            raise RequestError(str(found))
        shape = RunShape(
            micro_batch=config.micro_batch,
            accumulation=config.gradient_accumulation_steps,
            gradient_checkpointing=config.gradient_checkpointing,
        )
        return Placed(bundle=Bundle(cpus=self.cpus), shape=shape)


def this_host() -> Node:
    """Describes this machine without its cards."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Node(name="this-machine", cpus=float(len(os.sched_getaffinity(0))), memory_bytes=pages * page_bytes)
