"""From a configuration to what its request asks for: shares that follow the estimate, plans, refusals that help."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.estimator.estimate import MemoryEstimate
from cluster.estimator.request import MemoryRequest
from cluster.machines.hardware import Inventory, Node, parse_simulated
from cluster.scheduling.request import Alternative
from dialsum.config import RunConfig
from tests.tune_jobs.placing.linear_estimator import GIB, LinearEstimator
from tune_jobs.config.sections import Resources
from tune_jobs.placing.placer import HOST_BYTES, Option, Placer, placer_for, shape_of, slots
from tune_jobs.placing.submission import largest_first, request_for
from tune_jobs.records.trial_spec import Bundle, RunShape
from tuning_common.errors import RequestError


def placer(cards: str, **resources: object) -> Placer:
    return placer_for(parse_simulated(cards), Resources(**resources), LinearEstimator())  # type: ignore[arg-type]


def config(batch_size: int, **changes: object) -> RunConfig:
    return RunConfig(model="kobart", batch_size=batch_size).with_changes(changes)


def test_the_share_follows_the_estimate_on_the_model_that_it_was_computed_for() -> None:
    (option,) = placer("1x24GiB").options("one", config(8))
    alternative, placement = option.alternative, option.placement
    assert (alternative.model, placement.gpu_model) == ("simulated-24GiB", "simulated-24GiB")
    assert placement.usable_bytes is not None
    assert placement.bundle.gpus * placement.usable_bytes >= 8 * GIB
    assert placement.bundle == Bundle(cpus=1.0, gpus=alternative.gpus)
    assert placement.shape == RunShape(micro_batch=8, accumulation=1, generation_batch=32)
    assert (alternative.cpus, alternative.host_bytes, alternative.upper_bytes) == (1.0, HOST_BYTES, 8 * GIB)
    assert (placement.estimate["upper_bytes"], placement.estimate["plan_reason"]) == (8 * GIB, "as configured")
    assert placement.estimate["cap_bytes"] == alternative.cap_bytes >= 8 * GIB


def test_what_does_not_fit_as_configured_is_planned_with_the_same_effective_batch() -> None:
    (option,) = placer("1x24GiB").options("one", config(64))
    assert option.placement.shape.batch_size == 64
    assert option.placement.shape != shape_of(config(64))
    assert option.alternative.gpus <= 1


def test_a_fixed_share_is_kept_and_the_trial_is_planned_into_it() -> None:
    def held(share: float, size: int) -> tuple[float, int]:
        (option,) = placer("1x24GiB", share=share).options(str(size), config(size))
        return option.alternative.gpus, option.placement.shape.micro_batch

    assert [held(0.5, size)[0] for size in (2, 8, 64)] == [0.5, 0.5, 0.5]
    assert held(0.5, 64)[1] < 64
    assert held(1.0, 2)[0] == 1.0


def test_what_fits_nowhere_is_refused_with_bytes_cards_and_remedies() -> None:
    with pytest.raises(RequestError) as caught:
        placer("2x1GiB").options("one", config(8))
    text = str(caught.value)
    assert "2 x simulated-1GiB" in text
    assert "would fit with a card of at least" in text


def test_what_a_fixed_share_cannot_hold_is_refused_with_what_it_needs() -> None:
    with pytest.raises(
        RequestError, match=r"one: needs 4\.12 GiB, found 0\.25 of a card .* would fit with share: 0\.5625"
    ):
        placer("1x8GiB", share=0.25).options("one", config(8))


def test_every_model_that_holds_a_trial_is_an_option_the_cheapest_first_and_a_larger_one_after_an_oom() -> None:
    mixed = placer("1x24GiB,2x40GiB,1x80GiB")

    def found(least_gib: float) -> list[tuple[str, float]]:
        options = mixed.options("one", config(8), int(least_gib * GIB))
        return [(one.alternative.model.removeprefix("simulated-"), one.placement.bundle.gpus) for one in options]

    assert found(0) == [("40GiB", 0.25), ("80GiB", 0.125), ("24GiB", 0.375)]
    assert found(23.4) == [("80GiB", 0.3), ("40GiB", 0.625)]
    assert found(60) == [("80GiB", 0.8)]
    with pytest.raises(RequestError, match="would fit with a card of at least"):
        found(80)


def test_cpus_that_no_machine_with_cards_has_are_refused() -> None:
    with pytest.raises(RequestError, match="asks for 9 CPUs beside its card, found at most 8 on a machine with cards"):
        placer("1x24GiB,1x80GiB", cpus_per_trial=9).options("t", config(8))


@given(st.lists(st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]), min_size=1, max_size=12))
def test_no_trial_needs_more_than_its_share_of_its_card(sizes: list[int]) -> None:
    mixed = placer("1x8GiB,2x24GiB,1x80GiB")
    usable = {pool.model: pool.usable_bytes for pool in mixed.inventory.pools}
    for number, size in enumerate(sizes):
        for option in mixed.options(str(number), config(size)):
            assert option.placement.shape.batch_size == size
            assert 1e-4 <= option.alternative.gpus <= 1
            assert option.alternative.upper_bytes <= option.alternative.gpus * usable[option.alternative.model]


def test_without_cards_cpus_and_host_memory_decide() -> None:
    node = Node(name="a", cpus=4, memory_bytes=5 * GIB)
    inventory = Inventory(nodes=(node, dataclasses.replace(node, name="b", cpus=1)))
    (option,) = placer_for(inventory, Resources(cpus_per_trial=2), LinearEstimator()).options("one", config(8))
    assert option.alternative == Alternative(model="", share=None, cpus=2, host_bytes=HOST_BYTES)
    assert (option.placement.bundle, option.placement.usable_bytes) == (Bundle(cpus=2), None)
    assert slots(inventory, Resources(cpus_per_trial=2)) == 2
    with pytest.raises(RequestError, match=r"one: needs 8 CPUs and 2\.00 GiB of host memory on one machine"):
        placer_for(inventory, Resources(cpus_per_trial=8), LinearEstimator()).options("one", config(8))


def test_a_trial_that_only_generates_needs_no_batch_and_no_optimizer() -> None:
    training = placer("1x24GiB").options("one", config(8))
    generating = placer_for(parse_simulated("1x24GiB"), Resources(), LinearEstimator(), generates_only=True).options(
        "one", config(8)
    )
    assert generating[0].alternative.upper_bytes == int(4.5 * GIB) < training[0].alternative.upper_bytes


def test_nodes_that_join_are_options_at_once() -> None:
    found = placer("1x24GiB")
    assert len(found.options("one", config(8))) == 1
    found.inventory = parse_simulated("1x24GiB,1x80GiB")
    assert [one.alternative.model for one in found.options("one", config(8))] == ["simulated-80GiB", "simulated-24GiB"]


def test_runs_that_need_the_same_memory_are_estimated_once() -> None:
    class CountingEstimator(LinearEstimator):
        count = 0

        def estimate(self, request: MemoryRequest) -> MemoryEstimate:
            self.count += 1
            return super().estimate(request)

    estimator = CountingEstimator()
    found = placer_for(parse_simulated("1x24GiB"), Resources(), estimator)
    first = found.options("one", config(8))
    assert found.options("two", config(8, learning_rate=1e-3, seed=7, label_smoothing=0.0)) == first
    assert estimator.count == 1
    found.options("three", config(8, label_smoothing=0.1))
    found.options("one", config(8), 20 * GIB)
    assert estimator.count == 3


def test_a_share_of_several_cards_is_refused_with_the_key_for_whole_ones() -> None:
    with pytest.raises(RequestError, match="is 2; whole cards, also several, are `gpus_per_trial`"):
        Resources(share=2)
    assert Resources(share=1).share == 1


def test_large_trials_are_submitted_first_and_impossible_ones_before_them() -> None:
    small = placer("1x24GiB")
    options: dict[int, tuple[Option, ...]] = {}
    for number, size in {1: 2, 2: 32, 4: 2, 5: 16}.items():
        options[number] = small.options(str(number), config(size))
    assert largest_first(5, options) == (3, 2, 5, 1, 4)


def test_a_request_has_an_unique_name_and_every_alternative() -> None:
    options = placer("1x24GiB,1x80GiB").options("one", config(8))
    request = request_for("wide", 3, options, first=True)
    assert (request.name, request.sweep, request.first) == ("wide/3", "wide", True)
    assert [one.model for one in request.alternatives] == ["simulated-80GiB", "simulated-24GiB"]
