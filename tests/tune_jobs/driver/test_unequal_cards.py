"""Placing, holding and recovering trials on a real Ray of three raylets with unequal cards: 24, 40 and 80 GiB.

The trials count instead of training, through the same attempt, guard and session as real ones; what the driver wrote
and what each process was granted by Ray is compared. Nothing depends on how quick the machine is: who has to wait for
somebody waits for a file.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from cluster.machines.hardware import GPU_MODEL_LABEL, Inventory, parse_simulated
from cluster.scheduling.broker import MAX_OVERTAKEN
from dialsum.config import RunConfig
from tests.tune_jobs.counting import counting_trial
from tests.tune_jobs.driver.ray_sweep import Made, RaySweep, once
from tests.tune_jobs.linear_devices import LinearDevice, LinearDevices
from tests.tune_jobs.options_of import GIB
from tests.tune_jobs.specs_of import spec_of
from tune_jobs.driver import trial_queue
from tune_jobs.placing.placer import SHARE_CLASSES
from tune_jobs.records.journal import TrialHistory
from tune_jobs.records.trial_spec import Bundle, TrialSpec
from tune_jobs.search.samplers import Sampled

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SIZES = (24, 40, 80)
CARDS = parse_simulated(",".join(f"1x{size}GiB" for size in SIZES))
CPUS = 0.25
USES = LinearDevices(
    {
        "fits": LinearDevice(fixed_bytes=3 * GIB, bytes_per_sample=GIB // 8),  # 4 GiB as estimated
        "smaller": LinearDevice(fixed_bytes=GIB, bytes_per_sample=2 * GIB),  # 17 GiB; 9 GiB at a micro-batch of 4
        "larger": LinearDevice(fixed_bytes=11 * GIB),  # whatever the micro-batch
        "mover": LinearDevice(fixed_bytes=50 * GIB),  # more than a card of 40 GiB
        "giant": LinearDevice(fixed_bytes=500 * GIB),  # more than any card
    }
)
LARGER_CARD = "mover needs a larger card"
TRIALS: list[dict[str, object]] = [
    {"name": "holder", "gib": 70, "wait_for": LARGER_CARD},
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


def pretending(config: dict[str, object]) -> None:
    """Counts on pretended cards."""
    counting_trial(config, USES)


def sweep_of(folder: Path, cards: Inventory, trials: list[dict[str, object]]) -> RaySweep:
    def make_spec(sampled: Sampled) -> TrialSpec:
        return spec_of(
            folder / "results",
            str(sampled["name"]),
            RunConfig(batch_size=8),
            sweep="unequal",
            bundle=Bundle(cpus=CPUS),
            simulated=True,
        )

    return RaySweep(
        folder=folder,
        specs=Made(
            make_spec=make_spec,
            inventory=cards,
            upper_bytes=lambda sampled: int(float(str(sampled["gib"])) * GIB),
        ),
        trials=trials,
        trainable=pretending,
        inventory=cards,
    )


def gpu_models(cards: Inventory) -> dict[str, str]:
    """The model of each node with a card."""
    return {node.name: node.cards[0].model.removeprefix("simulated-") for node in cards.nodes if node.cards}


class Starts:
    """On which models and with which shares the trials of a sweep started."""

    def __init__(self, sweep: RaySweep, cards: Inventory) -> None:
        models = gpu_models(cards)
        self.of: dict[str, list[tuple[str, float]]] = {}
        names = {trial.number: name for name, trial in sweep.history.items()}
        for event in sweep.events:
            if event["event"] == "started":
                bundle = event["bundle"]
                assert isinstance(bundle, dict)
                (node,) = bundle["nodes"]
                self.of.setdefault(names[int(str(event["number"]))], []).append((models[node], float(bundle["gpus"])))


@pytest.fixture(scope="module")
def recovered(unequal_raylets: Inventory, tmp_path_factory: pytest.TempPathFactory) -> RaySweep:
    """One sweep in which everything goes wrong that can."""
    sweep = sweep_of(tmp_path_factory.mktemp("recovered"), unequal_raylets, TRIALS)
    kill = once(
        lambda trials: trials[7] if len(trials[7].evaluations) == 2 and trials[7].running else None,
        lambda trial: os.kill(int(str(trial.attempts[-1]["pid"])), signal.SIGKILL),
    )

    def watch(trials: Mapping[int, TrialHistory]) -> None:
        if set(trials) >= {3, 7}:
            kill(trials)
            mover = trials[3]
            if mover.retries and not mover.running and mover.bundle["gpus"] == 1:
                (sweep.results.path / LARGER_CARD).touch()

    sweep.watch = watch
    return sweep.run()


def test_the_cluster_is_seen_as_it_was_started(unequal_raylets: Inventory) -> None:
    pools = [(pool.model, pool.cards, pool.total_bytes, pool.usable_bytes) for pool in unequal_raylets.pools]
    assert pools == [(pool.model, pool.cards, pool.total_bytes, pool.usable_bytes) for pool in CARDS.pools]
    assert unequal_raylets.simulated


def test_every_trial_ends_as_it_must(recovered: RaySweep) -> None:
    outcomes = {name: record.status for name, record in recovered.records.items()}
    odd = {"trial 2": "refused", "giant": "oom"}
    assert outcomes == {str(one["name"]): "finished" for one in TRIALS if one["name"] != "impossible"} | odd
    steps = {name: [row["iteration"] for row in record.history] for name, record in recovered.records.items()}
    assert all(made == [1, 2, 3] for name, made in steps.items() if name not in odd)


def test_shares_follow_the_estimates_and_ray_grants_them_on_the_node_of_the_allocation(
    recovered: RaySweep, unequal_raylets: Inventory
) -> None:
    usable = {pool.model.removeprefix("simulated-"): pool.usable_bytes for pool in CARDS.pools}
    models = gpu_models(unequal_raylets)
    used = set()
    for trial in recovered.history.values():
        for event in recovered.events:
            if event["number"] != trial.number or event["event"] not in ("started", "reported"):
                continue
            if event["event"] == "started":
                bundle = event["bundle"]
                assert isinstance(bundle, dict)
                (node,), share = bundle["nodes"], bundle["gpus"]
                assert share in SHARE_CLASSES
                assert share * usable[models[node]] >= float(str(trial.spec["sampled"]["gib"])) * GIB * 0.9999  # type: ignore[index]
                used.add(models[node])
                continue
            metrics = event["metrics"]
            assert isinstance(metrics, dict)
            assert (metrics["trial/raylet"], metrics["trial/granted"]) == (node, share)
            assert (metrics["trial/card"], metrics["trial/gpu_model"]) == ("0", f"simulated-{models[node]}")
    assert used == set(usable), "all models are used"


def test_no_card_was_promised_more_than_once(recovered: RaySweep) -> None:
    held: dict[object, tuple[str, float]] = {}
    for event in recovered.events:
        if event["event"] == "started":
            bundle = event["bundle"]
            assert isinstance(bundle, dict)
            held[event["number"]] = (bundle["nodes"][0], bundle["gpus"])
        elif event["event"] in ("ended", "retried"):
            held.pop(event["number"], None)
        for node in {node for node, _ in held.values()}:
            assert sum(share for other, share in held.values() if other == node) <= 1 + 1e-9, (event, held)
    assert held == {}


def test_the_impossible_is_refused_at_once_with_words(recovered: RaySweep) -> None:
    record = recovered.records["trial 2"]
    assert record.error is not None
    assert "needs 90.0 GiB on one card, found 1 x simulated-24GiB, 1 x simulated-40GiB, 1 x simulated-80GiB" in str(
        record.error.message
    )
    numbers = [event["number"] for event in recovered.events if event["event"] in ("started", "ended")]
    assert numbers[0] == 2


def test_an_out_of_memory_is_mended_in_place_by_a_smaller_micro_batch(recovered: RaySweep) -> None:
    record = recovered.records["smaller"]
    assert record.plan == {
        "micro_batch": 4,
        "accumulation": 2,
        "gradient_checkpointing": False,
        "ranks": 1,
        "sharded": False,
    }
    assert (record.retries, record.attempts) == (0, [])
    assert record.measured is not None
    assert record.measured["device_bytes"] == 9 * GIB
    submitted = cast("dict[str, object]", recovered.history["smaller"].spec["shape"])
    assert {name: value for name, value in submitted.items() if value is not None} == recovered.records["fits"].plan


def test_then_by_a_larger_share_from_its_checkpoint(recovered: RaySweep, unequal_raylets: Inventory) -> None:
    starts = Starts(recovered, unequal_raylets).of["larger"]
    usable = {pool.model.removeprefix("simulated-"): pool.usable_bytes for pool in CARDS.pools}
    held = [share * usable[model] for model, share in starts]
    assert held == sorted(held)
    assert held[-2] < 11 * GIB <= held[-1]
    assert recovered.records["larger"].retries == len(starts) - 1 >= 1
    assert "failed and starts again: out of memory; " in recovered.shown


def test_then_by_a_model_with_larger_cards(recovered: RaySweep, unequal_raylets: Inventory) -> None:
    starts = Starts(recovered, unequal_raylets).of["mover"]
    moved = [model for model, _ in starts].index("80GiB")
    assert starts[moved - 1] == ("40GiB", 1.0)
    assert {model for model, _ in starts[:moved]} == {"40GiB"}
    assert {model for model, _ in starts[moved:]} == {"80GiB"}
    assert recovered.records["mover"].gpu_model == "simulated-80GiB"
    assert "out of memory; a larger card is needed" in recovered.shown


def test_and_then_given_up_with_words(recovered: RaySweep, unequal_raylets: Inventory) -> None:
    record = recovered.records["giant"]
    assert record.error is not None
    assert Starts(recovered, unequal_raylets).of["giant"][-1] == ("80GiB", 1.0)
    assert "it had all that a card here can give: giant: needs 7" in record.error.message
    assert "would fit with a card of at least" in record.error.message


def test_kill_9_of_a_worker_costs_the_steps_since_its_last_checkpoint(recovered: RaySweep) -> None:
    assert recovered.records["killed"].retries == 1
    assert recovered.history["killed"].retries == ["worker_lost"]
    again = [event["evaluation"] for event in recovered.events if event["event"] == "reported" and event["number"] == 7]
    assert again in ([1, 2, 3], [1, 2, 2, 3])


def test_a_large_trial_starts_in_spite_of_a_stream_of_small_ones(unequal_raylets: Inventory, tmp_path: Path) -> None:
    large = 5
    stream: list[dict[str, object]] = [{"name": f"s{number}", "gib": 9} for number in range(1, 14)]
    stream.insert(large - 1, {"name": "large", "gib": 75})
    sweep = sweep_of(tmp_path, unequal_raylets, stream).run()
    assert {record.status for record in sweep.records.values()} == {"finished"}
    starts = Starts(sweep, unequal_raylets).of
    assert starts["large"] == [("80GiB", 1.0)]
    order = list(starts)
    overtaking = [name for name in order[: order.index("large")] if name not in ("s1", "s2", "s3", "s4")]
    assert sum(starts[name][-1][0] == "80GiB" for name in overtaking) <= MAX_OVERTAKEN


def test_what_ray_does_not_start_because_others_hold_its_card_goes_where_there_is_room(
    unequal_raylets: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    models = [f"simulated-{size}GiB" for size in SIZES[:2]]
    held = [placement_group([{"GPU": 1}], bundle_label_selector=[{GPU_MODEL_LABEL: model}]) for model in models]
    ray.get([group.ready() for group in held], timeout=300)
    monkeypatch.setattr(trial_queue, "LAUNCH_LIMIT_S", 20.0)
    trials: list[dict[str, object]] = [{"name": f"t{number}", "gib": 20} for number in range(4)]
    sweep = sweep_of(tmp_path, unequal_raylets, trials).run()
    for group in held:
        remove_placement_group(group)
    assert {record.status for record in sweep.records.values()} == {"finished"}
    assert {starts[-1][0] for starts in Starts(sweep, unequal_raylets).of.values()} == {"80GiB"}
    assert "waits: Ray did not start it within 20 s" in sweep.shown


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
