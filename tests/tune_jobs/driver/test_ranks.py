"""Trials on two cards on a real Ray with the real trainer (gloo, simulated cards): placed, resumed, stopped, gone."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.tune.schedulers import FIFOScheduler
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.machines.hardware import Card, Inventory, Node
from dialsum.config import RunConfig
from tests.tune_jobs.counting import counting_trial
from tests.tune_jobs.driver.ray_sweep import Made, RaySweep, once
from tests.tune_jobs.linear_devices import LinearDevice, LinearDevices
from tests.tune_jobs.options_of import GIB
from tests.tune_jobs.placing.linear_estimator import LinearEstimator
from tests.tune_jobs.specs_of import spec_of
from tests.tune_jobs.tiny import tiny_config, write_dialogues
from tune_jobs.config.sections import Resources
from tune_jobs.placing.placer import Option, Placer, placer_for
from tune_jobs.records.journal import TrialHistory
from tune_jobs.records.trial_spec import Bundle, RunShape, TrialSpec
from tune_jobs.search.samplers import Sampled
from tune_jobs.trial.ranks import _started
from tune_jobs.trial.run_trial import run_trial

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TOGETHER, APART = "together", "apart"  # trials, and the GPU models that they run on
USES = LinearDevices(
    {
        APART: LinearDevice(fixed_bytes=GIB, bytes_per_sample=8 * GIB),  # too much with four dialogues on a card
        "wrong": LinearDevice(fixed_bytes=30 * GIB),
    }
)


def training(config: dict[str, object]) -> None:
    """Trains on pretended cards."""
    run_trial(config, USES)


def counting(config: dict[str, object]) -> None:
    """Counts on pretended cards."""
    counting_trial(config, USES)


@pytest.fixture(scope="module")
def raylets() -> Iterator[Inventory]:
    """A head without cards, a machine with two cards of one model, and two machines with one card of another."""
    assert not ray.is_initialized(), "conftest.py puts the tests that share a Ray last"
    logging.getLogger("ray").setLevel(logging.ERROR)
    cluster = Cluster()
    address = {"node_ip_address": "127.0.0.2", "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster.add_node(num_cpus=0, num_gpus=0, **address)
    nodes = []
    for model, cards in ((TOGETHER, 2), (APART, 1), (APART, 1)):
        name = cluster.add_node(num_cpus=2, num_gpus=cards, labels={"gpu-model": model}, **address).node_id
        of_node = tuple(Card(model=model, total_bytes=24 * GIB, index=index) for index in range(cards))
        nodes.append(Node(name=name, cpus=2.0, memory_bytes=64 * GIB, cards=of_node))
    ray.init(cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False, logging_level=logging.ERROR)
    yield Inventory(nodes=tuple(nodes), simulated=True)
    ray.shutdown()
    cluster.shutdown()


def two_cards(folder: Path, name: str) -> TrialSpec:
    """A tiny trial on two whole cards; the model of APART is divided among them."""
    return spec_of(
        folder / "results",
        name,
        tiny_config(folder, num_epochs=4 if name == TOGETHER else 1, generation_max_len=4),
        sweep="ranks",
        bundle=Bundle(cpus=1, gpus=2.0, spread=name == APART),
        shape=RunShape(micro_batch=4, accumulation=1, ranks=2, sharded=name == APART),
        usable_bytes=24 * GIB,
        simulated=True,
    )


class StopFirstAtThree(FIFOScheduler):  # type: ignore[misc]
    """Stops trial 1 at its third evaluation."""

    def on_trial_result(self, tune_controller: object, trial: object, result: dict[str, object]) -> str:
        ends = trial.trial_id == "00001" and result["training_iteration"] == 3  # type: ignore[attr-defined]
        return str(FIFOScheduler.STOP if ends else FIFOScheduler.CONTINUE)


class Groups:
    """The placement groups that trials had while they ran: strategy, bundles and number of nodes."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[str, list[dict[str, float]], int]] = {}

    def __call__(self, trials: Mapping[int, TrialHistory]) -> None:
        for trial in trials.values():
            if not trial.running or trial.name in self.of or "raylet" not in trial.attempts[-1]:
                continue
            for group in ray.util.placement_group_table().values():
                nodes = list(group["bundles_to_node_id"].values())
                if group["state"] == "CREATED" and trial.attempts[-1]["raylet"] in nodes:
                    self.of[trial.name] = (group["strategy"], list(group["bundles"].values()), len(set(nodes)))


def processes_of(trial: TrialHistory) -> list[int]:
    """The processes of its cards at its last evaluation."""
    return [int(one) for one in str(trial.evaluations[max(trial.evaluations)].metrics["trial/processes"]).split(",")]


