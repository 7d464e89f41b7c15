"""A driver process for tests of the broker's process: python broker_driver.py ADDRESS SWEEP TRIALS.

Submits requests of a whole simulated card and prints each decision.
"""

import sys
import time

import ray

from cluster.machines.node_watch import ray_cluster
from cluster.scheduling.alternatives import Need, find_alternatives
from cluster.scheduling.broker_process import cluster_broker
from cluster.scheduling.request import Request


def main(address: str, sweep: str, trials: int) -> None:
    """Polls until it is killed."""
    ray.init(address, _node_ip_address=address.partition(":")[0], log_to_driver=False, logging_level="ERROR")
    found = find_alternatives((Need(upper_bytes=23 * 2**30, cpus=0.5),), ray_cluster().inventory)
    client = cluster_broker(sweep=sweep)
    client.open()
    for number in range(1, trials + 1):
        client.submit(Request(name=f"{sweep}/{number}", sweep=sweep, alternatives=found))
    while True:
        decided = client.poll()
        for one in decided.allocations:
            sys.stdout.write(f"starts {one.name}\n")
            client.started(one.name)
        for pause in decided.pauses:
            sys.stdout.write(f"pauses {pause.name}\n")
            client.ended(pause.name)
        sys.stdout.flush()
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
