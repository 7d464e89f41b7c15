"""Shares, alternatives, refusals."""

import pytest

from cluster.machines.hardware import Card, Inventory, Node, parse_simulated
from cluster.scheduling.alternatives import (
    Need,
    cpu_slots,
    explain_cpu_refusal,
    explain_refusal,
    find_alternatives,
    find_cpu_alternatives,
)
from cluster.scheduling.shares import CLASSES, UNITS, Share, share_for

GIB = 2**30


@pytest.mark.parametrize(
    ("k", "units"), [(1, 10_000), (2, 5000), (3, 3333), (4, 2500), (6, 1666), (8, 1250), (12, 833)]
)
def test_k_shares_of_class_one_kth_fill_a_card(k: int, units: int) -> None:
    assert units in CLASSES
    assert UNITS - k < k * units <= UNITS


def test_every_share_has_a_complement_that_fills_the_card() -> None:
    left = [UNITS - units - max(other for other in CLASSES if units + other <= UNITS) for units in CLASSES[:-1]]
    assert max(left) < 16


def test_co_tenants_are_limited() -> None:
    card = Card(model="a", total_bytes=80 * GIB)
    assert share_for(GIB, card) == Share(units=1250)
    assert share_for(GIB, card, max_tenants=3) == Share(units=3000)


def test_a_share_prints_as_a_person_reads_it() -> None:
    texts = [str(share) for share in (Share(units=3333), Share(units=UNITS), Share(units=UNITS, cards=2))]
    assert texts == ["0.3333 of a card", "1 card", "2 cards"]
    assert Share(units=UNITS, cards=2).gpus == 2.0


def test_a_trial_goes_where_it_costs_the_smallest_part_of_the_cluster() -> None:
    inventory = parse_simulated("64x24GiB,16x80GiB")
    small, large = find_alternatives((Need(upper_bytes=10 * GIB, cpus=2, host_bytes=GIB),), inventory)
    assert (small.model, small.gpus, small.cpus, small.host_bytes) == ("simulated-24GiB", 0.4375, 2, GIB)
    assert (large.model, large.gpus) == ("simulated-80GiB", 0.1666)
    (only,) = find_alternatives((Need(upper_bytes=30 * GIB),), inventory)
    assert only.model == "simulated-80GiB"


def test_each_model_may_have_its_own_estimate_and_duration() -> None:
    needs = (
        Need(model="T4", upper_bytes=8 * GIB, expected_s=100),
        Need(model="A100", upper_bytes=20 * GIB, expected_s=100, busy=0.5),
    )
    first, second = find_alternatives(needs, parse_simulated("4xT4:16GiB@0.5,4xA100:80GiB@2"))
    assert (first.model, first.units, first.expected_s, first.busy) == ("A100", 3000, 50, 0.5)
    assert (second.model, second.units, second.expected_s, second.busy) == ("T4", 5625, 200, None)


def test_a_trial_that_one_card_cannot_hold_takes_whole_cards_of_one_machine() -> None:
    needs = (Need(upper_bytes=60 * GIB), Need(upper_bytes=20 * GIB, cards=4))
    (found,) = find_alternatives(needs, parse_simulated("8x24GiB"))
    assert found.share == Share(units=UNITS, cards=4)
    assert found.units == 4 * UNITS
    assert find_alternatives(needs, parse_simulated("2x24GiB")) == ()


def test_a_refusal_says_bytes_cards_and_remedies() -> None:
    relief = ("gradient checkpointing (31.0 GiB)", "encoder_max_len 512")
    inventory = parse_simulated("2x24GiB,1x80GiB")
    assert explain_refusal("trial_7", (Need(upper_bytes=90 * GIB),), inventory, relief) == (
        "trial_7: needs 90.0 GiB on one card, found 2 x simulated-24GiB, 1 x simulated-80GiB (simulated), of which at "
        "most 78.2 GiB of one card can be used; would fit with a card of at least 92.1 GiB, or gradient checkpointing "
        "(31.0 GiB), or encoder_max_len 512"
    )


def test_a_refusal_for_several_cards_names_them() -> None:
    refusal = explain_refusal("t", (Need(upper_bytes=20 * GIB, cards=4),), parse_simulated("2x24GiB"))
    assert "20.0 GiB on each of 4 cards" in refusal
    assert "4 cards of at least 20.7 GiB in one machine" in refusal


def test_without_a_gpu_trials_are_placed_by_cpus_and_host_memory() -> None:
    small = Node(name="small", cpus=2, memory_bytes=8 * GIB)
    large = Node(name="large", cpus=16, memory_bytes=32 * GIB)
    inventory = Inventory(nodes=(small, large))
    (found,) = find_cpu_alternatives(cpus=1, host_bytes=3 * GIB, inventory=inventory)
    assert (found.model, found.share, found.gpus) == ("", None, 0.0)
    assert cpu_slots(found, inventory) == 12
    assert find_cpu_alternatives(cpus=32, host_bytes=9 * GIB, inventory=inventory) == ()
    refusal = explain_cpu_refusal("t", cpus=32, host_bytes=9 * GIB, inventory=inventory)
    assert refusal.startswith("t: needs 32 CPUs and 9.00 GiB of host memory on one machine, found at most 16 CPUs")
