"""Shares and alternatives, for any bytes and any cards."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cluster.machines.hardware import Card, Inventory, Node, label_of
from cluster.scheduling.alternatives import Need, explain_refusal, find_alternatives
from cluster.scheduling.shares import CLASSES, UNITS, share_for

MIB = 2**20
cards = st.builds(
    Card,
    model=st.just("a"),
    total_bytes=st.integers(1 * MIB, 200_000 * MIB),
    used_by_others_bytes=st.integers(0, 100_000 * MIB),
)
uppers = st.integers(0, 210_000 * MIB)
tenants = st.integers(1, 16)
node_lists = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 4), st.integers(300, 90_000)), min_size=1, max_size=5
)


def inventory_of(groups: list[tuple[str, int, int]]) -> Inventory:
    nodes = []
    for number, (model, count, mib) in enumerate(groups):
        held = tuple(Card(model=model, total_bytes=mib * MIB + index, index=index) for index in range(count))
        nodes.append(Node(name=f"n{number}", cards=held, cpus=8, memory_bytes=64 * 2**30))
    return Inventory(nodes=tuple(nodes))


@given(uppers, cards, tenants)
def test_a_share_holds_its_trial_and_co_tenants_never_exceed_the_card(upper: int, card: Card, limit: int) -> None:
    share = share_for(upper, card, max_tenants=limit)
    if share is None:
        assert upper > card.usable_bytes or card.usable_bytes == 0
        return
    together = UNITS // share.units
    assert upper <= share.cap_bytes(card.usable_bytes) <= card.usable_bytes
    assert together * share.cap_bytes(card.usable_bytes) <= card.usable_bytes
    assert together <= limit
    assert 0 < share.gpus <= 1
    assert round(share.gpus, 4) == share.gpus


@given(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=16), cards)
def test_shares_that_fit_by_units_fit_by_bytes(units: list[int], card: Card) -> None:
    if sum(units) <= UNITS:
        assert sum(card.usable_bytes * unit // UNITS for unit in units) <= card.usable_bytes


@given(uppers, uppers, cards, tenants)
def test_a_larger_estimate_never_gets_a_smaller_share(one: int, other: int, card: Card, limit: int) -> None:
    small, large = (share_for(upper, card, max_tenants=limit) for upper in sorted((one, other)))
    if large is not None:
        assert small is not None
        assert small.units <= large.units


@given(node_lists, st.integers(1, 100_000), st.integers(1, 4), st.randoms(use_true_random=False))
def test_permuting_nodes_and_cards_changes_nothing(
    groups: list[tuple[str, int, int]], mib: int, several: int, shuffler: random.Random
) -> None:
    straight = inventory_of(groups)
    nodes = list(straight.nodes)
    shuffler.shuffle(nodes)
    mixed = Inventory(
        nodes=tuple(
            Node(
                name=node.name,
                cards=tuple(shuffler.sample(node.cards, len(node.cards))),
                cpus=node.cpus,
                memory_bytes=node.memory_bytes,
            )
            for node in nodes
        )
    )
    needs = (Need(upper_bytes=mib * MIB), Need(upper_bytes=mib * MIB // 2, cards=several))
    assert find_alternatives(needs, straight) == find_alternatives(needs, mixed)
    assert explain_refusal("t", needs, straight) == explain_refusal("t", needs, mixed)


@given(node_lists, st.integers(1, 100_000))
def test_every_alternative_fits_every_card_of_its_model(groups: list[tuple[str, int, int]], mib: int) -> None:
    inventory = inventory_of(groups)
    for one in find_alternatives((Need(upper_bytes=mib * MIB),), inventory):
        usable = [card.usable_bytes for node in inventory.nodes for card in node.cards if card.model == one.model]
        assert mib * MIB <= one.cap_bytes <= min(usable)


@given(st.text(max_size=100))
def test_every_gpu_name_becomes_a_label_that_ray_accepts(name: str) -> None:
    import re

    label = label_of(name)
    assert re.fullmatch(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?", label)
    assert label_of(label) == label
