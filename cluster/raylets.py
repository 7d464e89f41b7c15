"""How a machine joins a cluster: one raylet for each GPU model in it, as Ray's labels are those of a node. Pure."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.hardware import Node

GCS_PORT = 6379
METRICS_PORT = 8090  # of the machine's first raylet; the next ones count up
_FIRST_WORKER_PORT, _PORTS_A_RAYLET = 20002, 1000
_OBJECT_STORE_PART = 0.1  # trials exchange metrics and paths, not tensors; Ray's default is 0.3


@dataclass(frozen=True, kw_only=True)
class Start:
    """One `ray start`.

    Attributes:
        arguments: Without the program's name.
        environment: Beside the machine's own.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def shell(self) -> str:
        """The command for a person to read, or for a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())]
        return " ".join([*settings, "ray", *(shlex.quote(argument) for argument in self.arguments)])


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """What only the head needs.

    Attributes:
        state_dir: A folder on a disk that survives: Ray's embedded RocksDB keeps the cluster's state there, so that a
            head that is started again finds its trials.
        dashboard_host: Loopback, so that nothing listens beyond the machine; reach it through an SSH tunnel.
        autoscaling_config: Given by `ray up`; None without it.
    """

    state_dir: str
    dashboard_host: str = "127.0.0.1"
    autoscaling_config: str | None = None


def raylet_starts(
    nodes: Sequence[Node], *, ip: str, head: HeadOptions | None = None, head_address: str | None = None
) -> tuple[Start, ...]:
    """Lists the raylets of one machine.

    Args:
        nodes: The machine's inventory, one node for each GPU model (hardware.split_by_model), each with its part of
            CPUs and memory; one node without cards where there is no GPU.
        ip: Address of the machine in the cluster's network; nothing listens elsewhere.
        head: Options of the head, on the head's machine.
        head_address: "ip:port" of the head, on every other machine.

    Returns:
        The head's raylet first. Each sees only its own cards, carries their labels and has its own ports.

    >>> from cluster.hardware import Card
    >>> card = Card(model="L4", total_bytes=24 * 2**30, uuid="GPU-1")
    >>> node = Node(name="a", cards=(card,), cpus=8, memory_bytes=2**34)
    >>> raylet_starts([node], ip="10.0.0.2", head_address="10.0.0.1:6379")[0].arguments[:3]
    ('start', '--address=10.0.0.1:6379', '--node-ip-address=10.0.0.2')
    """
    assert (head is None) != (head_address is None), "a machine is the head or joins one"
    address = head_address or f"{ip}:{GCS_PORT}"
    return tuple(
        _start(node, index, nodes, ip, address, head if index == 0 else None) for index, node in enumerate(nodes)
    )


def _start(node: Node, index: int, nodes: Sequence[Node], ip: str, address: str, head: HeadOptions | None) -> Start:
    first_port = _FIRST_WORKER_PORT + index * _PORTS_A_RAYLET
    arguments = ["start"]
    arguments += ["--head", f"--port={GCS_PORT}"] if head else [f"--address={address}"]
    arguments += [
        f"--node-ip-address={ip}",
        f"--num-cpus={max(1, int(node.cpus))}",
        f"--num-gpus={len(node.cards)}",
        f"--object-store-memory={max(100 * 2**20, int(node.memory_bytes * _OBJECT_STORE_PART))}",
        f"--metrics-export-port={METRICS_PORT + index}",
        f"--min-worker-port={first_port}",
        f"--max-worker-port={first_port + _PORTS_A_RAYLET - 3}",
        "--disable-usage-stats",
    ]
    if node.labels:
        arguments.append("--labels=" + ",".join(f"{name}={value}" for name, value in sorted(node.labels.items())))
    environment = {"RAY_AUTH_MODE": "token"}
    if len(nodes) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(card.uuid for card in node.cards)
    if head:
        arguments += [f"--dashboard-host={head.dashboard_host}"]
        arguments += [f"--autoscaling-config={head.autoscaling_config}"] if head.autoscaling_config else []
        # Ray 2.60: autoscaler v2 starts one worker only with the provider `local`; the state survives in RocksDB.
        environment |= {
            "RAY_enable_autoscaler_v2": "0",
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": head.state_dir,
        }
    return Start(arguments=tuple(arguments), environment=environment)
