"""A Ray of one machine that only this machine reaches.

Ray listens to the loopback alone where a node's address is 127.0.0.1. But it puts the machine's outer address in the
place of a 127.0.0.1 that it is given, so that other machines could join, and then listens to everybody (Ray 2.60,
_private/services.py, resolve_ip_for_localhost). Here nobody shall join.

    python -m cluster.machines.loopback start --head --node-ip-address=127.0.0.1   # as `ray start`
"""

import os
import sys

LOOPBACK = "127.0.0.1"


def keep_loopback() -> None:
    """Makes Ray take 127.0.0.1 for what it says: as a node's address, and as that of a cluster.

    In this process by what it would ask for the outer address, and in those that it starts, and that they start, by the
    variable that says so on Windows and macOS. (Read when Ray is imported; here it would forbid a second raylet.)
    """
    from ray._private import ray_constants, services

    services.resolve_ip_for_localhost = _as_given
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"


def is_loopback(address: str | None) -> bool:
    """Whether a cluster's address ("IP:PORT", or "auto") names this machine's loopback.

    >>> [is_loopback(address) for address in ("127.0.0.1:6379", "10.0.0.1:6379", "auto", None)]
    [True, False, False, False]
    """
    return address is not None and address.rpartition(":")[0] == LOOPBACK


def _as_given(host: str) -> str:
    return host


if __name__ == "__main__":
    keep_loopback()
    from ray.scripts.scripts import main

    sys.exit(main())
