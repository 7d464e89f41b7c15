"""Reads the hardware of this machine from NVML and the kernel, and combines it with Ray's facts of a node.

Must not import ray at the top: `python -m cluster gpus` works without it.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.machines import nvml
from cluster.machines.hardware import (
    GPU_MEMORY_LABEL,
    GPU_MODEL_LABEL,
    SIMULATED_CARD_BYTES,
    Card,
    Inventory,
    Node,
    label_of,
    parse_simulated,
    split_by_model,
)
from tuning_common.units import format_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """An inventory and its problems.

    Attributes:
        inventory: The inventory.
        problems: Cards and nodes that do not answer or are used unusually; each with a remedy.
    """

    inventory: Inventory
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Facts of a machine; sent from a Ray node to the driver.

    Attributes:
        node: The machine, without cards.
        cards: All cards of the machine.
        problems: Cards that do not answer.
    """

    node: Node
    cards: tuple[Card, ...]
    problems: tuple[str, ...]


def this_machine(simulate: str | None = None) -> Survey:
    """Reads this machine, or simulates described cards on it.

    Args:
        simulate: A described cluster such as "2x24GiB,1x80GiB" (see hardware.parse_simulated); None reads NVML.

    Returns:
        One node per GPU model, at least one. CPUs and host memory are this machine's own also with simulated cards.

    Raises:
        RequestError: When the description is invalid.
    """
    if simulate is not None:
        return Survey(inventory=_on_real_host(parse_simulated(simulate), host()))
    machine = read_machine()
    return Survey(
        inventory=Inventory(nodes=split_by_model(machine.node, machine.cards)),
        problems=machine.problems,
    )


def host() -> Node:
    """Describes this machine without its cards: the CPUs this process may use, and the physical memory."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Node(name="this-machine", cpus=float(len(os.sched_getaffinity(0))), memory_bytes=memory_bytes)


def read_machine(own_parent: int | None = None) -> Machine:
    """Reads this machine from the kernel and NVML.

    Args:
        own_parent: Descendants of this process (Ray's node manager) are ours: their memory does not count as used by
            others.
    """
    reading = nvml.read(frozenset() if own_parent is None else _children(own_parent))
    missing = reading.unavailable
    why = "" if missing is None else missing.value + (f" ({reading.detail})" if reading.detail else "")
    return Machine(
        node=replace(host(), driver=reading.driver, gpus_unavailable=why),
        cards=tuple(found.card for found in reading.cards),
        problems=reading.problems,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Raylet:
    """Ray's facts of one of its nodes.

    Attributes:
        name: Ray's node id.
        address: Address of the machine.
        cpus: Resource CPU.
        memory_bytes: Resource memory.
        gpus: Resource GPU.
        labels: Labels from `ray start --labels`, and Ray's own.
    """

    name: str
    address: str
    cpus: float
    memory_bytes: int
    gpus: int
    labels: dict[str, str]


def node_of(raylet: Raylet, machine: Machine) -> tuple[Node, tuple[str, ...], bool]:
    """Combines Ray's facts of a node with those of its machine. Pure.

    Labels are optional. With the label GPU_MODEL_LABEL a raylet has the machine's cards of that model. Without it, all
    cards of a machine with several models count as its weakest card. Simulated GPUs take their size from
    GPU_MEMORY_LABEL, or SIMULATED_CARD_BYTES.

    Args:
        raylet: Ray's facts.
        machine: Facts from a task on that node, with all cards of the machine, also those of another raylet.

    Returns:
        The node, its peculiarities, and whether its cards are simulated.
    """
    node = replace(
        machine.node, name=raylet.name, address=raylet.address, cpus=raylet.cpus, memory_bytes=raylet.memory_bytes
    )
    if raylet.gpus == 0:
        return node, (), False
    node = replace(node, gpus_unavailable="")
    if not machine.cards:
        cards, problems = _logical_cards(raylet, machine.node.gpus_unavailable)
        return replace(node, cards=cards), problems, True
    cards, problems = _equal_cards(raylet, machine.cards)
    if len(cards) < raylet.gpus:
        problem = f"Ray counts {raylet.gpus} GPUs, NVML sees {len(cards)}; restart it with the right number"
        problems = (*problems, problem)
    # Ray does not report which cards a raylet has: assume the fullest ones.
    kept = sorted(cards, key=lambda card: (card.usable_bytes, card.index))[: raylet.gpus]
    return replace(node, cards=tuple(kept)), problems, False


def _equal_cards(raylet: Raylet, cards: tuple[Card, ...]) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """Returns the cards that a raylet may have, all of one model, and their peculiarities."""
    label = raylet.labels.get(GPU_MODEL_LABEL)
    labelled = tuple(card for card in cards if card.model == label)
    if labelled:
        return labelled, ()
    models = sorted({card.model for card in cards})
    problems = []
    if label is not None:
        problems.append(f"its label {GPU_MODEL_LABEL}={label} names none of its cards ({', '.join(models)})")
    if len(models) > 1:
        weakest = min(cards, key=lambda card: (card.usable_bytes, card.speed, card.model))
        speed = min(card.speed for card in cards)
        problems.append(
            f"one raylet has {len(models)} GPU models ({', '.join(models)}), so each card is used as {weakest.model};"
            " `python -m cluster start` starts one raylet for each model"
        )
        cards = tuple(replace(weakest, index=card.index, uuid=card.uuid, speed=speed) for card in cards)
    return cards, tuple(problems)


def _logical_cards(raylet: Raylet, why: str) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """Returns simulated cards for a raylet with GPUs that no driver finds, and a note on them."""
    model, mib = raylet.labels.get(GPU_MODEL_LABEL), raylet.labels.get(GPU_MEMORY_LABEL, "")
    total_bytes = int(mib) * 2**20 if mib.isdecimal() and int(mib) > 0 else SIMULATED_CARD_BYTES
    size = format_bytes(total_bytes)
    problems = []
    if not mib.isdecimal():
        problems.append(
            f"Ray counts {raylet.gpus} GPUs and NVML sees none ({why}); they are simulated with {size} each; another"
            f" size: `ray start --labels {GPU_MEMORY_LABEL}=MIB`"
        )
    model = model or f"simulated-{label_of(f'{total_bytes / 2**30:g}GiB')}"
    cards = tuple(Card(model=model, total_bytes=total_bytes, index=index) for index in range(raylet.gpus))
    return cards, tuple(problems)


def _on_real_host(described: Inventory, real: Node) -> Inventory:
    """Divides this machine's CPUs and memory among simulated nodes: each gets a whole number of at least one."""
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
    """Returns all descendants of a process, from /proc."""
    by_parent: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            after_name = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        except OSError:  # it has ended
            continue
        by_parent.setdefault(int(after_name.split()[1]), []).append(int(folder.name))
    found: set[int] = set()
    waiting = [parent]
    while waiting:
        new = [pid for pid in by_parent.get(waiting.pop(), []) if pid not in found]
        found.update(new)
        waiting += new
    return frozenset(found)
