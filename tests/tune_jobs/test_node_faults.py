"""Nodes in trouble under a sweep: one is killed, one hangs, one trial's process hangs. Nothing is lost."""

import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.tune_jobs.ordered import METRIC, order_of
from tune_jobs.driver.card_line import Offer
from tune_jobs.driver.conductor import SweepConductor
from tune_jobs.driver.tuner import FitSettings, fit, last_checkpoint, report
from tune_jobs.driver.view import LogView
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.trial_spec import EVALUATION_KEY, ORDER_KEY, Bundle, TrialOrder
from tune_jobs.search.samplers import ListSampler, Sampled
from tune_jobs.search.stopping import NeverStop

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS = 12


def trial(config: dict[str, object]) -> None:
    """Counts steps; each is reported with a checkpoint.

    A process reports for some seconds after its raylet was killed: the first one of trial 1 never comes to the end.
    """
    import ray

    order = TrialOrder.from_dict(config[ORDER_KEY])  # type: ignore[arg-type]
    start = last_checkpoint()
    done = json.loads((start / "state.json").read_text())["step"] if start else 0
    for step in range(done + 1, STEPS + 1):
        is_doomed = order.number == 1 and start is None and step == STEPS
        time.sleep(900 if is_doomed else 0.4)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "state.json").write_text(json.dumps({"step": step}))
            raylet = ray.get_runtime_context().get_node_id()
            report({METRIC: float(step), EVALUATION_KEY: step, "trial/raylet": raylet}, Path(folder))


class Orders:
    """One CPU and half a card each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        return order_of(self.folder, f"t{number}", number=number, sweep="faults", bundle=Bundle(cpus=1, gpus=0.5))

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        """Ray alone counts."""
        return ()


class Saboteur(SweepConductor):
    """Does something to the process, or to the raylet, of trial 1 after its second evaluation."""

    blow = ""
    raylets: Mapping[str, int] = {}
    struck_at: float | None = None
    stopped_pid: int | None = None

    def reported(self, order: Mapping[str, object], result: Mapping[str, object]) -> bool:
        stop = super().reported(order, result)
        if order["number"] == 1 and result[EVALUATION_KEY] == 2 and self.struck_at is None:
            self.struck_at = time.monotonic()
            worker, raylet = int(str(result["pid"])), self.raylets.get(str(result["trial/raylet"]), 0)
            self.stopped_pid = worker
            assert raylet > 0
            if self.blow == "node is killed":
                os.kill(raylet, signal.SIGKILL)
            else:  # a raylet that hangs alone holds up no trial that runs
                for pid in (worker, raylet) if self.blow == "node hangs" else (worker,):
                    os.kill(pid, signal.SIGSTOP)
        return stop

    def tick(self) -> Collection[int]:
        """Stands for the half hour after which a silent trial is ended."""
        hanging = list(super().tick())
        if self.blow == "worker hangs" and self.struck_at is not None and time.monotonic() - self.struck_at > 3.0:
            self.struck_at = float("inf")
            hanging.append(1)
        return hanging


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
            os.kill(_raylet(node), signal.SIGKILL)  # one of them is stopped, and would hear nothing else
    cluster.shutdown()
    monkeypatch.undo()


def _raylet(node: Any) -> int:
    (process,) = node.all_processes["raylet"]
    return int(process.process.pid)


@pytest.mark.parametrize("blow", ["worker hangs", "node is killed", "node hangs"])
def test_the_trial_goes_on_elsewhere_from_its_checkpoint(blow: str, nodes: dict[str, int], tmp_path: Path) -> None:
    """The blows come in this order: each costs the cluster one more of its three nodes."""
    folder = SweepFolder(tmp_path / "results")
    conductor = Saboteur(
        proposer=ListSampler([{}, {}]),
        orders=Orders(tmp_path),
        rule=NeverStop(),
        progress=SweepProgress(
            sweep="faults", metric=METRIC, goal="maximize", total=2, longest=STEPS, slots=2, started_s=0.0
        ),
        view=LogView(sys.stdout),
        folder=folder,
        journal=Journal(folder.path / "journal.jsonl"),
    )
    conductor.blow, conductor.raylets = blow, nodes
    fit(trial, conductor, FitSettings(folder=tmp_path / "tune", name="run", attempts=5))
    records = {record.trial_id: record for record in folder.load().trials}
    assert {record.status for record in records.values()} == {"finished"}
    assert len(records) == 2
    for record in records.values():
        assert [row["iteration"] for row in record.history] == list(range(1, STEPS + 1))
    assert records["1"].retries == 1
    events = [json.loads(line) for line in (folder.path / "journal.jsonl").read_text().splitlines()]
    retried = next(event for event in events if event["event"] == "retried" and event["number"] == 1)
    again = next(e for e in events[events.index(retried) :] if e["event"] == "reported" and e["number"] == 1)
    before = [e for e in events[: events.index(retried)] if e["event"] == "reported" and e["number"] == 1]
    given_up_s, next_s = (event["elapsed_s"] - before[-1]["elapsed_s"] for event in (retried, again))
    sys.stdout.write(f"{blow}: given up {given_up_s:.1f} s after the last report, next report after {next_s:.1f} s\n")
    assert again["evaluation"] >= before[-1]["evaluation"], "at most the step that was under way is made again"
    if blow != "worker hangs":
        assert again["metrics"]["trial/raylet"] != before[-1]["metrics"]["trial/raylet"]
    else:
        assert conductor.stopped_pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(conductor.stopped_pid, 0)
