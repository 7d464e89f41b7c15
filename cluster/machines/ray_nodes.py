"""Reads the nodes of the connected Ray cluster, from Ray and from tasks on the nodes."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from cluster.machines.inventory import Machine, Raylet, read_machine

if TYPE_CHECKING:
    from ray._private.state import GlobalState


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuUse:
    """GPUs in use, by Ray's accounting at one moment.

    Attributes:
        used: Used GPUs by node id.
        by_job: GPUs of created placement groups, by node id and job id.
    """

    used: dict[str, float]
    by_job: dict[str, dict[str, float]]


class NodeEntry(TypedDict):
    """The used fields of an entry of `ray.nodes()`."""

    NodeID: str
    NodeManagerAddress: str
    Resources: dict[str, float]
    Labels: dict[str, str]


def raylet_of(entry: NodeEntry) -> Raylet:
    """Converts an entry of `ray.nodes()`."""
    resources = entry["Resources"]
    return Raylet(
        name=entry["NodeID"],
        address=entry["NodeManagerAddress"],
        cpus=float(resources.get("CPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
        gpus=int(resources.get("GPU", 0)),
        labels=dict(entry["Labels"]),
    )


class RayNodes:
    """Reads nodes from Ray; see node_watch.Nodes."""

    def raylets(self) -> tuple[Raylet, ...]:
        """Returns the living nodes that are not being drained."""
        import ray

        alive = [entry for entry in ray.nodes() if entry["Alive"]]
        draining = _global_state().get_draining_nodes()
        return tuple(raylet_of(entry) for entry in alive if entry["NodeID"] not in draining)

    def ask(self, name: str) -> object:
        """Starts a task that reads a node's machine, without waiting."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        pinned = NodeAffinitySchedulingStrategy(node_id=name, soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": pinned}
        return ray.remote(**options)(_read_machine_task).remote()

    def answer(self, asked: object, wait_s: float) -> Machine | str | None:
        """Returns the task's result, or why it failed; None where it still runs after `wait_s`."""
        import ray

        done, _ = ray.wait([asked], timeout=wait_s)
        if not done:
            return None
        try:
            machine: Machine = ray.get(asked)
        except ray.exceptions.RayError as error:
            return str(error).strip().splitlines()[0]
        return machine


def gpu_use() -> GpuUse:
    """Returns Ray's used GPUs, in total and by job."""
    import ray
    from ray.util import placement_group_table

    available = _global_state().available_resources_per_node()
    used = {
        entry["NodeID"]: max(0.0, entry["Resources"].get("GPU", 0.0) - available[entry["NodeID"]].get("GPU", 0.0))
        for entry in ray.nodes()
        if entry["Alive"] and entry["NodeID"] in available
    }
    by_job: dict[str, dict[str, float]] = {}
    for identity, group in placement_group_table().items():
        if group["state"] != "CREATED":
            continue
        job = str(identity)[-8:]  # a placement group's id ends with the id of the job that made it
        for bundle, node in group["bundles_to_node_id"].items():
            held = by_job.setdefault(node, {})
            held[job] = held.get(job, 0.0) + group["bundles"][bundle].get("GPU", 0.0)
    return GpuUse(used=used, by_job=by_job)


def ended_jobs() -> frozenset[str]:
    """Returns the ids of the jobs whose drivers have ended."""
    return frozenset(str(job["JobID"]) for job in _global_state().job_table() if job["IsDead"])


def _global_state() -> "GlobalState":
    """Returns what Ray's head knows.

    Ray 2.60 has no public name for it: `ray.nodes()` does not report draining, `ray.available_resources()` has no
    nodes, and the public list of jobs needs the dashboard.
    """
    from ray._private.state import state

    return state


def _read_machine_task() -> Machine:
    return read_machine(own_parent=os.getppid())
