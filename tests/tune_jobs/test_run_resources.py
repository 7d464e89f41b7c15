"""From a configuration to a place: shares that follow the estimate, plans where it does not fit, refusals that help."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.estimator.calibration import Margin
from cluster.estimator.estimate import Estimator, MemoryEstimate, ModelSize
from cluster.estimator.request import MemoryRequest
from cluster.machines.hardware import Inventory, Node, parse_simulated
from common.errors import RequestError
from dialsum.config import RunConfig
from tune_jobs.config.sections import Resources
from tune_jobs.placing.resources import HostPlacer, SharePlacer, placer_for, shape_of, slots
from tune_jobs.placing.ways import Ways
from tune_jobs.records.trial_spec import Bundle
from tune_jobs.trial.recovery import RunShape

GIB = 2**30


class LineEstimator(Estimator):
    """4 GiB for the model and as much again for 8 samples of 512 tokens; a quarter of that with checkpointing.

    On each card; of a divided model each holds its part, and gathers half a GiB.
    """

    def __init__(self) -> None:
        """Needs no templates."""

    def upper_bytes(self, request: MemoryRequest) -> int:
        length = request.encoder_max_len / 512
        factor = 0.25 if request.gradient_checkpointing else 1.0
        model = 4 if request.sharding is None else 4 / request.ranks + 0.5
        return math.ceil((model + request.micro_batch * length * factor / 2) * GIB)

    def estimate(self, request: MemoryRequest) -> MemoryEstimate:
        upper = self.upper_bytes(request)
        return MemoryEstimate(
            train_allocated_bytes=upper,
            train_reserved_bytes=upper,
            evaluate_allocated_bytes=0,
            generate_allocated_bytes=0,
            generate_reserved_bytes=0,
            context_bytes=GIB // 2,
            device_bytes=upper,
            upper_bytes=upper,
            margin=Margin(fraction=0.0, count=0, basis="made up"),
            peak_phase="train/backward",
            terms={"activations": upper},
            model_parameters=1,
            operations=1,
            gpu=request.gpu,
            gpu_fraction=upper / request.gpu.usable_bytes,
            template="made by hand",
            warnings=(),
        )

    def model_size(self, request: MemoryRequest) -> ModelSize:
        return ModelSize(parameters=1_000_000, operations=100)


def placer(cards: str, **options: object) -> SharePlacer:
    ways = Ways(estimator=LineEstimator(), **options)  # type: ignore[arg-type]
    return SharePlacer(inventory=parse_simulated(cards), cpus=1.0, ways=ways)


def config(batch_size: int, **changes: object) -> RunConfig:
    return RunConfig(model="kobart", batch_size=batch_size).with_changes(changes)


def test_the_share_follows_the_estimate_and_the_label_names_the_card() -> None:
    placed = placer("1x24GiB").place("one", config(8))
    assert placed.bundle.labels == {"gpu-model": "simulated-24GiB"}
    assert placed.bundle.gpus * placed.usable_bytes >= 8 * GIB  # type: ignore[operator]
    assert (placed.bundle.cpus, placed.shape) == (1.0, RunShape(micro_batch=8, accumulation=1))
    assert placed.estimate is not None
    assert (placed.estimate["upper_bytes"], placed.estimate["plan_reason"]) == (8 * GIB, "as configured")
    assert placed.estimate["cap_bytes"] >= 8 * GIB  # type: ignore[operator]


def test_what_does_not_fit_as_configured_is_planned_with_the_same_effective_batch() -> None:
    placed = placer("1x24GiB").place("one", config(64))
    assert placed.shape.batch_size == 64
    assert placed.shape != shape_of(config(64))
    assert placed.bundle.gpus <= 1


def test_a_fixed_share_is_kept_and_the_trial_is_planned_into_it() -> None:
    half = placer("1x24GiB", share=0.5)
    assert [half.place(str(size), config(size)).bundle.gpus for size in (2, 8, 64)] == [0.5, 0.5, 0.5]
    assert half.place("large", config(64)).shape.micro_batch < 64
    assert placer("1x24GiB", share=1.0).place("whole", config(2)).bundle.gpus == 1.0


def test_what_fits_nowhere_is_refused_with_bytes_cards_and_remedies() -> None:
    small = placer("2x1GiB")
    with pytest.raises(RequestError) as caught:
        small.check("one", config(8))
    text = str(caught.value)
    assert "2 x simulated-1GiB" in text
    assert "would fit with a card of at least" in text


def test_every_model_that_holds_a_trial_is_offered_the_cheapest_first_and_a_larger_one_after_an_out_of_memory() -> None:
    mixed = placer("1x24GiB,2x40GiB,1x80GiB")

    def found(least_gib: float) -> list[tuple[str, float]]:
        offers = mixed.offers("one", config(8), int(least_gib * GIB))
        return [(offer.choice.model.removeprefix("simulated-"), offer.placed.bundle.gpus) for offer in offers]

    assert found(0) == [("40GiB", 0.25), ("80GiB", 0.125), ("24GiB", 0.375)]
    assert found(23.4) == [("80GiB", 0.3), ("40GiB", 0.625)]
    assert found(60) == [("80GiB", 0.8)]
    with pytest.raises(RequestError, match="would fit with a card of at least"):
        found(80)
    assert mixed.place("one", config(8)).bundle.labels == {"gpu-model": "simulated-40GiB"}


def test_cpus_that_no_machine_with_cards_has_are_refused() -> None:
    one = dataclasses.replace(placer("1x24GiB,1x80GiB"), cpus=9.0)
    with pytest.raises(RequestError, match="asks for 9 CPUs beside its card, found at most 8 on a machine with cards"):
        one.check("t", config(8))


@given(st.lists(st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]), min_size=1, max_size=12))
def test_no_placed_trial_needs_more_than_its_share_of_its_card(sizes: list[int]) -> None:
    mixed = placer("1x8GiB,2x24GiB,1x80GiB")
    usable = {pool.model: pool.usable_bytes for pool in mixed.inventory.pools}
    for number, size in enumerate(sizes):
        placed = mixed.place(str(number), config(size))
        assert placed.estimate is not None
        assert placed.shape.batch_size == size
        assert 1e-4 <= placed.bundle.gpus <= 1
        assert placed.estimate["upper_bytes"] <= placed.bundle.gpus * usable[placed.bundle.labels["gpu-model"]]


def test_without_cards_cpus_and_host_memory_decide() -> None:
    node = Node(name="a", cpus=4, memory_bytes=5 * GIB)
    inventory = Inventory(nodes=(node, dataclasses.replace(node, name="b", cpus=1)))
    host = placer_for(inventory, Resources(cpus_per_trial=2), estimator=LineEstimator)
    assert isinstance(host, HostPlacer)
    assert host.place("one", config(8)).bundle == Bundle(cpus=2)
    assert slots(inventory, Resources(cpus_per_trial=2)) == 2
    with pytest.raises(RequestError, match="8 CPUs"):
        HostPlacer(inventory=inventory, cpus=8).check("one", config(8))


def test_a_share_of_several_cards_is_refused_with_the_key_for_whole_ones() -> None:
    with pytest.raises(RequestError, match="is 2; whole cards, also several, are `gpus_per_trial`"):
        Resources(share=2)
    assert Resources(share=1).share == 1
