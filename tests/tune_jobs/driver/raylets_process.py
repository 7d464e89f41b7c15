"""Three raylets on this machine in a process of their own: prints the address, then kills the node named on each line.

Run as: python raylets_process.py
"""

import sys

from ray.cluster_utils import Cluster


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    cluster = Cluster()
    options = {"include_dashboard": False, "node_ip_address": "127.0.0.2", "object_store_memory": 100 * 2**20}
    nodes = [cluster.add_node(num_cpus=cpus, **options) for cpus in (0, 1, 1)]
    say(cluster.address)
    for line in sys.stdin:
        lost = next(node for node in nodes if node.node_id == line.strip())
        cluster.remove_node(lost, allow_graceful=False)  # kill -9 of the raylet and its workers
        say("killed")
    cluster.shutdown()


if __name__ == "__main__":
    main()
