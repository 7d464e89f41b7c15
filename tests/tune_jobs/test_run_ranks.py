"""Trials on two cards on a real Ray with the real trainer (gloo, logical cards): placed, resumed, stopped, gone."""

import contextlib
import io
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.machines.hardware import parse_simulated
from common.files import read_jsonl
from dialsum.config import RunConfig
from tests.tune_jobs.counting import STEPS, counting_trial
from tests.tune_jobs.ordered import METRIC, order_of
from tests.tune_jobs.placing.linear_estimator import LinearEstimator
from tests.tune_jobs.tiny import tiny_config, write_dialogues
from tune_jobs.config.sections import Resources
from tune_jobs.driver.card_line import Offer
from tune_jobs.driver.conductor import SweepConductor
from tune_jobs.driver.tuner import FitSettings, fit
from tune_jobs.driver.view import LogView
from tune_jobs.placing.resources import SHARE_CLASSES, SharePlacer, placer_for
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.trial_spec import Bundle, PretendedUse, TrialOrder
from tune_jobs.search.samplers import ListSampler, Sampled
from tune_jobs.search.stopping import NeverStop
from tune_jobs.trial.ranks import _started
from tune_jobs.trial.recovery import RunShape
from tune_jobs.trial.run_trial import run_trial

GIB = 2**30
TOO_LARGE = PretendedUse(fixed_bytes=GIB, bytes_per_sample=8 * GIB)  # with four dialogues on a card; two fit
TOGETHER, APART = "together", "apart"  # trials, and the GPU models that they ask for


