"""What this machine, or every node of a Ray cluster, has. Acts: asks NVML, the kernel and Ray; decides nothing.

Must not import ray at the top: `python -m cluster gpus` answers without it.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.machines import nvml
from cluster.machines.hardware import (
    GPU_MEMORY_LABEL,
    GPU_MODEL_LABEL,
    Card,
    Inventory,
    Node,
    parse_simulated,
    split_by_model,
)

ANSWER_S = 60.0  # a node that starts its first worker needs seconds; one that needs a minute is ill


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """An inventory and what is wrong with it.

    Attributes:
        inventory: What there is.
        problems: Cards that do not answer, nodes that do not answer, labels that are missing; each with a remedy.
    """

    inventory: Inventory
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a machine says about itself; travels from a Ray node to the driver.

    Attributes:
        node: Without cards.
        cards: All cards of the machine.
        problems: Cards that do not answer.
    """

    node: Node
    cards: tuple[Card, ...]
    problems: tuple[str, ...]


def this_machine(simulate: str | None = None) -> Survey:
    """Looks at this machine, or puts described cards into it.

    Args:
        simulate: A described cluster such as "2x24GiB,1x80GiB" (see hardware.parse_simulated); None looks at NVML.

    Returns:
        One node, or one of each GPU model. With simulated cards, CPUs and host memory are still this machine's own.

    Raises:
        RequestError: When the description cannot be read.
    """
    if simulate is not None:
        return Survey(inventory=_on_real_host(parse_simulated(simulate), host()))
    machine = look()
    return Survey(
        inventory=Inventory(nodes=split_by_model(machine.node, machine.cards)),
        problems=machine.problems,
    )


def host() -> Node:
    """Describes this machine without its cards: the CPUs this process may use, and the physical memory."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Node(name="this-machine", cpus=float(len(os.sched_getaffinity(0))), memory_bytes=memory_bytes)


def look(own_parent: int | None = None) -> Machine:
    """Asks the kernel and NVML.

    Args:
        own_parent: Processes under this one (Ray's node manager) are ours: what they hold is not used by others.
    """
    reading = nvml.read(frozenset() if own_parent is None else _children(own_parent))
    missing = reading.unavailable
    why = "" if missing is None else missing.value + (f" ({reading.detail})" if reading.detail else "")
    return Machine(
        node=replace(host(), driver=reading.driver, gpus_unavailable=why),
        cards=tuple(found.card for found in reading.cards),
        problems=reading.problems,
    )


def ray_cluster(answer_s: float = ANSWER_S) -> Survey:
    """Asks every node of the Ray cluster that this process is connected to, by a task that is pinned to it.

    Args:
        answer_s: How long to wait for the slowest node.

    Returns:
        One node for each raylet that lives and answers. A node whose cards are only logical is simulated from its
        labels, and then the whole inventory says so.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(_look_as_task)
    alive = [entry for entry in ray.nodes() if entry["Alive"]]
    tasks = {
        entry["NodeID"]: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=entry["NodeID"], soft=False)
        ).remote()
        for entry in alive
    }
    done, _late = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=answer_s)
    nodes: list[Node] = []
    problems: list[str] = []
    simulated = False
    for entry in sorted(alive, key=lambda item: str(item["NodeManagerAddress"])):
        name, address = str(entry["NodeID"]), str(entry["NodeManagerAddress"])
        task = tasks[entry["NodeID"]]
        if task not in done:
            problems.append(f"node {address}: no answer in {answer_s:g} s; look at it with `ray status` and ssh")
            continue
        try:
            machine: Machine = ray.get(task)
        except ray.exceptions.RayError as error:
            problems.append(f"node {address}: {str(error).splitlines()[0]}")
            continue
        raylet = Raylet(
            name=name,
            address=address,
            cpus=float(entry["Resources"].get("CPU", 0)),
            memory_bytes=int(entry["Resources"].get("memory", 0)),
            gpus=int(entry["Resources"].get("GPU", 0)),
            labels=dict(entry.get("Labels") or {}),
        )
        node, found, made_up = node_of(raylet, machine)
        nodes.append(node)
        problems += [f"node {address}: {problem}" for problem in (*machine.problems, *found)]
        simulated |= made_up
    return Survey(inventory=Inventory(nodes=tuple(nodes), simulated=simulated), problems=tuple(problems))


