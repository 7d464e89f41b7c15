"""Nodes in trouble under a sweep: one is killed, one hangs, one trial's process hangs. Nothing is lost."""

import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.machines.hardware import Card, Inventory, Node
from cluster.machines.node_watch import LivingNodes
from cluster.machines.ray_nodes import RayNodes
from tests.tune_jobs.driver.ray_sweep import Made, RaySweep
from tests.tune_jobs.options_of import GIB
from tests.tune_jobs.specs_of import METRIC, spec_of
from tune_jobs.driver.sweep_parts import Clocks
from tune_jobs.records.journal import TrialHistory
from tune_jobs.records.trial_spec import EVALUATION_KEY, STARTED_KEY, TrialSpec
from tune_jobs.search.samplers import Sampled
from tune_jobs.trial.tune_session import location, report

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS = 12
HALF_HOUR_S = 1900.0  # a trial that is silent for so long hangs (see config/anomalies.py)


def trial(config: dict[str, object]) -> None:
    """Counts steps; each is reported with a checkpoint.

    A process reports for some seconds after its raylet was killed: the first one of trial 1 never comes to the end.
    """
    spec = TrialSpec.from_tune(config)
    here = {"trial/raylet": location().node, "trial/pid": os.getpid()}
    report({STARTED_KEY: True, **here}, None)
    start = spec.resume_from
    done = json.loads((Path(start) / "state.json").read_text())["step"] if start else 0
    for step in range(done + 1, STEPS + 1):
        is_doomed = spec.number == 1 and start is None and step == STEPS
        time.sleep(900 if is_doomed else 0.4)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "state.json").write_text(json.dumps({"step": step}))
            report({METRIC: float(step), EVALUATION_KEY: step, **here}, Path(folder))


class Saboteur:
    """Does something to the process, or to the raylet, of trial 1 after its second evaluation."""

    def __init__(self, blow: str, raylets: Mapping[str, int]) -> None:
        self.blow, self.raylets = blow, raylets
        self.stopped_pid: int | None = None
        self.passed_s = 0.0

    def __call__(self, trials: Mapping[int, TrialHistory]) -> None:
        if 1 not in trials:
            return
        first, second = trials[1], trials.get(2)
        if self.stopped_pid is None and len(first.evaluations) == 2:
            attempt = first.attempts[-1]
            self.stopped_pid = int(str(attempt["pid"]))
            raylet = self.raylets[str(attempt["raylet"])]
            if self.blow == "node is killed":
                os.kill(raylet, signal.SIGKILL)
            else:  # a raylet that hangs alone holds up no trial that runs
                for pid in (self.stopped_pid, raylet) if self.blow == "node hangs" else (self.stopped_pid,):
                    os.kill(pid, signal.SIGSTOP)
        if self.blow == "worker hangs" and self.stopped_pid is not None and second and second.status is not None:
            self.passed_s = HALF_HOUR_S

    def elapsed_s(self) -> float:
        return time.monotonic() + self.passed_s


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, int]]:
    """Three nodes of one card beside a head without any; process ids of their raylets by node id."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized(), "conftest.py puts the tests that share a Ray last"
    monkeypatch = pytest.MonkeyPatch()
    # A node that does not answer is given up in half a minute instead of Ray's minute; a busy machine's nodes answer.
    for name, value in (("period_ms", "1000"), ("timeout_ms", "5000"), ("failure_threshold", "5")):
        monkeypatch.setenv(f"RAY_health_check_{name}", value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    cluster = Cluster()
    address = {"node_ip_address": "127.0.0.2", "object_store_memory": 100 * 2**20}
    cluster.add_node(num_cpus=0, num_gpus=0, include_dashboard=False, **address)
    workers = [cluster.add_node(num_cpus=2, num_gpus=1, **address) for _ in range(3)]
    ray.init(cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False, logging_level=logging.ERROR)
    yield {node.node_id: _raylet(node) for node in workers}
    ray.shutdown()
    for node in workers:
        with suppress(ProcessLookupError):
            os.kill(_raylet(node), signal.SIGKILL)  # one of them is stopped, and takes no other signal
    cluster.shutdown()
    monkeypatch.undo()


def _raylet(node: Any) -> int:
    (process,) = node.all_processes["raylet"]
    return int(process.process.pid)


def living(nodes: Mapping[str, int]) -> Inventory:
    """The nodes that Ray counts as alive, with a card of 24 GiB each."""
    import ray

    card = Card(model="A", total_bytes=24 * GIB)
    alive = [str(one["NodeID"]) for one in ray.nodes() if one["Alive"] and one["NodeID"] in nodes]
    return Inventory(
        nodes=tuple(Node(name=name, cpus=2.0, memory_bytes=64 * GIB, cards=(card,)) for name in alive), simulated=True
    )


@pytest.mark.parametrize("blow", ["worker hangs", "node is killed", "node hangs"])
def test_the_trial_goes_on_elsewhere_from_its_checkpoint(blow: str, nodes: dict[str, int], tmp_path: Path) -> None:
    """The blows come in this order: each costs the cluster one more of its three nodes."""

    def make_spec(sampled: Sampled) -> TrialSpec:
        return spec_of(tmp_path / "results", str(sampled["name"]), sweep="faults", simulated=True)

    cards, saboteur = living(nodes), Saboteur(blow, nodes)
    sweep = RaySweep(
        folder=tmp_path,
        specs=Made(make_spec=make_spec, inventory=cards, upper_bytes=lambda sampled: 11 * GIB),
        trials=[{"name": "one"}, {"name": "two"}],
        trainable=trial,
        inventory=cards,
        longest=STEPS,
        watch=saboteur,
        nodes=LivingNodes(cards, RayNodes()).poll,
        clocks=Clocks(elapsed_s=saboteur.elapsed_s),
    ).run()
    records = sweep.records
    assert {name: record.status for name, record in records.items()} == {"one": "finished", "two": "finished"}
    for record in records.values():
        assert [row["iteration"] for row in record.history] == list(range(1, STEPS + 1))
    assert records["one"].retries == 1, sweep.shown
    events = sweep.events
    retried = next(event for event in events if event["event"] == "retried" and event["number"] == 1)
    again = next(e for e in events[events.index(retried) :] if e["event"] == "reported" and e["number"] == 1)
    before = [e for e in events[: events.index(retried)] if e["event"] == "reported" and e["number"] == 1]
    given_up_s, next_s = (event["elapsed_s"] - before[-1]["elapsed_s"] for event in (retried, again))  # type: ignore[operator]
    sys.stdout.write(f"{blow}: given up {given_up_s:.1f} s after the last report, next report after {next_s:.1f} s\n")
    assert again["evaluation"] >= before[-1]["evaluation"], "at most the step under way is made again"  # type: ignore[operator]
    if blow != "worker hangs":
        assert again["metrics"]["trial/raylet"] != before[-1]["metrics"]["trial/raylet"]  # type: ignore[index]
    else:
        assert retried["kind"] == "stalled"
        assert "no report for 30 min" in sweep.shown
        assert saboteur.stopped_pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(saboteur.stopped_pid, 0)
