"""How long trials take: measured where runs alike were, else predicted and corrected; and that requests carry it."""

from dataclasses import replace

import pytest

from cluster.estimator.operations import Seconds
from cluster.estimator.request import MemoryRequest
from cluster.estimator.step_seconds import StepSeconds
from cluster.machines.hardware import Inventory, parse_simulated
from dialsum.config import RunConfig
from tests.tune_jobs.placing.linear_estimator import LinearEstimator
from tune_jobs.config.sections import Resources
from tune_jobs.placing.durations import Durations, cores_of_cards, measured_cards
from tune_jobs.placing.placer import Option, placer_for
from tune_jobs.placing.submission import request_for
from tune_jobs.placing.throughput import Observation, Throughput
from tune_jobs.search.inputs import DataSizes

BASE = RunConfig(model="kobart", batch_size=8, num_epochs=2, train_file="train.csv", dev_file="dev.csv")
SIZES = DataSizes(of={"train.csv": 1000, "dev.csv": 100})


class TimedEstimator(LinearEstimator):
    """A step takes 10 ms for each dialogue of its batch on the L4, half as long on the A100, of which half is idle."""

    def seconds(self, request: MemoryRequest) -> StepSeconds | None:
        if request.gpu.name.startswith("GPU with"):
            return None
        quick = "A100" in request.gpu.name
        step_s = 0.01 * request.batch_size / (2 if quick else 1)
        return StepSeconds(
            step=Seconds(compute_s=step_s / 2 if quick else step_s, host_s=step_s),
            evaluate=Seconds(memory_s=0.1),
            generate=Seconds(host_s=3.1),
            source="on paper",
        )


def options(cards: str, config: RunConfig = BASE, *observations: Observation, sizes: DataSizes = SIZES) -> list[Option]:
    inventory, estimator, throughput = parse_simulated(cards), TimedEstimator(), Throughput(observations)
    durations = Durations(
        sizes=sizes,
        throughput=throughput,
        cards=measured_cards(inventory, throughput, described=True),
        estimator=estimator,
    )
    found = placer_for(inventory, Resources(), estimator, durations=durations).options("one", config)
    return sorted(found, key=lambda option: option.alternative.model)


def run(config: RunConfig, card: str, train_s: float) -> Observation:
    return Observation(config=config, card=card, train_s=train_s, evaluate_s=0.2, start_s=30.0, source="earlier")


def test_what_was_never_run_is_predicted_on_each_gpu_model() -> None:
    quick, slow = options("2xL4:24GiB,1xA100-SXM4-40GB:40GiB")
    # Two epochs of 1,000 dialogues; two evaluations of 100 dialogues, 32 at a time in 3.2 s.
    assert slow.alternative.expected_s == pytest.approx(2 * 1000 * 0.01 + 2 * 100 * 0.1)
    assert quick.alternative.expected_s == pytest.approx(2 * 1000 * 0.005 + 2 * 100 * 0.1)
    assert (slow.alternative.busy, quick.alternative.busy) == (1.0, 0.5)
    assert slow.speed is not None
    assert slow.speed.source == "kobart on NVIDIA L4: predicted by a roofline, not measured"
    asked = request_for("s", 1, [quick, slow])
    assert asked.quickest_s == quick.alternative.expected_s


def test_trials_of_equal_memory_have_durations_of_their_own() -> None:
    inventory = parse_simulated("1xL4:24GiB")
    durations = Durations(
        sizes=SIZES,
        throughput=Throughput(()),
        cards=measured_cards(inventory, Throughput(()), described=True),
        estimator=TimedEstimator(),
    )
    placer = placer_for(inventory, Resources(), TimedEstimator(), durations=durations)
    found = [placer.options("a", BASE.with_changes({"num_epochs": epochs}))[0] for epochs in (1, 3)]
    assert [one.alternative.expected_s for one in found] == pytest.approx([20.0 / 2 + 10, 30.0 + 30])


