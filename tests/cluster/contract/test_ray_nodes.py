"""What the broker relies on in Ray 2.60: nodes by their ids, cards inside a node, and its accounting by node."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from cluster.machines.node_watch import ray_cluster
from cluster.machines.ray_nodes import RayNodes, ended_jobs, gpu_use
from tests.cluster.contract.ray_nodes import node_ids, plain_cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster
    from ray.util.placement_group import PlacementGroup

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> "Iterator[Cluster]":
    with plain_cluster(4, 2, 1) as made:
        yield made


def on_node(node: str, gpus: float, *, cpus: float = 0.25) -> "PlacementGroup":
    """Asks for a part of a card of a node."""
    return ray.util.placement_group([{"CPU": cpus, "GPU": gpus}], bundle_label_selector=[{"ray.io/node-id": node}])


@ray.remote
class Holder:
    """Holds a part of a card."""

    def place(self) -> tuple[str, list[str], float]:
        context = ray.get_runtime_context()
        return context.get_node_id(), [str(card) for card in ray.get_gpu_ids()], context.get_assigned_resources()["GPU"]


def holder_in(group: "PlacementGroup", gpus: float):  # type: ignore[no-untyped-def]
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(placement_group=group)
    return Holder.options(num_cpus=0, num_gpus=gpus, scheduling_strategy=strategy).remote()


@pytest.mark.usefixtures("cluster")
def test_every_node_carries_its_id_as_a_label() -> None:
    for entry in ray.nodes():
        assert entry["Labels"]["ray.io/node-id"] == entry["NodeID"]


@pytest.mark.usefixtures("cluster")
def test_a_bundle_that_names_a_node_lands_there_with_its_fraction() -> None:
    for node in node_ids():
        group = on_node(node, 0.25)
        holder = holder_in(group, 0.25)
        where, cards, gpus = ray.get(holder.place.remote(), timeout=120)
        assert (where, len(cards), gpus) == (node, 1, 0.25)
        ray.kill(holder)
        ray.util.remove_placement_group(group)


@pytest.mark.usefixtures("cluster")
def test_inside_a_node_the_card_with_least_sufficient_room_is_taken() -> None:
    """As Capacity.fitting assumes."""
    node = node_ids()[0]
    groups, cards = [], []
    for gpus in (0.5, 0.75, 0.25, 0.5, 0.3, 1.0):
        groups.append(on_node(node, gpus))
        holder = holder_in(groups[-1], gpus)
        cards.append(ray.get(holder.place.remote(), timeout=120)[1][0])
        ray.kill(holder)
    free = [1.0, 1.0, 1.0, 1.0]
    by_card: dict[str, int] = {}
    for gpus, card in zip((0.5, 0.75, 0.25, 0.5, 0.3, 1.0), cards, strict=True):
        best = min(room for room in free if room >= gpus - 1e-9)
        if card not in by_card:
            by_card[card] = next(n for n, room in enumerate(free) if room == best and n not in by_card.values())
        assert free[by_card[card]] == pytest.approx(best), (gpus, card, free)
        free[by_card[card]] -= gpus
    for group in groups:
        ray.util.remove_placement_group(group)


@pytest.mark.usefixtures("cluster")
def test_ray_s_accounting_says_what_each_node_has_left_and_whose_the_rest_is() -> None:
    wide, narrow = node_ids()[:2]
    wait_until(lambda: not any(gpu_use().used.values()), "the groups of earlier tests are gone")
    group = on_node(wide, 0.5)
    assert group.wait(60)
    pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=narrow, soft=False)
    stranger = Holder.options(num_cpus=0, num_gpus=1, scheduling_strategy=pinned).remote()
    ray.get(stranger.place.remote(), timeout=120)
    job = ray.get_runtime_context().get_job_id()
    wait_until(lambda: gpu_use().used == {**dict.fromkeys(gpu_use().used, 0.0), wide: 0.5, narrow: 1.0}, "Ray counts")
    assert gpu_use().by_job == {wide: {job: 0.5}}, "the actor is in no placement group"
    assert job not in ended_jobs()
    ray.kill(stranger)
    ray.util.remove_placement_group(group)
    wait_until(lambda: not any(gpu_use().used.values()), "Ray counts")


@pytest.mark.usefixtures("cluster")
def test_requests_that_name_the_same_node_share_warm_processes_and_others_do_not() -> None:
    """Tune keeps processes by the placement group factory that they were started with."""
    from ray.tune import PlacementGroupFactory

    def factory(node: str) -> PlacementGroupFactory:
        return PlacementGroupFactory([{"CPU": 0.5, "GPU": 0.25}], bundle_label_selector=[{"ray.io/node-id": node}])

    first, second = node_ids()[:2]
    assert factory(first) == factory(first)
    assert hash(factory(first)) == hash(factory(first))
    assert factory(first) != factory(second)


def test_a_drained_node_and_a_dead_one_are_gone_from_the_nodes_and_a_bundle_that_names_them_waits(
    cluster: "Cluster",
) -> None:
    from ray._raylet import GcsClient

    _, drained, dead = node_ids()
    preempted, in_an_hour_ms = 2, int(time.time() * 1000) + 3_600_000
    accepted, why = GcsClient(address=cluster.address).drain_node(drained, preempted, "a test", in_an_hour_ms)
    assert accepted, why
    wait_until(lambda: drained not in {one.name for one in RayNodes().raylets()}, "the node is being drained")
    assert not on_node(drained, 0.25).wait(2)

    cluster.remove_node(next(node for node in cluster.list_all_nodes() if node.node_id == dead), allow_graceful=False)
    wait_until(lambda: dead not in {one.name for one in RayNodes().raylets()}, "the node is dead")
    assert not on_node(dead, 0.25).wait(2)


@pytest.mark.usefixtures("cluster")
def test_nodes_without_our_labels_have_an_inventory() -> None:
    survey = ray_cluster()
    assert survey.inventory.simulated
    assert [len(node.cards) for node in survey.inventory.nodes if node.cards] == [4], "one is drained, one is dead"
    assert survey.inventory.pools[0].model == "simulated-24GiB"
    assert len(survey.problems) == 1
