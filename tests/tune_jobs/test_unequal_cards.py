"""Placing, holding and recovering trials on a real Ray of three raylets with unequal cards: 24, 40 and 80 GiB.

The trials count instead of training, through the same attempt, guard and door as real ones; what the driver wrote and
what each process was granted by Ray is compared. Nothing depends on how quick the machine is: who has to wait for
somebody waits for a file.
"""

import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from cluster.machines.hardware import GPU_MODEL_LABEL, Inventory, parse_simulated
from cluster.machines.inventory import free_gpus
from cluster.scheduling.occupancy import Occupancy
from common.files import read_jsonl
from dialsum.config import RunConfig
from tests.tune_jobs.counting import STEPS, counting_trial
from tests.tune_jobs.offered import offers_of
from tests.tune_jobs.ordered import METRIC, order_of
from tune_jobs.driver.card_line import PATIENCE, CardLine, Offer
from tune_jobs.driver.conductor import SweepConductor
from tune_jobs.driver.tuner import FitSettings, fit
from tune_jobs.driver.view import LogView
from tune_jobs.placing.resources import SHARE_CLASSES
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import SweepFolder, TrialRecord
from tune_jobs.records.progress import SweepProgress
from tune_jobs.records.trial_spec import Bundle, PretendedUse, TrialOrder
from tune_jobs.search.samplers import ListSampler, Sampled
from tune_jobs.search.stopping import NeverStop

pytestmark = [pytest.mark.ray, pytest.mark.slow]
GIB = 2**30
SIZES = (24, 40, 80)
CARDS = parse_simulated(",".join(f"1x{size}GiB" for size in SIZES))
CPUS = 0.25