class TwoCards:
    """Makes tiny trials on two whole cards each; the second one's model is divided among them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_dialogues(folder, train_count=32, dev_count=5)

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        name = str(sampled["model"])
        return order_of(
            self.folder,
            name,
            tiny_config(self.folder, num_epochs=4 if name == TOGETHER else 1, generation_max_len=4),
            number=number,
            sweep="ranks",
            bundle=Bundle(cpus=1, gpus=2.0, labels={"gpu-model": name}, spread=name == APART),
            shape=RunShape(micro_batch=4, accumulation=1, ranks=2, sharded=name == APART),
            usable_bytes=24 * GIB,
            pretended=TOO_LARGE if name == APART else None,
            simulated=True,
        )

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        """None: Ray alone counts."""
        return ()


class Watched(SweepConductor):
    """Kills the second process of the first trial with signal 9 after its second evaluation, and stops that trial after
    its third; remembers where every process was."""

    def __init__(self, **parts: object) -> None:
        super().__init__(**parts)  # type: ignore[arg-type]
        self.processes: set[int] = set()
        self.cards: dict[str, str] = {}
        self.groups: dict[str, tuple[str, list[dict[str, float]], int]] = {}

    def reported(self, order: Mapping[str, object], result: Mapping[str, object]) -> bool:
        name, evaluation = str(order["name"]), result["trial/evaluation"]
        stop = super().reported(order, result)
        processes = [int(number) for number in str(result["trial/processes"]).split(",")]
        self.processes |= set(processes)
        self.cards[name] = ",".join(sorted(str(result["trial/card"]).split(",")))
        self._remember_group(name, str(result["trial/raylet"]))
        if name == TOGETHER and evaluation == 2:
            os.kill(processes[1], signal.SIGKILL)
        if name == TOGETHER and evaluation == 3:
            self._reasons[1] = "shown to be stopped"
            return True
        return stop

    def _remember_group(self, name: str, raylet: str) -> None:
        for group in ray.util.placement_group_table().values():
            nodes = list(group["bundles_to_node_id"].values())
            if group["state"] == "CREATED" and raylet in nodes:
                self.groups[name] = (group["strategy"], list(group["bundles"].values()), len(set(nodes)))


@pytest.fixture(scope="module")
def raylets() -> Iterator[None]:
    """A head without cards, a machine with two cards of one model, and two machines with one card of another."""
    assert not ray.is_initialized(), "conftest.py puts the tests that share a Ray last"
    logging.getLogger("ray").setLevel(logging.ERROR)
    cluster = Cluster()
    address = {"node_ip_address": "127.0.0.2", "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster.add_node(num_cpus=0, num_gpus=0, **address)
    for model, cards in ((TOGETHER, 2), (APART, 1), (APART, 1)):
        cluster.add_node(num_cpus=2, num_gpus=cards, labels={"gpu-model": model}, **address)
    ray.init(cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("raylets")
def test_trials_on_two_cards_resume_after_a_kill_are_stopped_end_and_leave_no_process(tmp_path: Path) -> None:
    said = io.StringIO()
    results = SweepFolder(tmp_path / "results")
    conductor = Watched(
        proposer=ListSampler([{"model": TOGETHER}, {"model": APART}]),
        orders=TwoCards(tmp_path),
        rule=NeverStop(),
        progress=SweepProgress(
            sweep="ranks", metric=METRIC, goal="maximize", total=2, longest=4, slots=2, started_s=0.0
        ),
        view=LogView(said),
        folder=results,
        journal=Journal(results.path / "journal.jsonl"),
    )
    fit(run_trial, conductor, FitSettings(folder=tmp_path / "tune", name="1", attempts=3, max_concurrent=2))
    two = [{"CPU": 0.5, "GPU": 1.0}] * 2
    assert conductor.groups == {TOGETHER: ("STRICT_PACK", two, 1), APART: ("PACK", two, 2)}, said.getvalue()
    together, apart = sorted(results.load().trials, key=lambda record: record.trial_id)
    assert (together.status, together.share, together.retries) == ("stopped", 2.0, 1), said.getvalue()
    assert (apart.status, apart.share, apart.retries) == ("finished", 2.0, 0), said.getvalue()
    plans = [(record.plan or {}).get(name) for record in (together, apart) for name in ("micro_batch", "accumulation")]
    sharded = [(record.plan or {}).get("sharded") for record in (together, apart)]
    assert sharded == [False, True]
    assert plans == [4, 1, 2, 2], said.getvalue()  # the out-of-memory of a process was mended in place, in all
    assert apart.measured is not None
    assert apart.measured["device_bytes"] == 17 * GIB
    steps = {record.name: [row["train/global_step"] for row in record.history] for record in (together, apart)}
    assert steps == {TOGETHER: [4.0, 8.0, 12.0], APART: [4.0]}
    assert "trial 1 starts, 2 cards: together" in said.getvalue()
    assert "trial 1 failed and starts again: worker lost" in said.getvalue()
    assert (conductor.cards, len(conductor.processes)) == ({TOGETHER: "0,1", APART: "0,0"}, 6)  # two, two again, two
    left = [psutil.Process(process) for process in conductor.processes if psutil.pid_exists(process)]
    psutil.wait_procs(left, timeout=300)
    assert [process for process in conductor.processes if psutil.pid_exists(process)] == []


class OneCardFirst:
    """Makes a trial by the product's own placer, which believes that it needs a third of a card; it needs 30 GiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cards = parse_simulated(f"2x{TOGETHER}:24GiB")
        found = placer_for(cards, Resources(cpus_per_trial=0.5), estimator=LinearEstimator)
        assert isinstance(found, SharePlacer)
        self.placer = found

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        order = order_of(
            self.folder, str(sampled["name"]), RunConfig(model="kobart", batch_size=8), number=number,
            pretended=PretendedUse(fixed_bytes=30 * GIB, bytes_per_sample=0), simulated=True,
        )  # fmt: skip
        return order.at(self.offers(order)[0].placed)

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        return self.placer.offers(order.name, RunConfig.from_dict(order.config), least_bytes)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("raylets")
def test_a_trial_that_outgrows_a_whole_card_is_divided_among_two(tmp_path: Path) -> None:
    said = io.StringIO()
    results, orders = SweepFolder(tmp_path / "results"), OneCardFirst(tmp_path)
    conductor = SweepConductor(
        proposer=ListSampler([{"name": "wrong"}]),
        orders=orders,
        rule=NeverStop(),
        progress=SweepProgress(
            sweep="sample", metric=METRIC, goal="maximize", total=1, longest=STEPS, slots=1, started_s=0.0
        ),
        view=LogView(said),
        folder=results,
        journal=Journal(results.path / "journal.jsonl"),
        cards=orders.placer.line(),
        shares=SHARE_CLASSES,
    )
    fit(counting_trial, conductor, FitSettings(folder=tmp_path / "tune", name="1", attempts=3))
    (record,) = results.load().trials
    assert (record.status, record.share, record.retries) == ("finished", 2.0, 4), said.getvalue()
    started = [event for event in read_jsonl(results.path / "journal.jsonl")[0] if event["event"] == "started"]
    assert [event["bundle"]["gpus"] for event in started] == [0.375, 0.5625, 0.875, 1.0, 2.0]  # type: ignore[index]
    assert record.plan == {
        "micro_batch": 4, "accumulation": 1, "gradient_checkpointing": False, "ranks": 2, "sharded": True,
    }  # fmt: skip
    assert "trial 1 failed and starts again: out of memory; 1 -> 2 cards" in said.getvalue()
    assert record.estimate is not None
    assert record.estimate["layout"] == "divided"


class Trial:
    """In place of a trial's own process: starts those of the cards and does nothing."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()

    def start(self, order: TrialOrder) -> list[int]:
        ranks = self._open.enter_context(_started(order))
        self._words = [rank.words.remote() for rank in ranks]  # which never come: each process waits in a thread
        return [os.getpid(), *(process for *_, process in ray.get([rank.seat.remote() for rank in ranks]))]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("raylets")
def test_a_killed_trial_takes_the_processes_of_its_cards_along(tmp_path: Path) -> None:
    group = ray.util.placement_group(
        [{"CPU": 0.5, "GPU": 1.0}] * 2, strategy="STRICT_PACK", bundle_label_selector=[{"gpu-model": TOGETHER}] * 2
    )
    ray.get(group.ready(), timeout=300)
    seat = PlacementGroupSchedulingStrategy(
        placement_group=group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    trial = ray.remote(Trial).options(num_cpus=0.5, num_gpus=1, scheduling_strategy=seat).remote()
    numbers = ray.get(trial.start.remote(TwoCards(tmp_path).make(1, {"model": TOGETHER})), timeout=300)
    processes = [psutil.Process(number) for number in numbers]
    assert len(set(numbers)) == 3
    processes[0].send_signal(signal.SIGKILL)
    _, left = psutil.wait_procs(processes, timeout=300)
    assert left == []
    ray.util.remove_placement_group(group)
