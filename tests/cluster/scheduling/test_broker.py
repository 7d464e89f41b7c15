"""The broker: order, backfill, reservations, withdrawal, lost nodes, what others hold, quotas that give room back."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from cluster.machines.hardware import Inventory, Node, parse_simulated
from cluster.scheduling.alternatives import Need, find_alternatives
from cluster.scheduling.broker import AVOID_S, REFUSE_AFTER_S, Broker
from cluster.scheduling.events import (
    Decisions,
    Ended,
    Event,
    NodesChanged,
    NodeUse,
    NotPlaced,
    QuotasChanged,
    Restored,
    Started,
    Submitted,
    SweepJoined,
    SweepLeft,
    Tick,
    Withdrawn,
)
from cluster.scheduling.quotas import Member, Team, Window
from cluster.scheduling.request import Alternative, Request

GIB = 2**30
SEOUL = ZoneInfo("Asia/Seoul")
NOON_S = datetime(2026, 11, 25, 12, 0, tzinfo=SEOUL).timestamp()
UNEQUAL = parse_simulated("1x24GiB,1x40GiB,1x80GiB")


class Driven:
    """A broker, its clock, and requests by what they need."""

    def __init__(self, inventory: Inventory, **options: object) -> None:
        self.inventory = inventory
        self.broker = Broker(inventory, **options)  # type: ignore[arg-type]
        self.elapsed_s, self.wall_s = 0.0, NOON_S

    def send(self, *events: Event) -> Decisions:
        """Lets the broker handle events and validates it."""
        done = self.broker.handle(*events, elapsed_s=self.elapsed_s, wall_s=self.wall_s)
        self.broker.validate()
        return done

    def request(self, name: str, gib: float, *, cards: int = 1, cpus: float = 1.0, first: bool = False) -> Request:
        """A request of the sweep before the slash."""
        need = Need(upper_bytes=int(gib * GIB), cards=cards, cpus=cpus)
        found = find_alternatives((need,), self.inventory)
        return Request(name=name, sweep=name.split("/")[0], alternatives=found, first=first)

    def submit(self, *sized: tuple[str, float]) -> list[tuple[str, str, float]]:
        """Submits requests together; returns who starts."""
        return started(self.send(*(Submitted(request=self.request(name, gib)) for name, gib in sized)))

    def end(self, *names: str) -> list[tuple[str, str, float]]:
        """Ends requests; returns who starts."""
        return started(self.send(*(Ended(name=name) for name in names)))

    def wait(self, seconds: float) -> Decisions:
        """Lets time pass."""
        self.elapsed_s += seconds
        self.wall_s += seconds
        return self.send(Tick())


def started(done: Decisions) -> list[tuple[str, str, float]]:
    """Who starts on which model with which share."""
    return [
        (one.name, one.alternative.model.removeprefix("simulated-"), one.alternative.gpus) for one in done.allocations
    ]


def names(sized: Iterable[tuple[str, str, float]]) -> list[str]:
    return [name for name, _, _ in sized]


def test_trials_spread_over_unequal_cards_by_what_each_costs_there() -> None:
    found = Driven(UNEQUAL).submit(*((f"s/{number}", 8) for number in range(20)))
    assert [model for _, model, _ in found[:3]] == ["80GiB", "40GiB", "80GiB"]
    assert names(found) == [f"s/{number}" for number in range(14)], "the others wait"
    counts = {model: sum(1 for _, other, _ in found if other == model) for model in ("24GiB", "40GiB", "80GiB")}
    assert counts == {"24GiB": 2, "40GiB": 4, "80GiB": 8}


def test_a_trial_whose_model_is_full_takes_the_next_that_fits_instead_of_waiting() -> None:
    driven = Driven(UNEQUAL)
    found = driven.submit(("s/whole", 70), ("s/b", 30), ("s/c", 30), ("s/d", 20))
    assert found == [("s/whole", "80GiB", 0.9), ("s/b", "40GiB", 0.8), ("s/d", "24GiB", 0.875)]
    assert driven.end("s/whole") == [("s/c", "80GiB", 0.4)]


def test_one_that_goes_first_overtakes_the_others_of_its_sweep() -> None:
    driven = Driven(parse_simulated("1x24GiB"))
    driven.submit(("s/1", 20), ("s/2", 20))
    driven.send(Submitted(request=driven.request("s/3", 20, first=True)))
    assert names(driven.end("s/1")) == ["s/3"]


def test_sweeps_take_turns_by_what_they_hold() -> None:
    driven = Driven(parse_simulated("4x24GiB"))
    assert len(driven.submit(*((f"a/{number}", 20) for number in range(8)))) == 4
    assert driven.submit(*((f"b/{number}", 20) for number in range(8))) == []
    assert names(driven.end("a/0", "a/1", "a/2")) == ["b/0", "a/4", "b/1"]


def test_a_sweep_runs_no_more_than_its_limit() -> None:
    driven = Driven(parse_simulated("4x24GiB"))
    driven.send(SweepJoined(sweep="s", max_concurrent=2))
    assert names(driven.submit(("s/1", 5), ("s/2", 5), ("s/3", 5))) == ["s/1", "s/2"]
    assert driven.broker.waiting_reason("s/3") == "its sweep runs 2 trials, as many as may run at a time"
    assert names(driven.end("s/2")) == ["s/3"]


def test_one_that_was_overtaken_too_often_gets_a_card_to_itself_and_others_go_on_elsewhere() -> None:
    driven = Driven(parse_simulated("1x24GiB,1x80GiB"), max_overtaken=2)
    assert driven.submit(("s/first", 60), ("s/large", 70)) == [("s/first", "80GiB", 0.8)]
    found = driven.submit(*((f"s/s{number}", 9) for number in range(8)))
    assert found == [("s/s0", "24GiB", 0.4), ("s/s1", "24GiB", 0.4), ("s/s2", "80GiB", 0.125)]
    assert driven.end("s/s2") == [("s/s3", "80GiB", 0.125)], "which is twice now: nobody else may start there"
    assert driven.end("s/s3") == []
    assert driven.end("s/s0") == [("s/s4", "24GiB", 0.4)]
    assert driven.end("s/first") == [("s/large", "80GiB", 0.9)]
    assert [model for _, model, _ in driven.end("s/large")] == ["80GiB"] * 3, "for everybody again"


def test_a_withdrawn_request_gives_back_what_it_was_granted_and_a_reservation_of_it() -> None:
    driven = Driven(parse_simulated("1x24GiB"), max_overtaken=1)
    driven.submit(("s/a", 11), ("s/large", 20), ("s/b", 11))
    assert driven.submit(("s/c", 11)) == []
    assert driven.end("s/b") == [], "the card is kept for the large one"
    assert names(started(driven.send(Withdrawn(name="s/large")))) == ["s/c"]
    assert names(started(driven.send(Withdrawn(name="s/a"), Withdrawn(name="s/c")))) == []
    status = driven.broker.status()
    assert (status["free_gpus"], status["held"], status["waiting"]) == (1.0, [], [])


def test_a_sweep_that_left_holds_and_asks_for_nothing() -> None:
    driven = Driven(parse_simulated("1x24GiB"))
    driven.submit(("a/1", 20), ("a/2", 20), ("b/1", 20))
    assert names(started(driven.send(SweepLeft(sweep="a")))) == ["b/1"]
    assert driven.end("b/1") == []


def test_what_ray_did_not_place_returns_with_its_age_and_is_kept_off_that_node_for_a_while() -> None:
    driven = Driven(parse_simulated("2x24GiB", cards_per_node=1))
    (first,) = driven.send(Submitted(request=driven.request("s/1", 20))).allocations
    driven.submit(("s/2", 20), ("s/3", 20))
    assert driven.send(NotPlaced(name="s/1", reason="no CPU for 10 s")).allocations[0].name == "s/3"
    assert driven.broker.waiting_reason("s/1").endswith(f"; Ray did not place it on {first.nodes[0]}: no CPU for 10 s")
    driven.end("s/3")
    assert driven.send(Tick()).allocations == ()
    (again,) = driven.wait(AVOID_S).allocations
    assert (again.name, again.nodes) == ("s/1", first.nodes)


def test_what_ray_did_not_place_and_runs_on_another_node_is_not_kept_off_any_more() -> None:
    driven = Driven(parse_simulated("2x24GiB", cards_per_node=1))
    (first,) = driven.send(Submitted(request=driven.request("s/1", 20))).allocations
    (again,) = driven.send(NotPlaced(name="s/1", reason="no CPU for 10 s")).allocations
    assert again.nodes != first.nodes
    assert driven.wait(AVOID_S).allocations == ()
    driven.end("s/1")


def test_a_node_that_left_gives_a_pause_and_one_that_joined_starts_trials_at_once() -> None:
    driven = Driven(parse_simulated("2x24GiB", cards_per_node=1))
    driven.submit(("s/1", 20), ("s/2", 20), ("s/3", 20))
    one, two = driven.inventory.nodes
    done = driven.send(NodesChanged(inventory=Inventory(nodes=(two,))))
    assert [(pause.name, pause.reason) for pause in done.pauses] == [
        ("s/1", f"{one.name} left the cluster, or has no room for it any more")
    ]
    assert driven.send(Tick()).pauses == (), "a pause is decided once"
    driven.end("s/1")
    (back,) = driven.send(NodesChanged(inventory=Inventory(nodes=(two, replace(one, name="new"))))).allocations
    assert (back.name, back.nodes) == ("s/3", ("new",))


def test_a_request_that_no_node_can_hold_is_refused_after_a_while() -> None:
    driven = Driven(UNEQUAL)
    large, small = driven.request("s/1", 70), driven.request("s/2", 70)
    driven.send(Submitted(request=large))
    driven.send(Submitted(request=small), NodesChanged(inventory=parse_simulated("1x24GiB")))
    driven.elapsed_s += REFUSE_AFTER_S - 1
    assert driven.send(Tick()).refusals == ()
    (refusal,) = driven.wait(1).refusals
    assert (refusal.name, refusal.reason) == (
        "s/2",
        "needs 0.9 of a card (simulated-80GiB) with 1 CPU, found 1 x simulated-24GiB (simulated)",
    )


def test_what_others_hold_is_left_to_them() -> None:
    driven = Driven(parse_simulated("2x24GiB"))
    (node,) = driven.inventory.nodes
    driven.send(NodeUse(gpus={node.name: 1.5}))
    assert driven.submit(("s/1", 20)) == []
    assert names(driven.submit(("s/2", 11))) == ["s/2"]
    assert names(started(driven.send(NodeUse(gpus={})))) == ["s/1"]


def test_cpus_and_host_memory_of_a_node_limit_its_trials() -> None:
    driven = Driven(parse_simulated("1x24GiB"))  # 8 CPUs
    asked = [Submitted(request=driven.request(f"s/{number}", 2, cpus=3.0)) for number in range(3)]
    assert names(started(driven.send(*asked))) == ["s/0", "s/1"]
    node = Node(name="n", cpus=8, memory_bytes=5 * GIB)
    on_cpus = Alternative(model="", share=None, cpus=1, host_bytes=2 * GIB)
    hosts = Driven(Inventory(nodes=(node, replace(node, name="small", cpus=1))))
    requests = [Request(name=f"s/{number}", sweep="s", alternatives=(on_cpus,)) for number in range(4)]
    done = hosts.send(*(Submitted(request=request) for request in requests))
    assert [one.nodes for one in done.allocations] == [("n",), ("n",), ("small",)]
    shown = "needs 1 CPU and 2.00 GiB of host memory of one machine, beside 3 running trials"
    assert hosts.broker.waiting_reason("s/3") == shown


def test_several_cards_lie_on_one_node_unless_they_may_be_spread() -> None:
    driven = Driven(parse_simulated("4x24GiB", cards_per_node=2))
    driven.submit(("s/a", 2))
    (two,) = driven.send(Submitted(request=driven.request("s/two", 20, cards=2, cpus=4))).allocations
    assert (len(set(two.nodes)), two.cards) == (1, (0, 1))
    wide = driven.request("s/wide", 20, cards=2, cpus=4)
    assert driven.send(Submitted(request=wide)).allocations == ()
    spread = replace(wide, name="s/spread", alternatives=(replace(wide.alternatives[0], spread=True),))
    driven.end("s/two")
    (again,) = driven.send(Submitted(request=replace(spread, name="s/last"))).allocations or (None,)
    assert again is None, "the two cards went to the one that waited"


def test_spread_cards_take_what_is_free_of_each_node() -> None:
    driven = Driven(parse_simulated("4x24GiB", cards_per_node=2))
    driven.send(NodeUse(gpus={node.name: 1.0 for node in driven.inventory.nodes}))
    wide = driven.request("s/wide", 20, cards=2, cpus=4)
    spread = replace(wide, alternatives=(replace(wide.alternatives[0], spread=True),))
    (one,) = driven.send(Submitted(request=spread)).allocations
    assert len(set(one.nodes)) == 2


def test_a_broker_that_replaces_a_lost_one_first_lets_everybody_report() -> None:
    lost = Driven(parse_simulated("1x24GiB"))
    request = lost.request("a/1", 11)
    (allocation,) = lost.send(Submitted(request=request)).allocations
    driven = Driven(parse_simulated("1x24GiB"), allocate_from_s=30.0)
    assert driven.submit(("b/1", 20)) == []
    reason = "the broker was started again; it allocates in 30 s, when all have reported"
    assert driven.broker.waiting_reason("b/1") == reason
    driven.send(Restored(request=request, allocation=allocation))
    assert driven.wait(30).allocations == (), "what was restored is held"
    assert names(driven.end("a/1")) == ["b/1"]


TEAM = Team(
    members={"minji": Member(quota_gpus=1), "jun": Member(quota_gpus=3)},
    windows=(Window(name="night", start="22:00", end="07:00", quota_gpus={"minji": 4, "jun": 0}),),
)


def shared(team: Team = TEAM, cluster: str = "4x24GiB") -> Driven:
    """A cluster with quotas, and a sweep of each member."""
    driven = Driven(parse_simulated(cluster), team=team)
    driven.send(SweepJoined(sweep="minji", member="minji"), SweepJoined(sweep="jun", member="jun"))
    return driven


def test_idle_cards_are_lent_and_as_many_come_back_as_are_missing_the_youngest_first() -> None:
    driven = shared()
    for number in range(4):
        assert len(driven.submit((f"minji/{number}", 20))) == 1
    kinds = {one["trial"]: one["kind"] for one in rows(driven, "held")}
    assert kinds == {"minji/0": "own", **{f"minji/{number}": "borrowed" for number in (1, 2, 3)}}
    done = driven.send(*(Submitted(request=driven.request(f"jun/{number}", 20)) for number in range(2)))
    reason = "minji holds 3.5 of 1 GPUs and jun asked for what is theirs (quotas change at Wed 22:00)"
    assert [(pause.name, pause.reason) for pause in done.pauses] == [("minji/3", reason), ("minji/2", reason)]
    assert driven.send(Tick()).pauses == ()
    back = driven.send(Ended(name="minji/3"), Submitted(request=driven.request("minji/3", 20)))
    assert names(started(back)) == ["jun/0"]
    assert driven.broker.waiting_reason("minji/3").startswith("minji holds 2.625 of 1 GPUs; free GPUs are owed")


def rows(driven: Driven, key: str) -> list[dict[str, object]]:
    found = driven.broker.status()[key]
    assert isinstance(found, list)
    return found


def test_borrowed_room_comes_back_in_one_piece() -> None:
    team = Team(members={"minji": Member(quota_gpus=0), "jun": Member(quota_gpus=2)})
    driven = shared(team, "2x24GiB")
    driven.submit(("minji/0", 11), ("minji/1", 5), ("minji/2", 5), ("minji/3", 11), ("minji/4", 5), ("minji/5", 5))
    done = driven.send(Submitted(request=driven.request("jun/0", 20)))
    nodes = {one["trial"]: one for one in rows(driven, "held")}
    assert len(done.pauses) < len(nodes), "one card is enough"
    assert names(driven.end(*(pause.name for pause in done.pauses))) == ["jun/0"]


def test_when_a_window_closes_what_was_owned_is_borrowed() -> None:
    driven = shared()
    driven.wall_s = datetime(2026, 11, 26, 6, 59, tzinfo=SEOUL).timestamp()
    driven.submit(*((f"minji/{number}", 20) for number in range(4)))
    assert driven.submit(("jun/0", 20), ("jun/1", 20)) == []
    assert driven.wait(1).pauses == ()
    assert [pause.name for pause in driven.wait(60).pauses] == ["minji/3", "minji/2"]


def test_without_lending_everything_beyond_the_quota_goes_when_the_window_closes() -> None:
    driven = shared(Team(members=TEAM.members, windows=TEAM.windows, lend_idle=False))
    driven.wall_s = datetime(2026, 11, 26, 6, 59, 30, tzinfo=SEOUL).timestamp()
    driven.submit(*((f"minji/{number}", 20) for number in range(5)))
    assert [pause.name for pause in driven.wait(60).pauses] == ["minji/3", "minji/2", "minji/1"]
    driven.end("minji/3")
    assert driven.broker.waiting_reason("minji/4") == (
        "minji holds 2.625 of 1 GPUs; the team does not lend idle GPUs (quotas change at Thu 22:00)"
    )


def test_a_quota_holds_over_all_sweeps_of_a_member_and_can_be_changed() -> None:
    driven = shared(Team(members=TEAM.members, lend_idle=False))
    driven.send(SweepJoined(sweep="other", member="minji"))
    assert names(driven.submit(("minji/0", 11), ("other/0", 11), ("other/1", 11))) == ["minji/0", "other/0"]
    assert names(started(driven.send(QuotasChanged(team=None), Started(name="minji/0")))) == ["other/1"]


@pytest.mark.parametrize("event", [Ended(name="x"), Withdrawn(name="x"), Started(name="x"), SweepLeft(sweep="x")])
def test_events_about_unknown_names_change_nothing(event: Event) -> None:
    driven = Driven(UNEQUAL)
    driven.submit(("s/1", 8))
    before = driven.broker.status()
    assert driven.send(event) == Decisions()
    assert driven.broker.status() == before