@pytest.fixture(scope="module")
def unequal_raylets() -> Iterator[Inventory]:
    """A head without cards and a raylet for each model; what the product sees of them."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from cluster.machines.node_watch import ray_cluster

    assert not ray.is_initialized(), "conftest.py puts the tests that share a Ray last"
    logging.getLogger("ray").setLevel(logging.ERROR)
    cluster = Cluster()
    address = {"node_ip_address": "127.0.0.2", "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster.add_node(num_cpus=0, num_gpus=0, **address)
    for node in CARDS.nodes:
        cluster.add_node(num_cpus=2, num_gpus=1, labels=node.labels, **address)
    ray.init(cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False, logging_level=logging.ERROR)
    yield ray_cluster().inventory
    ray.shutdown()
    cluster.shutdown()


class Orders:
    """Makes trials of a given estimate, some of which pretend to hold something else."""

    def __init__(self, folder: Path, cards: Inventory) -> None:
        self.folder, self.cards = folder, cards

    def make(self, number: int, sampled: Sampled) -> TrialOrder:
        name = str(sampled["name"])
        order = order_of(
            self.folder,
            name,
            RunConfig(batch_size=8),
            number=number,
            sweep="unequal",
            bundle=Bundle(cpus=CPUS),
            sampled=dict(sampled),
            pretended=USES.get(name),
            simulated=True,
        )
        return order.at(self.offers(order)[0].placed)

    def offers(self, order: TrialOrder, least_bytes: int = 0) -> tuple[Offer, ...]:
        return offers_of(order, self.cards, int(float(str(order.sampled["gib"])) * GIB), least_bytes)


class Conductor(SweepConductor):
    """Kills trial "killed" once, and says by a file when "mover" has run out of memory on a whole card."""

    folder_of_files: Path
    killed = False
    over = 0
    when_over: tuple[int, Callable[[], None]] = (0, lambda: None)

    def ended(self, key: str, order: Mapping[str, object], error: BaseException | None) -> None:
        super().ended(key, order, error)
        self.over += 1
        if self.over == self.when_over[0]:
            self.when_over[1]()

    def reported(self, order: Mapping[str, object], result: Mapping[str, object]) -> bool:
        stop = super().reported(order, result)
        if order["name"] == "killed" and result.get("trial/evaluation") == 2 and not self.killed:
            self.killed = True
            os.kill(int(str(result["trial/pid"])), signal.SIGKILL)
        return stop

    def retried(self, order: Mapping[str, object], error: BaseException | None, bundle: Bundle) -> Bundle | None:
        again = super().retried(order, error, bundle)
        if order["name"] == "mover" and bundle.gpus == 1:
            (self.folder_of_files / "mover needs a larger card").touch()
        return again


class Ran:
    """What a sweep left."""

    def __init__(
        self,
        folder: Path,
        cards: Inventory,
        trials: list[dict[str, object]],
        when_over: tuple[int, Callable[[], None]] = (0, lambda: None),
    ) -> None:
        said = io.StringIO()
        results = SweepFolder(folder / "results")
        conductor = Conductor(
            proposer=ListSampler(trials),  # type: ignore[arg-type]
            orders=Orders(folder, cards),
            rule=NeverStop(),
            progress=SweepProgress(
                sweep="unequal",
                metric=METRIC,
                goal="maximize",
                total=len(trials),
                longest=STEPS,
                slots=24,
                started_s=0.0,
            ),
            view=LogView(said),
            folder=results,
            journal=Journal(results.path / "journal.jsonl"),
            cards=CardLine(Occupancy(cards, cpus_per_trial=CPUS), free=free_gpus),
            shares=SHARE_CLASSES,
        )
        conductor.folder_of_files, conductor.when_over = folder, when_over
        fit(counting_trial, conductor, FitSettings(folder=folder / "tune", name="1", attempts=3))
        self.said = said.getvalue()
        self.events = read_jsonl(results.path / "journal.jsonl")[0]
        self.trials = Journal(results.path / "journal.jsonl").trials
        self.records: dict[str, TrialRecord] = {record.name: record for record in results.load().trials}

    def places(self, name: str) -> list[tuple[str, float]]:
        """The models and shares of a trial's starts."""
        number = next(number for number, trial in self.trials.items() if trial.order["name"] == name)
        found = []
        for event in self.events:
            if event["event"] == "started" and event["number"] == number:
                found.append((model_of(event["bundle"]), share_of(event["bundle"])))
        return found


def model_of(bundle: object) -> str:
    assert isinstance(bundle, dict)
    return str(bundle["labels"]["gpu-model"]).removeprefix("simulated-")


def share_of(bundle: object) -> float:
    assert isinstance(bundle, dict)
    return float(bundle["gpus"])


