"""Which broker a sweep asks: the one of the cluster at hand, or one in this process."""

import os
import socket
import time

from cluster.machines.hardware import Inventory
from cluster.scheduling.broker_client import BrokerClient, LocalBroker
from tune_jobs.config.sweep import Sweep
from tune_jobs.driver.sweep_parts import Clocks


def sweep_key(sweep: Sweep) -> str:
    """Returns a name that is unique on a cluster: two members may call their sweeps alike."""
    return f"{sweep.name}@{socket.gethostname()}:{os.getpid()}:{time.time():.0f}"


def open_broker(
    sweep: Sweep, key: str, inventory: Inventory, clocks: Clocks, *, max_concurrent: int | None
) -> BrokerClient:
    """Opens the broker.

    Args:
        sweep: Its member and models matter where there are quotas.
        key: See sweep_key.
        inventory: What there is, with Ray's node ids.
        clocks: For an embedded broker.
        max_concurrent: Trials of the sweep that may run at a time; None for no limit.

    Raises:
        RequestError: When the sweep is refused.
        WorkError: When no broker answers.
    """
    broker = LocalBroker(
        inventory, sweep=key, max_concurrent=max_concurrent, elapsed_s=clocks.elapsed_s, now=clocks.now
    )
    broker.open()
    return broker