def free_gpus() -> dict[str, float]:
    """Asks the Ray cluster that this process is connected to what is free now.

    Returns:
        By label of the GPU model, the most GPUs that one of its nodes has free; they may lie on several cards.
    """
    import ray
    from ray._private.state import available_resources_per_node  # ray.available_resources() knows no nodes (Ray 2.60)

    free: dict[str, float] = {}
    available = available_resources_per_node()
    for entry in ray.nodes():
        model = (entry.get("Labels") or {}).get(GPU_MODEL_LABEL)
        if entry["Alive"] and model is not None:
            gpus = float(available.get(entry["NodeID"], {}).get("GPU", 0.0))
            free[model] = max(gpus, free.get(model, 0.0))
    return free


@dataclass(frozen=True, kw_only=True, slots=True)
class Raylet:
    """What Ray says about one of its nodes.

    Attributes:
        name: Ray's node id.
        address: Of the machine.
        cpus: Resource CPU.
        memory_bytes: Resource memory.
        gpus: Resource GPU.
        labels: Given at `ray start --labels`, and Ray's own.
    """

    name: str
    address: str
    cpus: float
    memory_bytes: int
    gpus: int
    labels: dict[str, str]


def node_of(raylet: Raylet, machine: Machine) -> tuple[Node, tuple[str, ...], bool]:
    """Brings together what Ray says about a node and what its machine says. Pure.

    Args:
        raylet: From Ray.
        machine: From a task on that node; it sees all cards of the machine, also those of another raylet.

    Returns:
        The node, its problems, and whether its cards are made up.
    """
    node = replace(
        machine.node, name=raylet.name, address=raylet.address, cpus=raylet.cpus, memory_bytes=raylet.memory_bytes
    )
    model = raylet.labels.get(GPU_MODEL_LABEL)
    if raylet.gpus == 0:
        return node, (), False
    if not machine.cards:
        return _logical(node, raylet)
    models = sorted({card.model for card in machine.cards})
    problems: list[str] = []
    if model is None:
        several = "one raylet for each of its models" if len(models) > 1 else "it"
        start = f"`ray start --labels {GPU_MODEL_LABEL}=MODEL`"
        problems.append(f"no label {GPU_MODEL_LABEL}; start {several} with {start} ({', '.join(models)})")
        model = models[0]
    cards = [card for card in machine.cards if card.model == model]
    if len(cards) < raylet.gpus:
        problems.append(
            f"Ray counts {raylet.gpus} GPUs, NVML sees {len(cards)} of {model}; restart it with the right number"
        )
    # Which of the cards a raylet was given is not told, so the fullest ones are assumed.
    kept = sorted(cards, key=lambda card: (card.usable_bytes, card.index))[: raylet.gpus]
    return replace(node, cards=tuple(kept), gpus_unavailable=""), tuple(problems), False


def _look_as_task() -> Machine:
    return look(own_parent=os.getppid())


def _logical(node: Node, raylet: Raylet) -> tuple[Node, tuple[str, ...], bool]:
    model, mib = raylet.labels.get(GPU_MODEL_LABEL), raylet.labels.get(GPU_MEMORY_LABEL, "")
    if model is None or not mib.isdecimal():
        problem = (
            f"Ray counts {raylet.gpus} GPUs and NVML sees none ({node.gpus_unavailable}); for logical cards "
            f"give it the labels {GPU_MODEL_LABEL} and {GPU_MEMORY_LABEL}"
        )
        return node, (problem,), False
    cards = tuple(Card(model=model, total_bytes=int(mib) * 2**20, index=index) for index in range(raylet.gpus))
    return replace(node, cards=cards, gpus_unavailable=""), (), True


def _on_real_host(described: Inventory, real: Node) -> Inventory:
    """Spreads this machine's CPUs and memory over simulated nodes: each gets a whole number, and at least one."""
    nodes = []
    for node in described.nodes:
        part = len(node.cards) / described.cards
        nodes.append(
            replace(
                node, cpus=float(max(1, int(real.cpus * part))), memory_bytes=int(real.memory_bytes * part), driver=""
            )
        )
    return Inventory(nodes=tuple(nodes), simulated=True)


def _children(parent: int) -> frozenset[int]:
    """Lists the processes that a process started, and theirs, from /proc."""
    by_parent: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            after_name = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        except OSError:  # it ended meanwhile
            continue
        by_parent.setdefault(int(after_name.split()[1]), []).append(int(folder.name))
    found: set[int] = set()
    waiting = [parent]
    while waiting:
        new = [pid for pid in by_parent.get(waiting.pop(), []) if pid not in found]
        found.update(new)
        waiting += new
    return frozenset(found)
