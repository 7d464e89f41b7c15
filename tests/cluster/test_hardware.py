"""Cards, nodes and pools; described clusters."""

import pytest

from cluster.machines.hardware import RESERVE_BYTES, Card, Inventory, Node, parse_simulated, split_by_model
from tuning_common.errors import RequestError

GIB = 2**30


def test_a_described_cluster_has_its_cards_on_nodes_of_one_model() -> None:
    inventory = parse_simulated("10xT4:16GiB@0.5, 1x80GiB")
    assert [len(node.cards) for node in inventory.nodes] == [8, 2, 1]
    assert [(pool.model, pool.cards, pool.node_cards, pool.speed) for pool in inventory.pools] == [
        ("T4", 10, (8, 2), 0.5),
        ("simulated-80GiB", 1, (1,), 1.0),
    ]
    assert inventory.simulated
    assert inventory.cards == 11
    assert inventory.nodes[2].labels == {"gpu-model": "simulated-80GiB", "gpu-memory-mib": "81920"}


def test_a_known_gpu_model_needs_no_size() -> None:
    pools = parse_simulated("2x3090, 1x a100 sxm4 40gb @2").pools
    assert [(pool.model, pool.cards, pool.total_bytes >> 20, pool.speed) for pool in pools] == [
        ("NVIDIA-A100-SXM4-40GB", 1, 40960, 2.0),
        ("NVIDIA-GeForce-RTX-3090", 2, 24576, 1.0),
    ]


def test_every_wrong_part_of_a_described_cluster_is_named() -> None:
    with pytest.raises(RequestError) as raised:
        parse_simulated("2x24GB x, 0x24GiB, 1x24GiB, 2x24GiB, many, 1x100MiB, 1x16GiB@0")
    problems = raised.value.problems
    assert len(problems) == 6
    assert "neither a size such as 24GiB nor a GPU model: GPU '24GB x' is unknown" in problems[0]
    assert "is there twice" in problems[2]
    assert "COUNTxSIZE" in problems[3]


def test_a_pool_promises_only_what_its_fullest_card_has() -> None:
    cards = (
        Card(model="a", total_bytes=24 * GIB),
        Card(model="a", total_bytes=24 * GIB, used_by_others_bytes=4 * GIB, index=1),
    )
    (pool,) = Inventory(nodes=(Node(name="n", cards=cards),)).pools
    assert pool.usable_bytes == 20 * GIB - RESERVE_BYTES
    assert pool.total_bytes == 24 * GIB


def test_a_card_that_others_fill_has_nothing_to_give() -> None:
    assert Card(model="a", total_bytes=GIB, used_by_others_bytes=GIB).usable_bytes == 0


def test_a_machine_with_two_models_becomes_a_node_of_each() -> None:
    host = Node(name="h", address="10.0.0.1", cpus=32, memory_bytes=128 * GIB)
    cards = tuple(Card(model=model, total_bytes=24 * GIB, index=i) for i, model in enumerate("baab"))
    nodes = split_by_model(host, cards)
    assert [(node.name, [card.index for card in node.cards], node.cpus) for node in nodes] == [
        ("h/a", [1, 2], 16),
        ("h/b", [0, 3], 16),
    ]
    assert sum(node.memory_bytes for node in nodes) == host.memory_bytes
    assert split_by_model(host, cards[1:3])[0].name == "h"


def test_a_node_without_cards_has_no_gpu_label() -> None:
    assert Node(name="head").labels == {}
    assert Inventory(nodes=(Node(name="head"),)).describe() == "no GPU"
