"""Simulated placement, for any trials and any cards."""

import random
from collections import defaultdict
from typing import cast
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.machines.hardware import Inventory, Node, parse_simulated
from cluster.scheduling import lower_bound
from cluster.scheduling.compute_sharing import Contention
from cluster.scheduling.placement import Demand, Need, choose
from cluster.scheduling.shares import UNITS
from cluster.scheduling.simulate import Policy, SimulatedTrial, simulate

MIB = 2**20
CLUSTERS = ("1x24GiB", "3x24GiB", "2x24GiB,1x80GiB", "2xT4:16GiB@0.5,1xA100:80GiB@2")
trial_lists = st.lists(
    st.tuples(st.integers(100, 90_000), st.integers(1, 1000), st.integers(0, 500), st.floats(0, 1)), max_size=14
)
policies = st.sampled_from(["shares", "half", "whole"])


def trials_of(rows: list[tuple[int, int, int, float]]) -> list[SimulatedTrial]:
    return [
        SimulatedTrial(
            demand=Demand(name=f"t{number:02}", needs=(Need(upper_bytes=mib * MIB, expected_s=float(long_s)),)),
            arrives_s=float(arrives_s),
            busy=busy,
        )
        for number, (mib, long_s, arrives_s, busy) in enumerate(rows)
    ]


@given(trial_lists, st.sampled_from(CLUSTERS), policies, st.sampled_from(["largest", "arrival"]), st.floats(0, 0.3))
def test_every_trial_is_placed_once_or_refused_and_no_card_is_ever_overfull(
    rows: list[tuple[int, int, int, float]], cluster: str, policy: str, order: str, overhead: float
) -> None:
    inventory, trials = parse_simulated(cluster), trials_of(rows)
    done = simulate(
        trials,
        inventory,
        policy=cast("Policy", policy),
        order="largest" if order == "largest" else "arrival",
        contention=Contention(overhead=overhead),
    )
    names = [one.name for one in done.placements] + [one.name for one in done.refusals]
    assert sorted(names) == sorted(trial.demand.name for trial in trials)
    usable = {pool.model: pool.usable_bytes for pool in inventory.pools}
    arrivals = {trial.demand.name: trial.arrives_s for trial in trials}
    on_card = defaultdict(list)
    for one in done.placements:
        assert arrivals[one.name] <= one.start_s < one.end_s
        assert one.upper_bytes <= one.share.cap_bytes(usable[one.spot.model])
        for card in one.spot.cards:
            on_card[one.spot.node, card].append(one)
    for held in on_card.values():
        for moment in (one.start_s for one in held):
            together = [one for one in held if one.start_s <= moment < one.end_s]
            assert sum(one.share.units for one in together) <= UNITS
            assert sum(one.upper_bytes for one in together) <= usable[together[0].spot.model]


@given(trial_lists, st.sampled_from(CLUSTERS), policies, st.floats(0, 0.3))
def test_the_lower_bound_is_never_above_the_makespan(
    rows: list[tuple[int, int, int, float]], cluster: str, policy: str, overhead: float
) -> None:
    done = simulate(
        trials_of(rows),
        parse_simulated(cluster),
        policy=cast("Policy", policy),
        contention=Contention(overhead=overhead),
    )
    assert done.lower_bound_s <= done.makespan_s * (1 + 1e-9)
    assert 0 <= done.gpu_utilisation <= 1 + 1e-9
    assert 0 <= done.memory_utilisation <= 1 + 1e-9


@settings(max_examples=40)
@given(trial_lists, st.randoms(use_true_random=False))
def test_permuting_nodes_and_cards_changes_nothing(
    rows: list[tuple[int, int, int, float]], shuffler: random.Random
) -> None:
    straight = parse_simulated("3x24GiB,2x80GiB", cards_per_node=2)
    nodes = [
        Node(
            name=node.name,
            cards=tuple(shuffler.sample(node.cards, len(node.cards))),
            cpus=node.cpus,
            memory_bytes=node.memory_bytes,
        )
        for node in shuffler.sample(straight.nodes, len(straight.nodes))
    ]
    assert simulate(trials_of(rows), straight) == simulate(
        trials_of(rows), Inventory(nodes=tuple(nodes), simulated=True)
    )


@given(trial_lists, st.sampled_from(["1x24GiB", "3x24GiB", "2x24GiB,1x80GiB"]))
def test_no_card_idles_while_a_trial_that_fits_its_memory_and_its_compute_waits(
    rows: list[tuple[int, int, int, float]], cluster: str
) -> None:
    inventory, trials = parse_simulated(cluster), trials_of(rows)  # cards of equal speed
    done = simulate(trials, inventory)
    by_name = {trial.demand.name: trial for trial in trials}
    cards = [(node.name, card.index, card.model) for node in inventory.nodes for card in node.cards]
    moments = sorted({one.start_s for one in done.placements} | {one.end_s for one in done.placements})
    for moment in moments:
        waiting = [one for one in done.placements if by_name[one.name].arrives_s <= moment < one.start_s]
        for node, index, model in cards:
            tenants = [
                one
                for one in done.placements
                if one.spot.node == node and index in one.spot.cards and one.start_s <= moment < one.end_s
            ]
            held = sum(one.share.units for one in tenants)
            used = sum(by_name[one.name].busy for one in tenants)
            for one in waiting:
                units = [c.share.units for c in choose(by_name[one.name].demand, inventory) if c.model == model]
                fits = any(held + needed <= UNITS for needed in units)
                assert not (fits and used + by_name[one.name].busy <= 1 - 1e-3), (one.name, node, index, moment)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(100, 60_000), st.integers(1, 1000), st.just(0), st.floats(0, 1)),
        min_size=6,
        max_size=16,
    ),
    st.sampled_from(["2x24GiB,1x80GiB", "1xT4:16GiB@0.5,1xA100:80GiB@2"]),
    policies,
)
def test_the_bound_of_mixes_is_never_above_the_makespan_of_any_policy(
    rows: list[tuple[int, int, int, float]], cluster: str, policy: str
) -> None:
    with patch.object(lower_bound, "_MANY", 1):  # mixes are counted from a hundred on, which take seconds to place
        done = simulate(trials_of(rows), parse_simulated(cluster), policy=cast("Policy", policy))
    assert 0 < done.lower_bound_s <= done.makespan_s * (1 + 1e-9)
