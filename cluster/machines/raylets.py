"""The `ray start` commands of a machine: one raylet per GPU model, as Ray's labels belong to a node. Pure."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.machines.hardware import Node
from cluster.machines.loopback import LOOPBACK, SINGLE_MACHINE
from cluster.machines.storage import STORAGE

GCS_PORT = 6379
METRICS_PORT = 8090  # of the machine's first raylet; the next ones count up
FIRST_PORT, PORTS_A_RAYLET = (
    20000,
    1000,
)  # port range of the first raylet, without its metrics port; then the next one's
_AGENT_PORT = 52365
_STOP_WAIT_S = "120"  # `ray job stop` kills after 3 s by default; a clean stop of a sweep writes its state and report
_OBJECT_STORE_PART = 0.1  # of the memory; trials exchange metrics and paths, not tensors; Ray's default is 0.3


@dataclass(frozen=True, kw_only=True)
class Start:
    """One `ray start`.

    Attributes:
        arguments: Arguments, without the program's name.
        environment: Variables to add to the machine's environment.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def shell(self) -> str:
        """The command as a line for a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())]
        return " ".join([*settings, "ray", *(shlex.quote(argument) for argument in self.arguments)])


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Options of the head.

    Attributes:
        state_dir: A folder on a persistent disk: Ray's embedded RocksDB stores the cluster's state there for a restart
            of the head.
        autoscaling_config: From `ray up`; None without it.
    """

    state_dir: str
    autoscaling_config: str | None = None


def raylet_starts(
    nodes: Sequence[Node],
    *,
    ip: str,
    head: HeadOptions | None = None,
    head_address: str | None = None,
    spill_dir: str | None = None,
    token: bool = True,
    storage: str | None = None,
    temporary: str,
) -> tuple[Start, ...]:
    """Returns the `ray start` commands of one machine.

    Args:
        nodes: The machine's inventory, one node per GPU model (hardware.split_by_model), each with its part of CPUs and
            memory; one node without cards where there is no GPU.
        ip: Address of the machine in the cluster's network.
        head: Options of the head, on the head's machine.
        head_address: "ip:port" of the head, on every other machine.
        spill_dir: Folder for objects that do not fit into memory; None: Ray's session folder.
        token: Whether the cluster requires the token.
        temporary: A folder that only its owner may enter. The first raylet uses its subfolder `ray`, each further one a
            subfolder of that: in a shared folder, raylets would overwrite each other's unpacked job packages and remove
            the working folder of a driver.
        storage: Folder that every machine sees at this path; results of submitted sweeps go there.

    Returns:
        The commands, the head's first. Each raylet has only its own cards, their labels and its own ports.

    >>> from cluster.machines.hardware import Card
    >>> card = Card(model="L4", total_bytes=24 * 2**30, uuid="GPU-1")
    >>> node = Node(name="a", cards=(card,), cpus=8, memory_bytes=2**34)
    >>> raylet_starts([node], ip="10.0.0.2", head_address="10.0.0.1:6379", temporary="/tmp/ray-1")[0].arguments[:3]
    ('start', '--address=10.0.0.1:6379', '--node-ip-address=10.0.0.2')
    """
    assert (head is None) != (head_address is None), "a machine is the head or joins one"
    address = head_address or f"{ip}:{GCS_PORT}"
    starts = []
    for index, node in enumerate(nodes):
        arguments = ["start", f"--address={address}"]
        environment = {
            "RAY_AUTH_MODE": "token" if token else "disabled",
            "RAY_JOB_STOP_WAIT_TIME_S": _STOP_WAIT_S,
            "RAY_TMPDIR": temporary,  # for Ray's locks; without --temp-dir a worker would use the head's
        }
        if ip == LOOPBACK:
            environment[SINGLE_MACHINE] = "0"
        if storage:
            environment[STORAGE] = storage
        if head and index == 0:
            arguments = ["start", "--head", f"--port={GCS_PORT}", *_head_arguments(head)]
            environment |= _head_environment(head)
        arguments += [f"--node-ip-address={ip}", *_resources(node), *_ports(index), "--disable-usage-stats"]
        arguments += [f"--object-spilling-directory={spill_dir}"] if spill_dir else []
        arguments += [f"--temp-dir={temporary}/ray" + (f"/raylet{index}" if index else "")]
        if len(nodes) > 1 and all(card.uuid for card in node.cards):
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(card.uuid for card in node.cards)
        starts.append(Start(arguments=tuple(arguments), environment=environment))
    return tuple(starts)


def _head_arguments(head: HeadOptions) -> list[str]:
    arguments = [f"--dashboard-host={LOOPBACK}"]  # from other machines through an SSH tunnel
    return arguments + ([f"--autoscaling-config={head.autoscaling_config}"] if head.autoscaling_config else [])


def _head_environment(head: HeadOptions) -> dict[str, str]:
    return {
        "RAY_enable_autoscaler_v2": "0",  # Ray 2.60: v2 starts only one worker with the provider `local`
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": head.state_dir,
    }


def _resources(node: Node) -> list[str]:
    arguments = [
        f"--num-cpus={max(1, int(node.cpus))}",
        f"--num-gpus={len(node.cards)}",
        f"--object-store-memory={max(100 * 2**20, int(node.memory_bytes * _OBJECT_STORE_PART))}",
    ]
    labels = ",".join(f"{name}={value}" for name, value in sorted(node.labels.items()))
    return arguments + ([f"--labels={labels}"] if labels else [])


def _ports(index: int) -> list[str]:
    """Returns fixed ports, for firewall rules; different for each raylet of a machine."""
    first = FIRST_PORT + index * PORTS_A_RAYLET
    return [
        f"--metrics-export-port={METRICS_PORT + index}",
        f"--dashboard-agent-listen-port={_AGENT_PORT + index}",
        f"--node-manager-port={first}",
        f"--object-manager-port={first + 1}",
        f"--dashboard-agent-grpc-port={first + 2}",
        f"--runtime-env-agent-port={first + 3}",
        f"--min-worker-port={first + 10}",
        f"--max-worker-port={first + PORTS_A_RAYLET - 1}",
    ]
