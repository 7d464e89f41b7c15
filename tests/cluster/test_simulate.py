"""Placement under a simulated clock: policies, co-tenants, starvation, unequal cards, the command."""

import json

import pytest

from cluster.__main__ import main
from cluster.machines.hardware import parse_simulated
from cluster.scheduling.compute_sharing import Contention, SharedCards
from cluster.scheduling.lower_bound import Load, lower_bound_s
from cluster.scheduling.placement import Demand, Need
from cluster.scheduling.simulate import SimulatedTrial, simulate
from cluster.scheduling.trial_mix import mixed_trials
from common.errors import RequestError

GIB = 2**30
POLICIES = ("shares", "half", "whole")


def trial(
    name: str, gib: float, long_s: float, *, arrives_s: float = 0.0, busy: float = 0.0, cards: int = 1
) -> SimulatedTrial:
    need = Need(upper_bytes=int(gib * GIB), expected_s=long_s, cards=cards)
    return SimulatedTrial(demand=Demand(name=name, needs=(need,)), arrives_s=arrives_s, busy=busy)


def test_three_policies_on_one_card() -> None:
    trials = [trial(f"t{number}", 5, 100) for number in range(8)]
    ends = {policy: simulate(trials, parse_simulated("1x24GiB"), policy=policy).makespan_s for policy in POLICIES}
    assert ends == {"shares": 200.0, "half": 400.0, "whole": 800.0}


def test_packing_gains_nothing_where_one_trial_keeps_the_card_busy_and_does_not_lose_by_overhead() -> None:
    trials = [trial(f"t{number}", 5, 100, busy=1.0) for number in range(4)]
    card = parse_simulated("1x24GiB")
    assert simulate(trials, card).makespan_s == simulate(trials, card, policy="whole").makespan_s == 400.0
    dear = Contention(overhead=0.1)
    assert simulate(trials, card, policy="half", contention=dear).makespan_s == pytest.approx(440.0)
    assert simulate(trials, card, contention=dear).makespan_s == 400.0
    assert simulate(trials, card).gpu_utilisation == 1.0


def test_trials_on_different_cards_do_not_slow_each_other() -> None:
    cards = SharedCards(Contention())
    for number in (0, 1):
        cards.start(number, card=number, work_s=10, busy=1.0, now_s=0.0)
    assert [cards.next_end(), cards.next_end()] == [(10.0, 0), (10.0, 1)]
    assert cards.peek_s() is None


def test_a_large_trial_starts_in_spite_of_a_stream_of_small_ones() -> None:
    stream = [trial(f"small{number:03}", 11, 20, arrives_s=10.0 * number) for number in range(100)]
    large = trial("large", 20, 20, arrives_s=35.0)
    done = simulate([*stream, large], parse_simulated("1x24GiB"), order="arrival", patience=4)
    (placed,) = [one for one in done.placements if one.name == "large"]
    assert placed.start_s == 90.0  # overtaken by four, then the card drains
    patient = simulate([*stream, large], parse_simulated("1x24GiB"), order="arrival", patience=1000)
    (starved,) = [one for one in patient.placements if one.name == "large"]
    assert starved.start_s > 900


def test_a_trial_of_several_whole_cards_takes_them_on_one_node() -> None:
    inventory = parse_simulated("4x24GiB", cards_per_node=2)
    done = simulate([trial("two", 20, 10, cards=2), trial("one", 20, 10)], inventory)
    by_name = {one.name: one for one in done.placements}
    assert by_name["two"].spot.cards == (0, 1)
    assert by_name["one"].spot.node != by_name["two"].spot.node
    assert done.makespan_s == 10.0


def test_a_slow_card_takes_short_trials_and_no_long_one_that_a_quick_card_would_end_sooner() -> None:
    inventory = parse_simulated("1xSlow:24GiB@0.1,1xQuick:24GiB")
    trials = [trial("long", 20, 1000), trial("other", 20, 900), trial("short", 20, 50)]
    done = simulate(trials, inventory)
    assert {one.name: one.spot.model for one in done.placements} == {"long": "Quick", "other": "Quick", "short": "Slow"}
    assert done.makespan_s == 1900.0


