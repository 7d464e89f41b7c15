"""A Ray to run on: the cluster that this process was started for, or an embedded one for as long as the sweep takes."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.machines.connection import connected_to
from cluster.machines.hardware import Inventory, Node
from cluster.machines.loopback import LOOPBACK, keep_loopback
from cluster.machines.ray_folder import private_ray
from cluster.machines.tokens import AUTH_MODE, TOKEN_VARIABLE, make_token, token_path
from tune_jobs.driver.ray_watch import end_without
from tune_jobs.driver.stop_signals import without_terminal_signals
from tuning_common.errors import RequestError, WorkError

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

_OBJECT_STORE_BYTES = 256 * 2**20  # trials exchange metrics and paths, no tensors; Ray's default is 30 % of the memory
_QUIET: dict[str, object] = {"logging_level": logging.ERROR, "log_to_driver": False}
_STOP_WAIT_S = "120"  # `ray job stop` kills after 3 s by default; a clean stop writes its state and report first
_NUMBER_LABEL = "tuning-node"  # finds the nodes of an embedded Ray again


def attached() -> bool:
    """Whether a cluster is running: `ray job submit` and `ray start` set RAY_ADDRESS for their drivers."""
    if os.environ.get("RAY_ADDRESS"):  # before the import, which reads how to authenticate: see connected_to
        return True
    import ray

    return bool(ray.is_initialized())


@contextmanager
def connected() -> Iterator[None]:
    """Connects to the running cluster, unless this process is connected already.

    Raises:
        RequestError: When RAY_ADDRESS leads nowhere, or the cluster refuses this process.
    """
    _prepare()
    with connected_to(os.environ.get("RAY_ADDRESS") or "auto"):
        yield


@contextmanager
def looking_at(address: str | None) -> Iterator[bool]:
    """Connects to a cluster to look at it.

    Args:
        address: "IP:PORT", or "auto" on one of its machines; where None, the one that RAY_ADDRESS names. (Not found by
            itself: Ray would take any head that this machine's process list shows and wait minutes for it.)

    Yields:
        Whether there is a cluster.

    Raises:
        RequestError: When nothing answers there.
    """
    if address is None and not attached():
        yield False
        return
    with connected_to(address) if address else connected():
        yield True


@contextmanager
def session(inventory: Inventory, show_dashboard: Callable[[str], None] | None = None) -> Iterator[Inventory]:
    """Starts an embedded Ray that looks like the inventory, unless this process is connected already.

    Args:
        inventory: Nodes, cards and labels; a simulated card becomes a GPU that only Ray counts.
        show_dashboard: Shows the address of Ray's dashboard, which is started with it; None: it is not started.

    Yields:
        The inventory with Ray's node ids as names.

    Raises:
        WorkError: When Ray does not start.
    """
    import ray

    if ray.is_initialized():
        yield inventory
        return
    _prepare()
    with _embedded(inventory, show_dashboard) as named:
        yield named


def own_token(environment: Mapping[str, str], home: Path) -> None:
    """Makes a token before Ray does: Ray 2.60 writes a missing one readable for every user of the machine."""
    path = token_path(environment, home)
    if environment.get(TOKEN_VARIABLE) or path.exists():
        return
    with suppress(OSError, RequestError):  # a home that cannot be written; another process was quicker
        make_token(path)


def _prepare() -> None:
    own_token(os.environ, Path.home())
    os.environ.setdefault("RAY_JOB_STOP_WAIT_TIME_S", _STOP_WAIT_S)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and Ray's forks do not go together


@contextmanager
def _embedded(inventory: Inventory, show_dashboard: Callable[[str], None] | None) -> Iterator[Inventory]:
    import ray

    nodes = sorted(inventory.nodes, key=lambda node: node.name)
    keep_loopback()
    try:
        with private_ray(), without_terminal_signals():
            cluster, url = _start(nodes, simulated=inventory.simulated, dashboard=show_dashboard is not None)
    except Exception as error:  # Ray raises a plain one where the machine is slower than it waits
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WorkError(
            f"Ray did not start here: {first} The machine may be overloaded or out of memory: end other programs, or"
            " try again later; what the sweep has is kept"
        ) from error
    try:
        if show_dashboard is not None:
            show_dashboard(dashboard_text(url, os.environ, Path.home()))
        ids = {entry["Labels"].get(_NUMBER_LABEL): str(entry["NodeID"]) for entry in ray.nodes()}
        named = tuple(replace(node, name=ids[str(number)]) for number, node in enumerate(nodes))
        with end_without([node.name for node in named], _living_nodes):
            yield replace(inventory, nodes=named)
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()


def _living_nodes() -> list[str]:
    import ray

    try:
        return [str(entry["NodeID"]) for entry in ray.nodes() if entry["Alive"]]
    except Exception:  # Ray raises a plain one where its head is gone
        return []


def dashboard_text(url: str, environment: Mapping[str, str], home: Path) -> str:
    """Returns where Ray's dashboard is and what its token page asks for; never shows the token.

    >>> dashboard_text("127.0.0.1:8265", {}, Path("/home/minji"))
    "Ray's dashboard: http://127.0.0.1:8265 (it asks for the token: what `cat /home/minji/.ray/auth_token` prints)"
    """
    if environment.get(AUTH_MODE) == "disabled":
        return f"Ray's dashboard: http://{url}"
    where = "$RAY_AUTH_TOKEN" if environment.get("RAY_AUTH_TOKEN") else f"`cat {token_path(environment, home)}`"
    shown = f"the value of {where}" if where.startswith("$") else f"what {where} prints"
    return f"Ray's dashboard: http://{url} (it asks for the token: {shown})"


def _start(nodes: Sequence[Node], *, simulated: bool, dashboard: bool) -> "tuple[Cluster | None, str]":
    """Starts a raylet for each node and connects this process; one that has a raylet of its own has no Cluster.

    Returns:
        The cluster, and the address of its dashboard, empty where there is none.
    """
    import ray

    shown = {"include_dashboard": dashboard, "dashboard_host": LOOPBACK}
    if len(nodes) == 1:
        # More processes than cores would start if Ray counted all it sees: the inventory is what trials may use.
        context = ray.init("local", _node_ip_address=LOOPBACK, **shown, **_QUIET, **_resources(0, nodes[0]))
        return None, str(context.dashboard_url)
    from ray.cluster_utils import Cluster  # a node carries one GPU model's label, so unequal cards need a raylet each

    logging.getLogger("ray").setLevel(logging.ERROR)
    cluster = Cluster()
    for number, node in enumerate(nodes):
        visible = {} if simulated else {"env_vars": {"CUDA_VISIBLE_DEVICES": _indices(node)}}
        on_head = shown if number == 0 else {"include_dashboard": False}
        cluster.add_node(node_ip_address=LOOPBACK, **on_head, **_resources(number, node), **visible)
    context = ray.init(cluster.address, _node_ip_address=LOOPBACK, **_QUIET)
    return cluster, str(context.dashboard_url)


def _resources(number: int, node: Node) -> dict[str, object]:
    return {
        "num_cpus": node.cpus,
        "num_gpus": len(node.cards),
        "labels": node.labels | {_NUMBER_LABEL: str(number)},
        "object_store_memory": _OBJECT_STORE_BYTES,
    }


def _indices(node: Node) -> str:
    return ",".join(card.uuid or str(card.index) for card in node.cards)
