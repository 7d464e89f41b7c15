"""The nodes of the Ray cluster that this process is connected to, as Ray and their machines describe them."""

import os
from dataclasses import dataclass
from typing import TypedDict

from cluster.machines.inventory import Machine, Raylet, look


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuUse:
    """GPUs that Ray has given away, at one moment.

    Attributes:
        used: By node id, to anybody.
        by_job: By node id and job id, in placement groups that are in place.
    """

    used: dict[str, float]
    by_job: dict[str, dict[str, float]]


class NodeEntry(TypedDict):
    """What is used of an entry of `ray.nodes()`."""

    NodeID: str
    NodeManagerAddress: str
    Resources: dict[str, float]
    Labels: dict[str, str]


def raylet_of(entry: NodeEntry) -> Raylet:
    """Reads an entry of `ray.nodes()`."""
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
    """Asks Ray and the nodes; see node_watch.Nodes."""

    def raylets(self) -> tuple[Raylet, ...]:
        """Lists the nodes that live and are not being drained."""
        import ray
        from ray._private.state import state  # ray.nodes() does not say which nodes are being drained (Ray 2.60)

        alive = [entry for entry in ray.nodes() if entry["Alive"]]
        draining = state.get_draining_nodes()
        return tuple(raylet_of(entry) for entry in alive if entry["NodeID"] not in draining)

    def ask(self, name: str) -> object:
        """Starts a task on a node that describes its machine; waits for nothing."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        pinned = NodeAffinitySchedulingStrategy(node_id=name, soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": pinned}
        return ray.remote(**options)(_look_as_task).remote()

    def answer(self, asked: object, wait_s: float) -> Machine | str | None:
        """Returns what a task found, or why it failed; None where it is still under way after `wait_s`."""
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
    """Asks Ray which GPUs it has given away, and in which jobs' placement groups."""
    import ray
    from ray._private.state import state  # ray.available_resources() knows no nodes (Ray 2.60)
    from ray.util import placement_group_table

    available = state.available_resources_per_node()
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
    """Lists the ids of the jobs whose drivers have ended, or died."""
    from ray._private.state import state  # Ray's public list of jobs needs the dashboard (Ray 2.60)

    return frozenset(str(job["JobID"]) for job in state.job_table() if job["IsDead"])


def _look_as_task() -> Machine:
    return look(own_parent=os.getppid())
