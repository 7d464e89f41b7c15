"""The one node of the shared Ray of conftest.py, as the product would see it."""

from dataclasses import replace

from cluster.machines.hardware import Inventory, parse_simulated


def two_cards() -> Inventory:
    """Returns its two cards of 24 GiB; this process is connected."""
    import ray

    (node,) = parse_simulated("2x24GiB").nodes
    name = str(ray.get_runtime_context().get_node_id())
    return Inventory(nodes=(replace(node, name=name, cpus=4.0, memory_bytes=64 * 2**30),), simulated=True)
