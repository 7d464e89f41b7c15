"""Follows a cluster: which nodes join, die or are drained, and who else uses their GPUs. Never waits for a node."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from cluster.machines.hardware import Inventory
from cluster.machines.inventory import Machine, Raylet, Survey, node_of
from cluster.machines.ray_nodes import GpuUse, RayNodes

EVERY_S = 2.0
ANSWER_S = 60.0  # a node that starts its first worker needs seconds; one that needs a minute is ill
ASK_AGAIN_S = 60.0  # a node whose machine could not be asked


class Nodes(Protocol):
    """Where nodes are asked for; ray_nodes.RayNodes outside of tests."""

    def raylets(self) -> tuple[Raylet, ...]:
        """Lists the nodes that trials may use."""
        ...

    def ask(self, name: str) -> object:
        """Asks a node's machine what it has; waits for nothing."""
        ...

    def answer(self, asked: object, wait_s: float) -> Machine | str | None:
        """Returns the machine, why it could not be asked, or None while that is under way."""
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
        nodes: Where to ask.
        elapsed_s: Seconds that only grow.
    """

    def __init__(self, nodes: Nodes, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        self._nodes, self._elapsed_s = nodes, elapsed_s
        self._asked: dict[str, _Asked] = {}
        self._read_s = -EVERY_S
        self._last: Survey | None = None

    def poll(self) -> Survey | None:
        """Returns the survey where it has changed since the last call; asks Ray at most every EVERY_S.

        The first one is whole: it is returned when every node has answered, or had ANSWER_S to do so.
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
        """Takes in a node's answer; where it is late, that is the answer."""
        if asked.found is None:
            asked.found = self._nodes.answer(asked.pending, wait_s)
        if asked.found is None and is_late:
            asked.found = f"no answer in {ANSWER_S:g} s; look at it with `ray status` and ssh"

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
    """Asks every node of the Ray cluster that this process is connected to, by a task that is pinned to it.

    Returns:
        One node for each raylet that lives and answers. A node whose cards are only logical is simulated (see
        inventory.node_of), and then the whole inventory is marked so.
    """
    return NodeWatch(RayNodes()).complete()


class LivingNodes:
    """An inventory of which nodes can only be lost: those of a Ray that one sweep has started for itself.

    Args:
        inventory: Named by Ray's node ids.
        nodes: Where to ask which of them live.
        elapsed_s: Seconds that only grow.
    """

    def __init__(self, inventory: Inventory, nodes: Nodes, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        self._inventory, self._nodes, self._elapsed_s = inventory, nodes, elapsed_s
        self._read_s = elapsed_s()

    def poll(self) -> Inventory | None:
        """Returns what is left where a node was lost since the last call; asks Ray at most every EVERY_S."""
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
    """Which GPUs are held by programs that do not ask the broker. Pure.

    What Ray has given away, less what lies in placement groups of the sweeps' own jobs: so a warm process that a sweep
    keeps for its next trial is not taken for a stranger's. Ray's numbers arrive one after another, so only what two
    readings in a row agree on counts.
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