def test_cpus_of_a_node_limit_its_trials() -> None:
    inventory = parse_simulated("1x24GiB")  # 8 CPUs
    trials = [trial(f"t{number}", 2, 10) for number in range(8)]
    assert simulate(trials, inventory).makespan_s == 10.0
    assert simulate(trials, inventory, cpus_per_trial=4.0).makespan_s == 40.0


def test_the_bound_knows_what_cannot_stand_beside_each_other_and_which_card_is_quicker() -> None:
    assert lower_bound_s([Load(parts=(0.4,), durations_s=(10.0,))] * 6, [1]) == 30.0  # two a card
    quick = Load(parts=(1.0, 1.0), durations_s=(40.0, 10.0))
    assert lower_bound_s([quick] * 10, [2, 2]) == pytest.approx(40.0, rel=0.01)  # 1 of 5 goes to the slow ones
    assert lower_bound_s([Load(parts=(0.1,), durations_s=(10.0,), busy=0.5)] * 8, [1]) == 40.0
    assert lower_bound_s([], [1]) == 0.0


def test_packed_ends_before_fixed_shares_and_within_a_few_percent_of_the_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {}
    for policy in POLICIES:
        arguments = ["--cluster", "64x24GiB", "--trials", "3000", "--busy", "0", "--policy", policy]
        assert main(["simulate", *arguments, "--format", "json"]) == 0
        found[policy] = json.loads(capsys.readouterr().out)
    shares, half, whole = (found[policy]["makespan_s"] for policy in POLICIES)
    assert shares < half < whole
    assert 1 <= shares / found["shares"]["lower_bound_s"] <= 1.05
    assert {one["lower_bound_s"] for one in found.values()} == {found["shares"]["lower_bound_s"]}
    assert found["shares"]["refused"] == 0
    assert found["shares"]["decisions_per_s"] > 100


def test_unequal_cards_are_packed_by_memory_and_compute_within_a_few_percent_of_the_bound() -> None:
    inventory = parse_simulated("48x24GiB,16x80GiB")
    trials = mixed_trials(1280, inventory)
    ends = {policy: simulate(trials, inventory, policy=policy) for policy in POLICIES}
    assert ends["shares"].makespan_s <= 1.05 * ends["shares"].lower_bound_s  # 1.73 when placement knew bytes alone
    assert ends["shares"].makespan_s < ends["half"].makespan_s < ends["whole"].makespan_s


def test_four_models_of_unequal_speed_are_packed_within_a_few_percent_of_the_bound() -> None:
    inventory = parse_simulated("80xT4:16GiB@0.4,60x3090:24GiB,40xA100:40GiB@1.6,20xH100:80GiB@3")
    done = simulate(mixed_trials(2000, inventory), inventory)
    assert done.makespan_s <= 1.08 * done.lower_bound_s


def test_the_bound_knows_that_what_leaves_little_memory_wastes_the_compute_it_leaves() -> None:
    wide = Load(parts=(0.9,), durations_s=(10.0,), busy=0.5)
    narrow = Load(parts=(0.2,), durations_s=(10.0,), busy=1.0)
    assert lower_bound_s([wide, narrow] * 60, [1]) == pytest.approx(
        1200.0, rel=0.01
    )  # 1,080 s by memory, 900 s by compute


def test_the_command_names_what_fits_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--cluster", "2x8GiB", "--trials", "50"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("50 made-up trials (seed 0), policy shares, on 2 x simulated-8GiB (simulated)\n")
    assert "not placed: mt5-00001: needs 10.8 GiB on one card" in out


def test_wrong_numbers_are_named_together() -> None:
    with pytest.raises(RequestError) as caught:
        main(["simulate", "--cluster", "2x8GiB", "--trials", "0", "--busy", "2", "--overhead", "-1"])
    assert all(word in str(caught.value) for word in ("--trials 0", "--busy 2", "--overhead -1"))
