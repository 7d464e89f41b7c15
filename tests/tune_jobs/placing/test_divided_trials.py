"""Trials that are too large for one card, without Ray: divided among as few cards as will do, or refused with words."""

import pytest

from cluster.machines.hardware import Inventory, Node, parse_simulated
from dialsum.config import RunConfig
from tests.tune_jobs.placing.linear_estimator import GIB, LinearEstimator
from tune_jobs.config.sections import Resources
from tune_jobs.driver.recovery import next_bytes
from tune_jobs.placing.placer import Placer, placer_for
from tune_jobs.records.trial_spec import Bundle, Placement, RunShape
from tuning_common.errors import RequestError

CLASSES = (0.25, 0.5, 1.0)


def placer(cards: str, **resources: object) -> Placer:
    """The model takes 4 GiB; divided among k cards, 4 / k and half a GiB; a dialogue with checkpointing an eighth."""
    return placer_for(parse_simulated(cards), Resources(**resources), LinearEstimator())  # type: ignore[arg-type]


def cheapest(found: Placer, name: str, run: RunConfig, least_bytes: int = 0) -> Placement:
    """Returns the placement of the cheapest option."""
    return found.options(name, run, least_bytes)[0].placement


def config(batch_size: int = 16, **changes: object) -> RunConfig:
    return RunConfig(model="kobart", batch_size=batch_size).with_changes(changes)


def test_a_trial_too_large_for_one_card_is_divided_among_two() -> None:
    placed = cheapest(placer("2x4GiB"), "large", config())
    assert placed.bundle == Bundle(cpus=1, gpus=2.0)
    assert placed.gpu_model == "simulated-4GiB"
    assert placed.shape == RunShape(
        micro_batch=8, accumulation=1, gradient_checkpointing=True, ranks=2, sharded=True, generation_batch=32
    )
    assert placed.estimate["upper_bytes"] == 3.5 * GIB  # 4 / 2, a half to gather, an eighth for each of 8
    assert (placed.estimate["layout"], placed.estimate["ranks"]) == ("divided", 2)
    assert placed.estimate["plan_reason"].endswith(", divided among 2 cards")  # type: ignore[attr-defined]


def test_it_takes_no_more_cards_than_it_needs_and_none_that_its_batch_does_not_divide_into() -> None:
    def cards(machine: str, batch_size: int) -> float:
        return cheapest(placer(machine), "large", config(batch_size)).bundle.gpus

    assert [cards("8x4GiB", batch) for batch in (16, 6, 9)] == [2, 2, 3]
    assert [cards("8x2GiB", batch) for batch in (16, 6)] == [4, 6]  # 1.7 GiB can be used: 1.625 of each of four


def test_what_fits_on_one_card_is_not_divided() -> None:
    placed = cheapest(placer("8x24GiB"), "small", config())
    assert (placed.bundle.ranks, placed.shape.sharded) == (1, False)
    assert placed.shape.describe() == "16 x 1"


def test_cards_that_it_was_given_hold_all_of_it_where_they_can_and_else_their_parts() -> None:
    shapes = [cheapest(placer(cards, gpus_per_trial=2), "given", config()).shape for cards in ("2x24GiB", "2x4GiB")]
    assert [shape.sharded for shape in shapes] == [False, True]
    assert [shape.batch_size for shape in shapes] == [16, 16]


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"gpus_per_trial": 1}, r"needs 4\.12 GiB on one card"),
        ({"share": 0.5}, r"needs 4\.12 GiB on one card"),
    ],
)
def test_who_asks_for_one_card_or_a_part_of_it_gets_no_more(resources: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        placer("8x4GiB", **resources).options("large", config())


def test_on_one_card_it_is_refused_with_how_many_would_do() -> None:
    with pytest.raises(RequestError, match=r"a card of at least .*, or 2 x simulated-4GiB in one machine"):
        placer("1x4GiB").options("large", config())
    with pytest.raises(RequestError, match=r"or 4 x simulated-2GiB in one machine"):
        placer("2x2GiB").options("large", config())


def test_an_odd_batch_on_two_cards_is_refused() -> None:
    with pytest.raises(RequestError, match=r"needs 4\.12 GiB on one card") as caught:
        placer("2x4GiB").options("large", config(7))
    assert "in one machine" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"optimizer": "adafactor"}, {"precision": "fp16"}, {"torch_compile": True}])
def test_a_run_that_cannot_be_divided_is_not(changes: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=r"needs 4\.12 GiB on one card"):
        placer("8x4GiB").options("large", config(**changes))
    with pytest.raises(RequestError, match="fsdp"):
        config(**changes, fsdp=True)


def test_machines_may_be_put_together_where_the_sweep_says_so() -> None:
    machines = parse_simulated("2x4GiB", cards_per_node=1)
    with pytest.raises(RequestError, match="2 x simulated-4GiB in one machine"):
        placer_for(machines, Resources(), LinearEstimator()).options("large", config())
    placed = cheapest(placer_for(machines, Resources(spread=True), LinearEstimator()), "large", config())
    assert (placed.bundle.gpus, placed.bundle.spread, placed.shape.sharded) == (2.0, True, True)


def test_after_an_out_of_memory_on_whole_cards_a_trial_gets_more_of_them() -> None:
    """A small model on a card of 24 GiB, which was estimated at 4.5 GiB and needed more than the whole card."""
    eight, usable_bytes = placer("8x24GiB"), parse_simulated("1x24GiB").pools[0].usable_bytes
    gpus, found = 1.0, []
    for _ in range(3):
        least_bytes = next_bytes(gpus, usable_bytes, CLASSES)
        placed = cheapest(eight, "wrong", config(16), least_bytes)
        gpus = placed.bundle.gpus
        found.append((gpus, placed.shape.sharded))
    assert found == [(2.0, True), (4.0, True), (8.0, True)]
    with pytest.raises(RequestError, match="wrong: needs"):
        eight.options("wrong", config(16), next_bytes(gpus, usable_bytes, CLASSES))


def test_a_larger_card_is_taken_where_one_has_what_a_whole_card_had_not() -> None:
    three, usable_bytes = placer("2x24GiB,1x80GiB"), parse_simulated("1x24GiB").pools[0].usable_bytes
    (option,) = three.options("wrong", config(16), next_bytes(1.0, usable_bytes, CLASSES))
    assert (option.alternative.model, option.placement.shape.sharded) == ("simulated-80GiB", False)


def test_fsdp_of_a_configuration_takes_several_cards_also_where_one_would_do() -> None:
    placed = cheapest(placer("2x24GiB"), "asked", config(fsdp=True))
    assert (placed.bundle.gpus, placed.shape.sharded, placed.shape.batch_size) == (2.0, True, 16)
    with pytest.raises(RequestError, match=r"fsdp divides a model among several cards, .* found 1 x"):
        placer("1x24GiB").options("asked", config(fsdp=True))
    host = placer_for(Inventory(nodes=(Node(name="host", cpus=8.0),)), Resources(), LinearEstimator())
    with pytest.raises(RequestError, match="fsdp divides a model among several cards, found no GPU"):
        host.options("asked", config(fsdp=True))
