"""Watches a cluster for nodes that join, die or are drained, and for other users of their GPUs. Never blocks."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from cluster.machines.hardware import Inventory
from cluster.machines.inventory import Machine, Raylet, Survey, node_of
from cluster.machines.ray_nodes import GpuUse, RayNodes

EVERY_S = 2.0
ANSWER_S = 60.0  # a node needs seconds to start its first worker
ASK_AGAIN_S = 60.0  # retry interval for a node that failed to answer


class Nodes(Protocol):
    """Source of nodes; ray_nodes.RayNodes outside of tests."""

    def raylets(self) -> tuple[Raylet, ...]:
        """Returns the nodes that trials may use."""
        ...

    def ask(self, name: str) -> object:
        """Starts to read a node's machine, without waiting."""
        ...

    def answer(self, asked: object, wait_s: float) -> Machine | str | None:
        """Returns the machine, the reason of a failure, or None before the answer."""
        ...


@dataclass(slots=True)
class _Asked:
    raylet: Raylet
    since_s: float
    pending: object
    found: Machine | str | None = None


class NodeWatch:
    """Keeps a survey of the nodes up to date.

    Args:
        nodes: Source of nodes.
        elapsed_s: A monotonic clock, in seconds.
    """

    def __init__(self, nodes: Nodes, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        self._nodes, self._elapsed_s = nodes, elapsed_s
        self._asked: dict[str, _Asked] = {}
        self._read_s = -EVERY_S
        self._last: Survey | None = None

    def poll(self) -> Survey | None:
        """Returns the survey where it has changed since the last call; queries Ray at most every EVERY_S.

        The first survey comes when every node has answered or ANSWER_S have passed.
        """
        now_s = self._elapsed_s()
        if now_s - self._read_s < EVERY_S:
            return None
        self._read_s = now_s
        self._ask_new(now_s)
        for asked in self._asked.values():
            self._collect(asked, wait_s=0.0, is_late=now_s - asked.since_s >= ANSWER_S)
        if self._last is None and any(asked.found is None for asked in self._asked.values()):
            return None
        survey = self._survey()
        changed = survey if survey != self._last else None
        self._last = survey
        return changed

    def complete(self) -> Survey:
        """Waits until every node has answered, at most ANSWER_S."""
        began_s = self._elapsed_s()
        self._ask_new(began_s)
        for asked in self._asked.values():
            self._collect(asked, wait_s=max(0.0, began_s + ANSWER_S - self._elapsed_s()), is_late=True)
        return self._survey()

    def _ask_new(self, now_s: float) -> None:
        present = {raylet.name: raylet for raylet in self._nodes.raylets()}
        for name, raylet in present.items():
            known = self._asked.get(name)
            failed = known is not None and isinstance(known.found, str) and now_s - known.since_s >= ASK_AGAIN_S
            if known is None or failed:
                self._asked[name] = _Asked(raylet=raylet, since_s=now_s, pending=self._nodes.ask(name))
        self._asked = {name: asked for name, asked in self._asked.items() if name in present}

    def _collect(self, asked: _Asked, *, wait_s: float, is_late: bool) -> None:
        """Records a node's answer, or that it is late."""
        if asked.found is None:
            asked.found = self._nodes.answer(asked.pending, wait_s)
        if asked.found is None and is_late:
            asked.found = f"no answer in {ANSWER_S:g} s; check it with `ray status` and ssh"

    def _survey(self) -> Survey:
        nodes, problems, simulated = [], [], False
        for asked in sorted(self._asked.values(), key=lambda asked: (asked.raylet.address, asked.raylet.name)):
            address = asked.raylet.address
            if isinstance(asked.found, str):
                problems.append(f"node {address}: {asked.found}")
            elif asked.found is not None:
                node, found, made_up = node_of(asked.raylet, asked.found)
                nodes.append(node)
                problems += [f"node {address}: {problem}" for problem in (*asked.found.problems, *found)]
                simulated |= made_up
        return Survey(inventory=Inventory(nodes=tuple(nodes), simulated=simulated), problems=tuple(problems))


def ray_cluster() -> Survey:
    """Reads every node of the connected Ray cluster, by a task on each node.

    Returns:
        One node per raylet that answers. A node with simulated cards is simulated (see inventory.node_of), and then the
        whole inventory counts as simulated.
    """
    return NodeWatch(RayNodes()).complete()


class LivingNodes:
    """An inventory that only loses nodes: that of a Ray that one sweep has started for itself.

    Args:
        inventory: Its nodes are named by Ray's node ids.
        nodes: Source of living nodes.
        elapsed_s: A monotonic clock, in seconds.
    """

    def __init__(self, inventory: Inventory, nodes: Nodes, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        self._inventory, self._nodes, self._elapsed_s = inventory, nodes, elapsed_s
        self._read_s = elapsed_s()

    def poll(self) -> Inventory | None:
        """Returns the remaining inventory where a node was lost since the last call; queries Ray every EVERY_S."""
        now_s = self._elapsed_s()
        if now_s - self._read_s < EVERY_S:
            return None
        self._read_s = now_s
        living = {raylet.name for raylet in self._nodes.raylets()}
        left = tuple(node for node in self._inventory.nodes if node.name in living)
        if len(left) == len(self._inventory.nodes):
            return None
        self._inventory = replace(self._inventory, nodes=left)
        return self._inventory


class OthersUse:
    """GPUs in use by programs that do not ask the broker. Pure.

    They are Ray's used GPUs minus the placement groups of the sweeps' own jobs: a warm process that a sweep keeps for
    its next trial belongs to the sweep. Ray's numbers are not updated at once, so only the minimum of two consecutive
    readings counts.
    """

    def __init__(self) -> None:
        self._before: dict[str, float] = {}

    def of(self, use: GpuUse, own_jobs: Collection[str]) -> Mapping[str, float]:
        """Returns GPUs by node; nodes without any are left out.

        Args:
            use: A new reading.
            own_jobs: Ids of the jobs whose GPUs the broker granted.

        >>> others = OthersUse()
        >>> use = GpuUse(used={"a": 1.5}, by_job={"a": {"01000000": 0.5}})
        >>> others.of(use, {"01000000"}), others.of(use, {"01000000"})
        ({}, {'a': 1.0})
        """
        now = {
            node: gpus - sum(held for job, held in use.by_job.get(node, {}).items() if job in own_jobs)
            for node, gpus in use.used.items()
        }
        agreed = {node: round(min(gpus, self._before.get(node, 0.0)), 4) for node, gpus in now.items()}
        self._before = now
        return {node: gpus for node, gpus in agreed.items() if gpus > 0}
