"""The broker under a simulated clock, for any trials and any cards."""

import random
from collections import defaultdict
from dataclasses import replace
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.machines.hardware import Inventory, parse_simulated
from cluster.scheduling import lower_bound
from cluster.scheduling.alternatives import Need, find_alternatives
from cluster.scheduling.compute_sharing import Contention
from cluster.scheduling.request import Request
from cluster.scheduling.shares import UNITS
from cluster.scheduling.simulation import Policy, SimulatedTrial, Simulation, bound_s, hold_under, simulate

MIB = 2**20
CLUSTERS = ("1x24GiB", "3x24GiB", "2x24GiB,1x80GiB", "2xT4:16GiB@0.5,1xA100:80GiB@2")
Row = tuple[int, int, int, float]  # MiB, seconds, arrival, busy part
trial_lists = st.lists(
    st.tuples(st.integers(100, 90_000), st.integers(1, 1000), st.integers(0, 500), st.floats(0, 1)), max_size=14
)
policies: st.SearchStrategy[Policy] = st.sampled_from(["shares", "half", "whole"])


def trials_of(
    rows: list[Row], inventory: Inventory, known: bool = True, policy: Policy = "shares"
) -> list[SimulatedTrial]:
    """Those that fit somewhere."""
    found = []
    for number, (mib, long_s, arrives_s, busy) in enumerate(rows):
        need = Need(upper_bytes=mib * MIB, expected_s=float(long_s) if known else None, busy=busy if known else None)
        request = Request(name=f"t{number:02}", sweep="s", alternatives=find_alternatives((need,), inventory))
        if request.alternatives:
            held = hold_under(policy, request, inventory)
            found.append(SimulatedTrial(request=held, work_s=float(long_s), busy=busy, arrives_s=float(arrives_s)))
    return found


def run(rows: list[Row], inventory: Inventory, **options: object) -> Simulation:
    return simulate(trials_of(rows, inventory, **options), inventory)  # type: ignore[arg-type]


@settings(max_examples=40)
@given(trial_lists, st.sampled_from(CLUSTERS), policies, st.booleans(), st.floats(0, 0.3))
def test_every_trial_runs_once_and_no_card_is_ever_overfull(
    rows: list[Row], cluster: str, policy: Policy, known: bool, overhead: float
) -> None:
    inventory = parse_simulated(cluster)
    trials = trials_of(rows, inventory, known, policy)
    done = simulate(trials, inventory, contention=Contention(overhead=overhead))
    assert sorted(one.name for one in done.runs) == sorted(trial.request.name for trial in trials)
    usable = {pool.model: pool.usable_bytes for pool in inventory.pools}
    arrivals = {trial.request.name: trial.arrives_s for trial in trials}
    on_card = defaultdict(list)
    for one in done.runs:
        assert arrivals[one.name] <= one.start_s < one.end_s
        held = one.allocation.alternative
        assert held.share is not None
        assert held.upper_bytes <= held.cap_bytes <= held.share.cap_bytes(usable[held.model])
        for node, card in zip(one.allocation.nodes, one.allocation.cards, strict=True):
            on_card[node, card].append(one)
    for tenants in on_card.values():
        for moment in (one.start_s for one in tenants):
            together = [one.allocation.alternative for one in tenants if one.start_s <= moment < one.end_s]
            assert sum(one.units for one in together) <= UNITS
            assert sum(one.cap_bytes for one in together) <= usable[together[0].model]


@settings(max_examples=40)
@given(trial_lists, st.sampled_from(CLUSTERS), policies, st.booleans(), st.floats(0, 0.3))
def test_the_lower_bound_is_never_above_the_makespan(
    rows: list[Row], cluster: str, policy: Policy, known: bool, overhead: float
) -> None:
    inventory = parse_simulated(cluster)
    trials = trials_of(rows, inventory, known, policy)
    done = simulate(trials, inventory, contention=Contention(overhead=overhead))
    assert bound_s(trials_of(rows, inventory), inventory) <= done.makespan_s * (1 + 1e-9)
    assert 0 <= done.gpu_utilisation <= 1 + 1e-9
    assert 0 <= done.memory_utilisation <= 1 + 1e-9


@settings(max_examples=25)
@given(trial_lists, st.booleans(), st.randoms(use_true_random=False))
def test_permuting_nodes_and_cards_changes_nothing(rows: list[Row], known: bool, shuffler: random.Random) -> None:
    straight = parse_simulated("3x24GiB,2x80GiB", cards_per_node=2)
    nodes = [
        replace(node, cards=tuple(shuffler.sample(node.cards, len(node.cards))))
        for node in shuffler.sample(straight.nodes, len(straight.nodes))
    ]
    mixed = Inventory(nodes=tuple(nodes), simulated=True)
    assert run(rows, straight, known=known) == run(rows, mixed, known=known)


@given(trial_lists, st.sampled_from(["1x24GiB", "3x24GiB", "2x24GiB,1x80GiB"]))
def test_no_card_idles_while_a_trial_that_fits_it_waits(rows: list[Row], cluster: str) -> None:
    inventory = parse_simulated(cluster)  # cards of equal speed
    trials = {trial.request.name: trial for trial in trials_of(rows, inventory)}
    done = simulate(list(trials.values()), inventory)
    cards = [(node.name, card.index, card.model) for node in inventory.nodes for card in node.cards]
    for moment in sorted({one.start_s for one in done.runs} | {one.end_s for one in done.runs}):
        waiting = [one for one in done.runs if trials[one.name].arrives_s <= moment < one.start_s]
        for node, index, model in cards:
            runs = [one for one in done.runs if one.start_s <= moment < one.end_s]
            if not any((node, index) == (one.allocation.nodes[0], one.allocation.cards[0]) for one in runs):
                fitting = [w for w in waiting if any(a.model == model for a in trials[w.name].request.alternatives)]
                assert not fitting, (fitting[0].name, node, index, moment)


@settings(max_examples=20)
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
    rows: list[Row], cluster: str, policy: Policy
) -> None:
    inventory = parse_simulated(cluster)
    with patch.object(lower_bound, "_MANY", 1):  # mixes are counted from a hundred on, which take seconds to place
        bound = bound_s(trials_of(rows, inventory), inventory)
    done = run(rows, inventory, policy=policy)
    assert 0 < bound <= done.makespan_s * (1 + 1e-9)
