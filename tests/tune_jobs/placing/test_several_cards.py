"""Trials on several whole cards: what they ask for, how their batch is divided, and what is refused."""

import pytest

from cluster.machines.hardware import Inventory, Node, parse_simulated
from dialsum.config import RunConfig
from tests.tune_jobs.placing.linear_estimator import LinearEstimator
from tune_jobs.config.sections import Resources
from tune_jobs.placing.placer import HOST_BYTES, Placer, placer_for, slots
from tune_jobs.records.trial_spec import Bundle, Placement, RunShape
from tuning_common.errors import RequestError

TWO = Resources(gpus_per_trial=2, cpus_per_trial=4)


def placer(cards: str, resources: Resources = TWO) -> Placer:
    return placer_for(parse_simulated(cards), resources, LinearEstimator())


def placed(cards: str, run: RunConfig, resources: Resources = TWO) -> Placement:
    """Returns the placement of the cheapest option."""
    return placer(cards, resources).options("wide", run)[0].placement


def config(batch_size: int, **changes: object) -> RunConfig:
    return RunConfig(model="kobart", batch_size=batch_size).with_changes(changes)


def test_two_cards_halve_the_micro_batch_and_are_held_whole() -> None:
    found = placed("2x24GiB", config(16))
    assert found.bundle == Bundle(cpus=4, gpus=2.0)
    assert found.shape == RunShape(micro_batch=8, accumulation=1, ranks=2, generation_batch=32)
    assert (found.shape.batch_size, found.context_bytes) == (16, 2**29)  # the estimate's own, with NCCL
    assert found.estimate["ranks"] == 2
    assert found.estimate["upper_bytes"] == 8 * 2**30  # on each card: 4 GiB, and half a GiB for each of 8


def test_pieces_that_one_card_would_need_are_divided_among_the_cards() -> None:
    found = placed("2x24GiB", config(16, gradient_accumulation_steps=4))
    assert found.shape == RunShape(micro_batch=4, accumulation=2, ranks=2, generation_batch=32)


def test_where_a_part_of_the_batch_is_too_large_it_is_planned_in_pieces_again() -> None:
    found = placed("2x24GiB", config(128))  # 64 a card would need 36 GiB
    assert found.shape.ranks == 2
    assert found.shape.batch_size == 128
    assert found.shape.micro_batch < 64


@pytest.mark.parametrize(
    ("batch_size", "cards", "message"),
    [
        (7, "2x24GiB", r"batch_size 7 cannot be divided among 2 cards \(resources.gpus_per_trial\); take 6 or 8"),
        (1, "2x24GiB", "take 2"),
        (8, "1x24GiB,1x40GiB", "on each of 2 cards of simulated-24GiB .* 2 cards of at least .* in one machine"),
    ],
)
def test_what_can_never_run_on_two_cards_is_refused_with_what_would(batch_size: int, cards: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        placed(cards, config(batch_size))


def test_without_cards_several_are_refused() -> None:
    with pytest.raises(RequestError, match=r"asks for 2 GPUs .* found no GPU; leave gpus_per_trial out"):
        placer_for(Inventory(nodes=(Node(name="host", cpus=8.0),)), TWO, LinearEstimator()).options("wide", config(8))


def test_one_whole_card_is_a_share_of_one() -> None:
    found = placed("2x24GiB", config(8), Resources(gpus_per_trial=1))
    assert (found.bundle.gpus, found.shape.ranks) == (1.0, 1)


def test_the_sweep_file_says_what_cannot_go_together() -> None:
    with pytest.raises(RequestError) as caught:
        Resources(gpus_per_trial=2, share=0.5, max_trials_per_gpu=4)
    assert caught.value.problems == (
        "share 0.5 is a part of a card, gpus_per_trial whole ones; give one of the two",
        "gpus_per_trial gives each trial whole cards, so max_trials_per_gpu cannot be above 1",
    )
    for wrong, message in (
        ({"gpus_per_trial": 0}, "gpus_per_trial must be at least 1, but is 0"),
        ({"spread": True, "share": 0.5}, "which with a fixed share has one"),
        ({"share": 2.0}, "whole cards, also several, are `gpus_per_trial`"),
    ):
        with pytest.raises(RequestError, match=message):
            Resources(**wrong)  # type: ignore[arg-type]


def test_cards_of_several_machines_only_where_that_is_asked_for() -> None:
    machines = parse_simulated("3x24GiB", cards_per_node=1)
    spread = Resources(gpus_per_trial=2, spread=True, cpus_per_trial=16)
    (option,) = placer_for(machines, spread, LinearEstimator()).options("wide", config(8))
    assert option.placement.bundle == Bundle(cpus=16, gpus=2.0, spread=True)
    assert (option.alternative.spread, option.alternative.host_bytes) == (True, 2 * HOST_BYTES)
    with pytest.raises(RequestError, match=r"2 cards of at least .* in one machine"):
        placer_for(machines, Resources(gpus_per_trial=2), LinearEstimator()).options("wide", config(8))


def test_trials_side_by_side_are_counted_by_whole_cards() -> None:
    assert [slots(parse_simulated(cards), TWO) for cards in ("4x24GiB", "3x24GiB", "1x24GiB")] == [2, 1, 1]
