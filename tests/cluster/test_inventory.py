"""What a machine and a Ray cluster say about themselves."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from cluster.machines.hardware import Card, Node
from cluster.machines.inventory import Machine, Raylet, node_of, read_machine, this_machine
from cluster.machines.node_watch import ray_cluster
from tests.cluster.conftest import Install
from tests.cluster.fake_nvml import FakeCard
from tuning_common.errors import RequestError

GIB = 2**30
LOOPBACK = "127.0.0.2"  # Ray would replace 127.0.0.1 by an address that others can reach
RAYLET = Raylet(name="id", address="10.0.0.1", cpus=8, memory_bytes=32 * GIB, gpus=1, labels={"gpu-model": "A"})
HOST = Node(name="h", cpus=64, memory_bytes=256 * GIB)


def machine(*models: str) -> Machine:
    cards = tuple(Card(model=model, total_bytes=24 * GIB, index=index) for index, model in enumerate(models))
    return Machine(node=HOST, cards=cards, problems=())


def test_a_machine_without_nvidia_says_why_and_has_cpus_and_memory(fake_nvml: Install) -> None:
    fake_nvml([FakeCard()], init_code=12)
    survey = this_machine()
    (node,) = survey.inventory.nodes
    assert node.gpus_unavailable.startswith("no NVIDIA driver on this machine")
    assert (node.cards, survey.inventory.simulated) == ((), False)
    assert node.cpus == len(os.sched_getaffinity(0))
    assert node.memory_bytes > 2**29


def test_a_mixed_box_is_a_node_of_each_model(fake_nvml: Install) -> None:
    fake_nvml([FakeCard(name="NVIDIA A40", total=48 * GIB), FakeCard(name="NVIDIA L4"), FakeCard(lost=True)])
    survey = this_machine()
    assert [(node.name, node.driver) for node in survey.inventory.nodes] == [
        ("this-machine/NVIDIA-A40", "570.86.15"),
        ("this-machine/NVIDIA-L4", "570.86.15"),
    ]
    assert survey.problems == ("card 2: GPU is lost",)


def test_simulated_cards_sit_in_the_real_machine(fake_nvml: Install) -> None:
    fake_nvml([])
    inventory = this_machine("10x24GiB,1x80GiB").inventory
    assert inventory.simulated
    assert [len(node.cards) for node in inventory.nodes] == [8, 2, 1]
    assert all(node.cpus >= 1 for node in inventory.nodes)
    assert sum(node.memory_bytes for node in inventory.nodes) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf(
        "SC_PAGE_SIZE"
    )
    with pytest.raises(RequestError, match="cluster 'x': 1 problem"):
        this_machine("x")


def test_what_processes_of_a_parent_hold_is_ours(fake_nvml: Install) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        fake_nvml([FakeCard(used=5 * GIB, processes=[(child.pid, 3 * GIB)])])
        assert read_machine().cards[0].used_by_others_bytes == 5 * GIB
        assert read_machine(own_parent=os.getpid()).cards[0].used_by_others_bytes == 2 * GIB
    finally:
        child.communicate(b"\n", timeout=300)


def test_a_raylet_has_the_cards_of_its_label() -> None:
    node, problems, simulated = node_of(replace(RAYLET, gpus=2), machine("B", "A", "A"))
    assert ([card.index for card in node.cards], problems, simulated) == ([1, 2], (), False)
    assert (node.name, node.address, node.cpus, node.memory_bytes) == ("id", "10.0.0.1", 8, 32 * GIB)


def test_a_raylet_that_has_some_of_the_cards_is_promised_only_what_the_fullest_have() -> None:
    seen = machine("A", "A")
    full = replace(seen.cards[1], used_by_others_bytes=9 * GIB)
    node, problems, _ = node_of(RAYLET, replace(seen, cards=(seen.cards[0], full)))
    assert node.cards == (full,)
    assert problems == ()


@pytest.mark.parametrize(
    ("raylet", "seen", "problem"),
    [
        (replace(RAYLET, gpus=4), machine("A"), r"Ray counts 4 GPUs, NVML sees 1; restart it"),
        (
            replace(RAYLET, labels={"gpu-model": "T4"}),
            machine("A"),
            r"its label gpu-model=T4 names none of its cards \(A\)",
        ),
    ],
)
def test_what_is_odd_about_a_raylet_is_said(raylet: Raylet, seen: Machine, problem: str) -> None:
    node, problems, simulated = node_of(raylet, seen)
    assert len(problems) == 1
    assert re.search(problem, problems[0])
    assert (len(node.cards), simulated) == (1, False)


def test_a_raylet_that_somebody_started_by_hand_needs_no_label() -> None:
    node, problems, simulated = node_of(replace(RAYLET, gpus=2, labels={}), machine("A", "A"))
    assert ([card.model for card in node.cards], problems, simulated) == (["A", "A"], (), False)


def test_a_raylet_with_several_models_is_used_as_its_weakest_card() -> None:
    large = Card(model="A100", total_bytes=80 * GIB, index=0, uuid="a", speed=2.0)
    full = Card(model="A40", total_bytes=48 * GIB, index=1, uuid="b", used_by_others_bytes=40 * GIB)
    old = Card(model="T4", total_bytes=16 * GIB, index=2, uuid="c", speed=0.4)
    raylet = replace(RAYLET, gpus=3, labels={})
    node, (problem,), _ = node_of(raylet, Machine(node=HOST, cards=(large, full, old), problems=()))
    assert [(card.model, card.speed, card.index, card.uuid) for card in node.cards] == [
        ("A40", 0.4, 0, "a"),
        ("A40", 0.4, 1, "b"),
        ("A40", 0.4, 2, "c"),
    ]
    assert {card.usable_bytes for card in node.cards} == {full.usable_bytes}
    assert problem.startswith("one raylet has 3 GPU models (A100, A40, T4), so each card is used as A40")


def test_logical_cards_have_the_size_of_their_label_or_a_usual_one_and_say_so() -> None:
    labels = {"gpu-model": "A", "gpu-memory-mib": str(80 * 1024)}
    node, problems, simulated = node_of(replace(RAYLET, gpus=2, labels=labels), machine())
    assert [(card.model, card.total_bytes) for card in node.cards] == [("A", 80 * GIB)] * 2
    assert (problems, simulated) == ((), True)
    assert node.labels == labels
    node, (problem,), simulated = node_of(replace(RAYLET, gpus=2, labels={}), machine())
    assert [(card.model, card.total_bytes) for card in node.cards] == [("simulated-24GiB", 24 * GIB)] * 2
    assert problem.startswith("Ray counts 2 GPUs and NVML sees none ()")
    assert "24.0 GiB each" in problem
    assert simulated


def test_a_node_without_gpus_in_ray_has_none_for_trials() -> None:
    node, problems, simulated = node_of(replace(RAYLET, gpus=0, labels={}), machine("A"))
    assert (node.cards, problems, simulated) == ((), (), False)


@pytest.mark.ray
def test_every_node_of_a_cluster_is_asked() -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for gpus, labels in (
            (0, {}),
            (2, {"gpu-model": "small", "gpu-memory-mib": "24576"}),
            (1, {"gpu-model": "large", "gpu-memory-mib": "81920"}),
        ):
            cluster.add_node(
                num_cpus=1,
                num_gpus=gpus,
                labels=labels,
                include_dashboard=False,
                node_ip_address=LOOPBACK,
                object_store_memory=100 * 2**20,
            )
        ray.init(address=cluster.address, _node_ip_address=LOOPBACK, log_to_driver=False)
        survey = ray_cluster()
    finally:
        ray.shutdown()
        cluster.shutdown()
    pools = [(pool.model, pool.cards, pool.total_bytes) for pool in survey.inventory.pools]
    assert pools == [("large", 1, 80 * GIB), ("small", 2, 24 * GIB)]
    assert survey.inventory.simulated
    assert survey.problems == ()
    assert len(survey.inventory.nodes) == 3