USES = {
    "fits": PretendedUse(fixed_bytes=3 * GIB, bytes_per_sample=GIB // 8),  # 4 GiB as estimated
    "smaller": PretendedUse(fixed_bytes=GIB, bytes_per_sample=2 * GIB),  # 17 GiB; 9 GiB at a micro-batch of 4
    "larger": PretendedUse(fixed_bytes=11 * GIB, bytes_per_sample=0),  # whatever the micro-batch
    "mover": PretendedUse(fixed_bytes=50 * GIB, bytes_per_sample=0),  # more than a card of 40 GiB
    "giant": PretendedUse(fixed_bytes=500 * GIB, bytes_per_sample=0),  # more than any card
}
RECOVERED: list[dict[str, object]] = [
    {"name": "holder", "gib": 70, "wait_for": "mover needs a larger card"},
    {"name": "impossible", "gib": 90},
    {"name": "mover", "gib": 35},
    {"name": "fits", "gib": 4},
    {"name": "smaller", "gib": 9},
    {"name": "larger", "gib": 5},
    {"name": "killed", "gib": 3},
    *({"name": f"small{number}", "gib": 2.5} for number in range(3)),
    {"name": "giant", "gib": 20},
]


@pytest.fixture(scope="module")
def recovered(unequal_raylets: Inventory, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One sweep in which everything goes wrong that can."""
    return Ran(tmp_path_factory.mktemp("recovered"), unequal_raylets, RECOVERED)


def test_the_cluster_is_seen_as_it_was_started(unequal_raylets: Inventory) -> None:
    pools = [(pool.model, pool.cards, pool.total_bytes, pool.usable_bytes) for pool in unequal_raylets.pools]
    assert pools == [(pool.model, pool.cards, pool.total_bytes, pool.usable_bytes) for pool in CARDS.pools]
    assert unequal_raylets.simulated


def test_every_trial_ends_as_it_must(recovered: Ran) -> None:
    outcomes = {name: record.status for name, record in recovered.records.items()}
    odd = {"trial 2": "refused", "giant": "oom"}
    assert outcomes == {str(one["name"]): "finished" for one in RECOVERED if one["name"] != "impossible"} | odd
    steps = {name: [row["iteration"] for row in record.history] for name, record in recovered.records.items()}
    assert all(made == [1, 2, 3] for name, made in steps.items() if name not in odd)


def test_shares_are_the_estimates_and_ray_granted_them_where_the_label_says(recovered: Ran) -> None:
    usable = {pool.model.removeprefix("simulated-"): pool.usable_bytes for pool in CARDS.pools}
    models = set()
    for name, trial in recovered.trials.items():
        for event in recovered.events:
            if event["number"] != name or event["event"] not in ("started", "reported"):
                continue
            if event["event"] == "started":
                bundle = event["bundle"]
                model, share = model_of(bundle), share_of(bundle)
                assert share in SHARE_CLASSES
                assert share * usable[model] >= float(str(trial.order["sampled"]["gib"])) * GIB * 0.9999  # type: ignore[index]
                models.add(model)
                continue
            metrics = event["metrics"]
            assert isinstance(metrics, dict)
            assert (metrics["trial/gpu_model"], metrics["trial/granted"]) == (f"simulated-{model}", share)
            assert metrics["trial/card"] == "0"
    assert models == set(usable), "all models are used"


def test_no_card_was_promised_more_than_once(recovered: Ran) -> None:
    held: dict[object, tuple[str, float]] = {}
    for event in recovered.events:
        if event["event"] == "started":
            held[event["number"]] = (model_of(event["bundle"]), share_of(event["bundle"]))
        elif event["event"] in ("ended", "retried"):
            held.pop(event["number"], None)
        for model in {model for model, _ in held.values()}:
            assert sum(share for other, share in held.values() if other == model) <= 1 + 1e-9, (event, held)
    assert held == {}


def test_the_impossible_is_refused_at_once_with_words(recovered: Ran) -> None:
    record = recovered.records["trial 2"]
    assert record.error is not None
    assert "needs 90.0 GiB on one card, found 1 x simulated-24GiB, 1 x simulated-40GiB, 1 x simulated-80GiB" in str(
        record.error.message
    )
    numbers = [event["number"] for event in recovered.events if event["event"] in ("started", "ended")]
    assert numbers.index(2) <= 1, "while the first one ran"


def test_an_out_of_memory_is_mended_in_place_by_a_smaller_micro_batch(recovered: Ran) -> None:
    record = recovered.records["smaller"]
    assert record.plan == {
        "micro_batch": 4,
        "accumulation": 2,
        "gradient_checkpointing": False,
        "ranks": 1,
        "sharded": False,
    }
    assert (record.retries, len(recovered.places("smaller"))) == (0, 1)
    measured = record.measured
    assert measured is not None
    assert measured["device_bytes"] == 9 * GIB
    assert recovered.trials[4].order["shape"] == recovered.records["fits"].plan


def test_then_by_a_larger_share_from_its_checkpoint(recovered: Ran) -> None:
    places = recovered.places("larger")
    usable = {pool.model.removeprefix("simulated-"): pool.usable_bytes for pool in CARDS.pools}
    held = [share * usable[model] for model, share in places]
    assert held == sorted(held)
    assert held[-2] < 11 * GIB <= held[-1]
    assert recovered.records["larger"].retries == len(places) - 1 >= 1
    assert "failed and starts again: out of memory; " in recovered.said


def test_then_by_a_model_with_larger_cards(recovered: Ran) -> None:
    places = recovered.places("mover")
    moved = [model for model, _ in places].index("80GiB")
    assert places[moved - 1] == ("40GiB", 1.0)
    assert {model for model, _ in places[:moved]} == {"40GiB"}
    assert {model for model, _ in places[moved:]} == {"80GiB"}
    assert recovered.records["mover"].gpu_model == "simulated-80GiB"
    assert "out of memory; a larger card is needed" in recovered.said


def test_and_then_given_up_with_words(recovered: Ran) -> None:
    record = recovered.records["giant"]
    assert record.error is not None
    assert recovered.places("giant")[-1] == ("80GiB", 1.0)
    assert "it had all that a card here can give: giant: needs 7" in record.error.message
    assert "would fit with a card of at least" in record.error.message


def test_kill_9_of_a_worker_costs_the_steps_since_its_last_checkpoint(recovered: Ran) -> None:
    assert recovered.records["killed"].retries == 1
    assert recovered.trials[7].retries == ["worker_lost"]
    again = [event["evaluation"] for event in recovered.events if event["event"] == "reported" and event["number"] == 7]
    assert again in ([1, 2, 3], [1, 2, 2, 3])


def test_a_large_trial_starts_in_spite_of_a_stream_of_small_ones(unequal_raylets: Inventory, tmp_path: Path) -> None:
    large = 5
    stream: list[dict[str, object]] = [{"name": f"s{number}", "gib": 9} for number in range(1, 14)]
    stream.insert(large - 1, {"name": "large", "gib": 75})
    ran = Ran(tmp_path, unequal_raylets, stream)
    assert {record.status for record in ran.records.values()} == {"finished"}
    assert ran.places("large") == [("80GiB", 1.0)]
    started = [event for event in ran.events if event["event"] == "started"]
    before = started[: [event["number"] for event in started].index(large)]
    later = [event for event in before if int(str(event["number"])) > large]
    assert sum(model_of(event["bundle"]) == "80GiB" for event in later) <= PATIENCE


def test_beside_others_who_hold_two_models_all_but_one_trial_go_where_there_is_room(
    unequal_raylets: Inventory, tmp_path: Path
) -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    models = [f"simulated-{size}GiB" for size in SIZES[:2]]
    held = [placement_group([{"GPU": 1}], bundle_label_selector=[{GPU_MODEL_LABEL: model}]) for model in models]
    ray.get([group.ready() for group in held], timeout=300)

    def they_leave() -> None:
        for group in held:
            remove_placement_group(group)

    trials: list[dict[str, object]] = [{"name": f"t{number}", "gib": 9} for number in range(11)]  # eight have room
    ran = Ran(tmp_path, unequal_raylets, trials, (len(trials) - 1, they_leave))
    assert {record.status for record in ran.records.values()} == {"finished"}
    models_of = [ran.places(str(one["name"]))[-1][0] for one in trials]
    assert models_of.count("80GiB") >= len(trials) - 1


def test_the_command_lists_the_cards_of_every_node(unequal_raylets: Inventory) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "cluster", "gpus", "--address", address, "--format", "json"]
    mode = os.environ.get("RAY_AUTH_MODE", "disabled")
    done = subprocess.run(
        command, env=os.environ | {"RAY_AUTH_MODE": mode}, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    cards = sorted((card["model"], card["total_bytes"]) for node in seen["nodes"] for card in node["cards"])
    assert cards == sorted((f"simulated-{size}GiB", size * GIB) for size in SIZES)
    assert (seen["simulated"], seen["problems"], len(seen["nodes"])) == (True, [], 4)