def test_runs_alike_are_believed_and_others_of_the_family_correct_the_prediction() -> None:
    (alike,) = options("1xL4:24GiB", BASE, run(BASE, "NVIDIA L4", 0.03))
    assert alike.alternative.expected_s == pytest.approx(30 + 2 * 1000 * 0.03 + 2 * 100 * 0.2)
    assert alike.alternative.busy == 1.0
    shorter = BASE.with_changes({"encoder_max_len": 256})
    other = run(BASE.with_changes({"model": "kogpt2"}), "NVIDIA L4", 9.0)
    elsewhere = run(shorter, "NVIDIA A100-SXM4-40GB", 9.0)
    (corrected,) = options("1xL4:24GiB", BASE, run(shorter, "NVIDIA L4", 0.03), other, elsewhere)
    assert corrected.alternative.expected_s == pytest.approx(3 * (2 * 1000 * 0.01 + 2 * 100 * 0.1))
    assert corrected.speed is not None
    assert corrected.speed.source.endswith("corrected by 3.00 after 1 run there")


def test_nothing_is_predicted_for_cards_that_nobody_knows() -> None:
    (unknown,) = options("1x24GiB")
    assert (unknown.speed, unknown.alternative.expected_s, unknown.alternative.busy) == (None, None, None)


def test_a_file_that_is_absent_counts_ten_thousand_dialogues() -> None:
    (absent,) = options("1xL4:24GiB", sizes=DataSizes(of={"dev.csv": 100}, absent=("train.csv",)))
    assert absent.alternative.expected_s == pytest.approx(2 * 10_000 * 0.01 + 2 * 100 * 0.1)


def test_what_was_measured_on_one_model_counts_for_another_by_their_speeds() -> None:
    slow, quick = options("1xOLD:24GiB,1xNEW:24GiB@4", BASE, run(BASE, "OLD", 0.04))[::-1]
    assert slow.alternative.expected_s == pytest.approx(30 + 80 + 40)
    assert quick.alternative.expected_s == pytest.approx((30 + 80 + 40) / 4)
    assert quick.alternative.busy is None


def test_files_are_found_by_their_whole_paths_too(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    monkeypatch.chdir(str(tmp_path))
    assert SIZES.train(BASE.with_changes({"train_file": str(Path("train.csv").absolute())})) == 1000


def test_simulated_cards_of_this_machine_run_as_its_cpu_does() -> None:
    inventory: Inventory = parse_simulated("1x24GiB")
    assert measured_cards(inventory, Throughput(()))("simulated-24GiB") == [("CPU", 1.0)]


@pytest.mark.parametrize(
    ("cpus", "threads", "busy"), [(0.5, 1, 0.25), (1, 2, 0.5), (1, 8, 1.0), (1, 1, None), (4, 2, None)]
)
def test_a_trial_on_a_simulated_card_keeps_the_cores_of_its_threads_busy(
    cpus: float, threads: int, busy: float | None
) -> None:
    """Its duration need not be known for that. Four cores for each of two cards; CPUs that it asks for are counted."""
    described = parse_simulated("2x24GiB")
    inventory = replace(described, nodes=tuple(replace(node, cpus=8.0) for node in described.nodes))
    durations = Durations(
        sizes=SIZES,
        throughput=Throughput(()),
        cards=measured_cards(inventory, Throughput(())),
        estimator=TimedEstimator(),
        cores=cores_of_cards(inventory),
    )
    placer = placer_for(inventory, Resources(cpus_per_trial=cpus), durations.estimator, durations=durations)
    (found,) = placer.options("one", BASE.with_changes({"cpu_threads": threads}))
    assert (found.alternative.expected_s, found.alternative.busy) == (None, busy)


def test_a_trial_that_ended_corrects_what_is_expected_of_those_that_wait() -> None:
    inventory, estimator, throughput = parse_simulated("1xL4:24GiB"), TimedEstimator(), Throughput(())
    cards = measured_cards(inventory, throughput, described=True)
    durations = Durations(sizes=SIZES, throughput=throughput, cards=cards, estimator=estimator)
    placer = placer_for(inventory, Resources(), estimator, durations=durations)
    (before,) = placer.options("a", BASE)
    durations.add(run(BASE.with_changes({"encoder_max_len": 256}), "NVIDIA L4", 0.02))
    placer.forget()
    (after,) = placer.options("a", BASE)
    assert before.alternative.expected_s is not None
    assert after.alternative.expected_s == pytest.approx(2 * before.alternative.expected_s)
