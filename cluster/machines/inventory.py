"""What this machine has, and what a node of a Ray cluster has. Asks NVML and the kernel; knows no Ray.

Must not import ray at the top: `python -m cluster gpus` answers without it.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.machines import nvml
from cluster.machines.hardware import (
    GPU_MEMORY_LABEL,
    GPU_MODEL_LABEL,
    LOGICAL_CARD_BYTES,
    Card,
    Inventory,
    Node,
    label_of,
    parse_simulated,
    split_by_model,
)
from common.units import format_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """An inventory and what is wrong with it.

    Attributes:
        inventory: What there is.
        problems: Cards and nodes that do not answer or are not used as one might expect; each with a remedy.
    """

    inventory: Inventory
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Facts of a machine; travels from a Ray node to the driver.

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Raylet:
    """Facts that Ray has of one of its nodes.

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
    """Combines the facts that Ray and a node's machine give. Pure.

    No label is needed. With the label GPU_MODEL_LABEL a raylet has the machine's cards of that model. Without it a
    machine with several models is used as if every card were its weakest. Cards that are only numbers in Ray take
    their size from GPU_MEMORY_LABEL, or LOGICAL_CARD_BYTES.

    Args:
        raylet: From Ray.
        machine: From a task on that node; it sees all cards of the machine, also those of another raylet.

    Returns:
        The node, what is odd about it, and whether its cards are made up.
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
    # Which of the cards a raylet was given is not told, so the fullest ones are assumed.
    kept = sorted(cards, key=lambda card: (card.usable_bytes, card.index))[: raylet.gpus]
    return replace(node, cards=tuple(kept)), problems, False


def _equal_cards(raylet: Raylet, cards: tuple[Card, ...]) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """Returns the cards that a raylet may have, all of one model, and what is odd about them."""
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
    """Returns made-up cards for a raylet that counts GPUs where no driver sees any, and what is odd about them."""
    model, mib = raylet.labels.get(GPU_MODEL_LABEL), raylet.labels.get(GPU_MEMORY_LABEL, "")
    total_bytes = int(mib) * 2**20 if mib.isdecimal() and int(mib) > 0 else LOGICAL_CARD_BYTES
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
