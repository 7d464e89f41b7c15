"""A cluster of several raylets without labels of ours, as `ray start --num-gpus` makes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

LOOPBACK = "127.0.0.2"  # Ray would replace 127.0.0.1 by an address that others can reach
OPTIONS = {"include_dashboard": False, "node_ip_address": LOOPBACK, "object_store_memory": 100 * 2**20}


@contextmanager
def plain_cluster(*gpus: int) -> Iterator["Cluster"]:
    """Starts a head without GPUs, and a raylet for each number of logical GPUs; connects to it."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=2, num_gpus=0, **OPTIONS)
        for count in gpus:
            cluster.add_node(num_cpus=4, num_gpus=count, **OPTIONS)
        ray.init(cluster.address, _node_ip_address=LOOPBACK, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def node_ids() -> list[str]:
    """Ids of the nodes with GPUs, those with most first."""
    import ray

    nodes = sorted(ray.nodes(), key=lambda entry: -entry["Resources"].get("GPU", 0))
    return [entry["NodeID"] for entry in nodes if entry["Alive"] and entry["Resources"].get("GPU")]
