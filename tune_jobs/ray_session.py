"""A Ray to run on: the cluster that this process was started for, or an embedded one for as long as the sweep takes."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cluster.hardware import Inventory

_LOOPBACK = "127.0.0.1"
_OBJECT_STORE_BYTES = 256 * 2**20  # trials exchange metrics and paths, no tensors; Ray's default is 30 % of the memory
_STOP_WAIT_S = "30"  # `ray job stop` kills after 3 s by default; a clean stop writes its state first


def attached() -> bool:
    """Whether a cluster is at hand: `ray job submit` and `ray start` set RAY_ADDRESS for their drivers."""
    import ray

    return bool(os.environ.get("RAY_ADDRESS")) or ray.is_initialized()


@contextmanager
def session(inventory: Inventory) -> Iterator[None]:
    """Connects to the cluster at hand, or starts an embedded one that looks like the inventory.

    Args:
        inventory: Nodes, cards and labels; a simulated card becomes a logical GPU of Ray.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_JOB_STOP_WAIT_TIME_S", _STOP_WAIT_S)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and Ray's forks do not go together
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
        return
    with _embedded(inventory):
        yield


@contextmanager
def _embedded(inventory: Inventory) -> Iterator[None]:
    import ray

    nodes = sorted(inventory.nodes, key=lambda node: node.name)
    head, others = nodes[0], nodes[1:]
    cluster = None
    address = {}
    if others:  # a node carries one GPU model's label, so unequal cards need a raylet each
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        for node in nodes:
            cluster.add_node(
                num_cpus=node.cpus,
                num_gpus=len(node.cards),
                labels=node.labels,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                node_ip_address=_LOOPBACK,
            )
        address = {"address": cluster.address}
    else:
        address = {
            "address": "local",
            "num_cpus": head.cpus,
            "num_gpus": len(head.cards),
            "labels": head.labels,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_node_ip_address": _LOOPBACK,
        }
    ray.init(logging_level=logging.ERROR, log_to_driver=False, **address)
    try:
        yield
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()


@contextmanager
def clean_stop() -> Iterator[None]:
    """Lets SIGTERM (`ray job stop`, a batch system) end the sweep as Ctrl-C does: Tune stops cleanly and saves.

    Ray's own handler would end the process at once, up to half a minute of steps after the last saved state. So this
    is entered after Ray was started.
    """

    def forward(number: int, frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
