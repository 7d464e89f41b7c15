"""The broker as an actor of a Ray without labels of ours: two drivers, lost nodes, a lost broker, other programs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from cluster.scheduling.broker_process import NAME, NAMESPACE, broker_status
from tests.cluster.contract.ray_nodes import OPTIONS, node_ids, plain_cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def cluster() -> "Iterator[Cluster]":
    with plain_cluster(2, 1) as made:
        yield made


class Driver:
    """A driver in a process of its own, and what it has printed."""

    def __init__(self, address: str, sweep: str, trials: int, folder: Path) -> None:
        self.output = folder / f"{sweep}.txt"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("broker_driver.py")), address, sweep, str(trials)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
        )

    def has(self, *lines: str) -> bool:
        assert self._process.poll() is None or self._process.returncode == -signal.SIGKILL, self.output.read_text()
        return set(lines) <= set(self.output.read_text().splitlines())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def status() -> dict[str, object]:
    found = broker_status(30.0)
    assert found is not None
    return dict(found)


def held() -> set[object]:
    return {one["trial"] for one in cast("list[dict[str, object]]", status()["held"])}


def test_one_broker_serves_all_drivers_of_a_cluster_that_changes(cluster: "Cluster", tmp_path: Path) -> None:
    first = Driver(cluster.address, "a", 2, tmp_path)
    wait_until(lambda: first.has("starts a/1", "starts a/2"), "both trials of a")
    second = Driver(cluster.address, "b", 3, tmp_path)
    try:
        wait_until(lambda: second.has("starts b/1"), "the third card is b's")
        assert held() == {"a/1", "a/2", "b/1"}
        assert [one["trial"] for one in cast("list[dict[str, object]]", status()["waiting"])] == ["b/2", "b/3"]

        cluster.add_node(num_cpus=4, num_gpus=1, **OPTIONS)
        wait_until(lambda: second.has("starts b/2"), "a node has joined")

        actor = ray.get_actor(NAME, NAMESPACE)
        ray.kill(actor, no_restart=False)
        wait_until(lambda: (broker_status(5.0) or {}).get("closed_s", 0) != 0, "the broker is started again")
        wait_until(
            lambda: held() == {"a/1", "a/2", "b/1", "b/2"},
            "what is held was reported again",
            known=lambda: f"{status()} {first.output.read_text()} {second.output.read_text()}",
            limit_s=120,
        )
        assert not second.has("starts b/3")

        first.kill()
        wait_until(lambda: second.has("starts b/3"), "the dead driver's cards are free")
        assert held() == {"b/1", "b/2", "b/3"}

        lost = node_ids()[-1]
        here = [one for one in cast("list[dict[str, object]]", status()["held"]) if one["nodes"] == [lost]]
        dead = next(node for node in cluster.list_all_nodes() if node.node_id == lost)
        cluster.remove_node(dead, allow_graceful=False)
        wait_until(lambda: second.has(*(f"pauses {one['trial']}" for one in here)), "trials of a lost node")
        wait_until(lambda: status()["capacity_gpus"] == 3, "its capacity is gone")
    finally:
        first.kill()
        second.kill()
    wait_until(lambda: held() == set(), "nothing is held")


def test_gpus_that_a_raw_job_holds_are_not_allocated_and_are_named(cluster: "Cluster", tmp_path: Path) -> None:
    @ray.remote(num_cpus=0, num_gpus=1)
    class Raw:
        def runs(self) -> bool:
            return True

    raw = Raw.remote()
    assert ray.get(raw.runs.remote(), timeout=120)
    wait_until(lambda: status()["others_gpus"] == 1, "the broker has seen it")
    driver = Driver(cluster.address, "c", 3, tmp_path)
    try:
        wait_until(lambda: driver.has("starts c/1", "starts c/2"), "what is left")
        shown = subprocess.run(
            [sys.executable, "-m", "tune_jobs", "team", "--address", cluster.address],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "other Ray programs hold 1 of the GPUs of 127.0.0.2" in shown
        assert "problem: node 127.0.0.2: Ray counts 2 GPUs and NVML sees none" in shown
        assert not driver.has("starts c/3")
        ray.kill(raw)
        wait_until(lambda: driver.has("starts c/3"), "the raw job has ended")
    finally:
        driver.kill()
