"""Keeps a Ray of one machine on the loopback.

Ray listens only to the loopback where a node's address is 127.0.0.1. But it replaces a given 127.0.0.1 by the machine's
outer address, so that other machines can join, and then listens to the network (Ray 2.60). The variable SINGLE_MACHINE,
meant for Windows and macOS, makes it keep the loopback. Ray reads it on import. With it `ray start` starts no second
raylet.
"""

import os
import sys

from tuning_common.errors import WorkError

LOOPBACK = "127.0.0.1"
SINGLE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0": Ray stays on this machine's loopback


def prefer_loopback() -> None:
    """Sets the variable unless this process will join a multi-machine cluster; call it before importing Ray."""
    address = os.environ.get("RAY_ADDRESS")
    if address is None or is_loopback(address):
        os.environ[SINGLE_MACHINE] = "0"


def keep_loopback() -> None:
    """Makes Ray keep 127.0.0.1, in this process and its child processes.

    Raises:
        WorkError: When Ray was imported without the variable and this machine has an outer address.
    """
    was_imported = "ray" in sys.modules
    os.environ[SINGLE_MACHINE] = "0"
    import ray

    if was_imported and not ray.is_initialized() and ray.util.get_node_ip_address() != LOOPBACK:
        raise WorkError(
            "Ray was imported before it was limited to this machine's loopback, and would listen to the network;"
            f" start the program with {SINGLE_MACHINE}=0"
        )


def is_loopback(address: str | None) -> bool:
    """Returns whether a cluster's address ("IP:PORT", or "auto") is this machine's loopback.

    >>> [is_loopback(address) for address in ("127.0.0.1:6379", "10.0.0.1:6379", "auto", None)]
    [True, False, False, False]
    """
    return address is not None and address.rpartition(":")[0] == LOOPBACK
