"""Nodes that join, die, are drained, fail or do not answer are followed without waiting for any."""

from dataclasses import replace

from cluster.machines.hardware import Card, Inventory, Node
from cluster.machines.inventory import Machine, Raylet, Survey
from cluster.machines.node_watch import ANSWER_S, ASK_AGAIN_S, EVERY_S, LivingNodes, NodeWatch, OthersUse
from cluster.machines.ray_nodes import GpuUse

GIB = 2**30
CARD = Card(model="A", total_bytes=24 * GIB)
MACHINE = Machine(node=Node(name="h"), cards=(CARD, replace(CARD, index=1)), problems=())


class Cluster:
    """Nodes that answer what a test says; None for not yet."""

    def __init__(self, *names: str) -> None:
        self.now_s = 0.0
        self.present = list(names)
        self.answers: dict[str, Machine | str | None] = dict.fromkeys(names, MACHINE)
        self.asked: list[str] = []

    def raylets(self) -> tuple[Raylet, ...]:
        return tuple(
            Raylet(name=name, address=f"ip-{name}", cpus=8, memory_bytes=GIB, gpus=2, labels={})
            for name in self.present
        )

    def ask(self, name: str) -> object:
        self.asked.append(name)
        return name

    def answer(self, asked: object, wait_s: float) -> Machine | str | None:
        return self.answers[str(asked)]

    def watch(self) -> NodeWatch:
        return NodeWatch(self, lambda: self.now_s)

    def poll(self, watch: NodeWatch, after_s: float = EVERY_S) -> Survey | None:
        self.now_s += after_s
        return watch.poll()


def names(survey: Survey | None) -> list[str]:
    assert survey is not None
    return [node.name for node in survey.inventory.nodes]


def test_what_changes_is_told_once_and_asked_for_at_most_every_two_seconds() -> None:
    cluster = Cluster("a", "b")
    watch = cluster.watch()
    cluster.answers["b"] = None
    assert cluster.poll(watch) is None, "the first survey is whole: what is missing would be taken for lost"
    cluster.answers["b"] = MACHINE
    assert cluster.poll(watch, 0.5) is None, "too soon"
    assert names(cluster.poll(watch)) == ["a", "b"]
    assert cluster.poll(watch) is None, "nothing is new"
    cluster.present = ["b", "c"]
    cluster.answers["c"] = None
    assert names(cluster.poll(watch)) == ["b"], "one has died or is being drained, one has joined"
    cluster.answers["c"] = MACHINE
    assert names(cluster.poll(watch)) == ["b", "c"]
    assert cluster.asked == ["a", "b", "c"], "each is asked once"


def test_a_node_that_failed_is_a_problem_and_is_asked_again() -> None:
    cluster = Cluster("a")
    cluster.answers["a"] = "out of memory"
    watch = cluster.watch()
    survey = cluster.poll(watch)
    assert survey is not None
    assert (survey.inventory.nodes, survey.problems) == ((), ("node ip-a: out of memory",))
    cluster.answers["a"] = MACHINE
    assert cluster.poll(watch) is None
    assert names(cluster.poll(watch, ASK_AGAIN_S)) == ["a"]


def test_a_node_that_never_answers_holds_up_nobody_for_ever() -> None:
    cluster = Cluster("a", "b")
    cluster.answers["b"] = None
    watch = cluster.watch()
    assert cluster.poll(watch) is None
    survey = cluster.poll(watch, ANSWER_S)
    assert names(survey) == ["a"]
    assert survey is not None
    assert survey.problems == ("node ip-b: no answer in 60 s; check it with `ray status` and ssh",)


def test_a_survey_for_people_names_the_nodes_that_do_not_answer() -> None:
    cluster = Cluster("a", "b")
    cluster.answers["b"] = None
    survey = cluster.watch().complete()
    assert names(survey) == ["a"]
    assert survey.problems == ("node ip-b: no answer in 60 s; check it with `ray status` and ssh",)


def test_of_a_sweeps_own_ray_nodes_can_only_be_lost() -> None:
    cluster = Cluster("a", "b", "c")
    living = LivingNodes(Inventory(nodes=(Node(name="a"), Node(name="b"))), cluster, lambda: cluster.now_s)
    cluster.now_s += EVERY_S
    assert living.poll() is None
    cluster.present = ["a"]
    assert living.poll() is None, "too soon"
    cluster.now_s += EVERY_S
    left = living.poll()
    assert left is not None
    assert [node.name for node in left.nodes] == ["a"]
    cluster.now_s += EVERY_S
    assert living.poll() is None


def test_what_others_hold_is_what_no_job_of_ours_does_in_two_readings_in_a_row() -> None:
    others = OthersUse()
    ours = GpuUse(used={"a": 1.0, "b": 0.0}, by_job={"a": {"01": 1.0}})
    strange = GpuUse(used={"a": 1.0, "b": 2.0}, by_job={"a": {"01": 1.0}})
    assert others.of(ours, {"01"}) == {}
    assert others.of(strange, {"01"}) == {}, "Ray's numbers arrive one after another"
    assert others.of(strange, {"01"}) == {"b": 2.0}
    assert others.of(strange, ()) == {"b": 2.0}
    assert others.of(strange, ()) == {"a": 1.0, "b": 2.0}, "that job's sweep has left the broker"