def test_trials_on_two_cards_resume_after_a_kill_are_stopped_end_and_leave_no_process(
    raylets: Inventory, tmp_path: Path
) -> None:
    write_dialogues(tmp_path, train_count=32, dev_count=5)
    groups, processes = Groups(), set[int]()
    kill = once(
        lambda trials: trials[1] if 1 in trials and len(trials[1].evaluations) == 2 else None,
        lambda trial: os.kill(processes_of(trial)[1], signal.SIGKILL),
    )

    def watch(trials: Mapping[int, TrialHistory]) -> None:
        groups(trials)
        for trial in trials.values():
            processes.update(processes_of(trial) if trial.evaluations else ())
        kill(trials)

    sweep = RaySweep(
        folder=tmp_path,
        specs=Made(
            make_spec=lambda sampled: two_cards(tmp_path, str(sampled["model"])),
            inventory=raylets,
            upper_bytes=lambda sampled: 20 * GIB,
            models=lambda sampled: (str(sampled["model"]),),
        ),
        trials=[{"model": TOGETHER}, {"model": APART}],
        trainable=training,
        inventory=raylets,
        longest=4,
        scheduler=StopFirstAtThree,
        watch=watch,
    ).run()
    two = [{"CPU": 0.5, "GPU": 1.0}] * 2
    assert groups.of == {TOGETHER: ("STRICT_PACK", two, 1), APART: ("PACK", two, 2)}, sweep.shown
    together, apart = sweep.records[TOGETHER], sweep.records[APART]
    assert (together.status, together.share, together.retries) == ("stopped", 2.0, 1), sweep.shown
    assert (apart.status, apart.share, apart.retries) == ("finished", 2.0, 0), sweep.shown
    plans = [(record.plan or {}).get(name) for record in (together, apart) for name in ("micro_batch", "accumulation")]
    assert [(record.plan or {}).get("sharded") for record in (together, apart)] == [False, True]
    assert plans == [4, 1, 2, 2], sweep.shown  # the out-of-memory of a process was mended in place, in all
    assert apart.measured is not None
    assert apart.measured["device_bytes"] == 17 * GIB
    steps = {record.name: [row["train/global_step"] for row in record.history] for record in (together, apart)}
    assert steps == {TOGETHER: [4.0, 8.0, 12.0], APART: [4.0]}
    assert "trial 1 starts, 2 cards: together" in sweep.shown
    assert "trial 1 failed and starts again: worker lost" in sweep.shown
    cards = {name: ",".join(sorted(str(record.card).split(","))) for name, record in sweep.records.items()}
    assert (cards, len(processes)) == ({TOGETHER: "0,1", APART: "0,0"}, 6)  # two, two again, two
    left = [psutil.Process(process) for process in processes if psutil.pid_exists(process)]
    psutil.wait_procs(left, timeout=300)
    assert [process for process in processes if psutil.pid_exists(process)] == []


class OneCardFirst:
    """Makes a trial by the product's own placer, which believes that it needs a third of a card; it needs 30 GiB."""

    def __init__(self, folder: Path, cards: Inventory) -> None:
        self.folder = folder
        self.placer: Placer = placer_for(cards, Resources(cpus_per_trial=0.5), LinearEstimator())

    def make(self, number: int, sampled: Sampled) -> TrialSpec:
        config = RunConfig(model="kobart", batch_size=8)
        spec = spec_of(self.folder / "results", str(sampled["name"]), config, number=number, simulated=True)
        return spec.at(self.options(spec)[0].placement)

    def options(self, spec: TrialSpec, least_bytes: int = 0) -> tuple[Option, ...]:
        return self.placer.options(spec.name, RunConfig.from_dict(spec.config), least_bytes)


def test_a_trial_that_outgrows_a_whole_card_is_divided_among_two(raylets: Inventory, tmp_path: Path) -> None:
    cards = replace(raylets, nodes=raylets.nodes[:1])
    sweep = RaySweep(
        folder=tmp_path,
        specs=OneCardFirst(tmp_path, cards),
        trials=[{"name": "wrong"}],
        trainable=counting,
        inventory=cards,
    ).run()
    record = sweep.records["wrong"]
    assert (record.status, record.share, record.retries) == ("finished", 2.0, 4), sweep.shown
    started = [event for event in sweep.events if event["event"] == "started"]
    assert [event["bundle"]["gpus"] for event in started] == [0.375, 0.5625, 0.875, 1.0, 2.0]  # type: ignore[index]
    assert record.plan == {
        "micro_batch": 4, "accumulation": 1, "gradient_checkpointing": False, "ranks": 2, "sharded": True,
        "generation_batch": 32,
    }  # fmt: skip
    assert "trial 1 failed and starts again: out of memory; 1 -> 2 cards" in sweep.shown
    assert record.estimate is not None
    assert record.estimate["layout"] == "divided"


class Trial:
    """In place of a trial's own process: starts those of the cards and does nothing."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()

    def start(self, spec: TrialSpec) -> list[int]:
        ranks = self._open.enter_context(_started(spec))
        self._messages = [rank.messages.remote() for rank in ranks]  # which never come: each process waits in a thread
        return [os.getpid(), *(process for *_, process in ray.get([rank.seat.remote() for rank in ranks]))]  # type: ignore[misc]


@pytest.mark.timeout(600)
def test_a_killed_trial_takes_the_processes_of_its_cards_along(raylets: Inventory, tmp_path: Path) -> None:
    node = [{"ray.io/node-id": raylets.nodes[0].name}] * 2
    group = ray.util.placement_group([{"CPU": 0.5, "GPU": 1.0}] * 2, strategy="STRICT_PACK", bundle_label_selector=node)
    ray.get(group.ready(), timeout=300)
    seat = PlacementGroupSchedulingStrategy(
        placement_group=group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    trial = ray.remote(Trial).options(num_cpus=0.5, num_gpus=1, scheduling_strategy=seat).remote()
    numbers = ray.get(trial.start.remote(two_cards(tmp_path, TOGETHER)), timeout=300)
    processes = [psutil.Process(number) for number in numbers]
    assert len(set(numbers)) == 3
    processes[0].send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs(processes, timeout=300)
    assert left == []
    ray.util.remove_placement_group(group)
