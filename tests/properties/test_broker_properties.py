"""The broker, for any requests, events and nodes: it holds what it says, wastes nothing and starves nobody."""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.machines.hardware import Inventory, parse_simulated
from cluster.scheduling.alternatives import Need, find_alternatives
from cluster.scheduling.broker import Broker
from cluster.scheduling.events import (
    Decisions,
    Ended,
    Event,
    NodesChanged,
    NodeUse,
    NotPlaced,
    QuotasChanged,
    Started,
    Submitted,
    SweepJoined,
    SweepLeft,
    Tick,
    Withdrawn,
)
from cluster.scheduling.quotas import Member, Team
from cluster.scheduling.request import Allocation, Request

MIB = 2**20
CLUSTERS = ("1x24GiB", "3x24GiB", "2x24GiB,1x80GiB", "2xT4:16GiB@0.5,1xA100:80GiB@2", "5x24GiB,3x80GiB")
TEAM = Team(members={"a": Member(quota_gpus=1.5), "b": Member(quota_gpus=0.5), "c": Member(quota_gpus=0)})
needs = st.builds(
    Need,
    upper_bytes=st.integers(100, 90_000).map(lambda mib: mib * MIB),
    cards=st.sampled_from([1, 1, 1, 2]),
    spread=st.booleans(),
    cpus=st.sampled_from([0.0, 1.0, 5.0]),
    expected_s=st.sampled_from([5.0, 20.0, 300.0]),
    busy=st.sampled_from([0.1, 0.5, 1.0]),
)


class Watched:
    """A broker that is validated after every event, and what it has allocated by its own answers."""

    def __init__(self, inventory: Inventory, team: Team | None = None, *, known: bool = True) -> None:
        self.known = known  # whether the broker knows durations
        self.inventory, self.broker = inventory, Broker(inventory, team=team, refuse_after_s=0.0)
        self.held: dict[str, Allocation] = {}
        self.queued: dict[str, Request] = {}
        self.paused: set[str] = set()
        self.now_s = 0.0

    def send(self, *events: Event) -> Decisions:
        self.now_s += 1.0
        done = self.broker.handle(*events, elapsed_s=self.now_s, wall_s=self.now_s)
        self.broker.validate()
        for event in events:
            if isinstance(event, Ended | Withdrawn):
                self.held.pop(event.name, None)
                self.queued.pop(event.name, None)
        for one in done.allocations:
            assert one.name not in self.held
            self.held[one.name] = one
            self.queued.pop(one.name, None)
        for refusal in done.refusals:
            self.queued.pop(refusal.name)
        for pause in done.pauses:
            assert pause.name in self.held
        self.paused |= {pause.name for pause in done.pauses}
        return done

    def submit(self, name: str, need: Need) -> None:
        need = need if self.known else replace(need, expected_s=None)
        alternatives = find_alternatives((need,), self.inventory)
        if alternatives:
            request = Request(name=name, sweep=name.split("/")[0], alternatives=alternatives)
            self.queued[name] = request
            self.send(Submitted(request=request))


def drive(watched: Watched, draw: st.DataObject, steps: int) -> None:
    """Sends events of all kinds."""
    for sweep in "abc":
        limit = draw.draw(st.sampled_from([None, None, 2]))
        watched.send(SweepJoined(sweep=sweep, member=sweep, max_concurrent=limit))
    for number in range(steps):
        action = draw.draw(st.sampled_from(["submit"] * 6 + ["end"] * 4 + ["withdraw", "not_placed", "nodes", "use"]))
        if action == "submit":
            watched.submit(f"{draw.draw(st.sampled_from('abc'))}/{number}", draw.draw(needs))
        elif action in ("end", "not_placed") and watched.held:
            name = draw.draw(st.sampled_from(sorted(watched.held)))
            if action == "end":
                watched.send(Ended(name=name))
            else:
                allocation = watched.held.pop(name)
                request = Request(name=name, sweep=name[0], alternatives=(allocation.alternative,))
                watched.queued[name] = request
                watched.send(NotPlaced(name=name, reason="busy"))
        elif action == "withdraw" and (watched.held or watched.queued):
            watched.send(Withdrawn(name=draw.draw(st.sampled_from(sorted({**watched.held, **watched.queued})))))
        elif action == "nodes":
            nodes = draw.draw(st.lists(st.sampled_from(watched.inventory.nodes), unique_by=lambda node: node.name))
            watched.send(NodesChanged(inventory=Inventory(nodes=tuple(nodes), simulated=True)))
            watched.send(NodesChanged(inventory=watched.inventory))
        elif action == "use":
            gpus = draw.draw(
                st.dictionaries(st.sampled_from([n.name for n in watched.inventory.nodes]), st.floats(0, 3))
            )
            watched.send(NodeUse(gpus=gpus))


@settings(max_examples=30)
@given(st.data(), st.sampled_from(CLUSTERS), st.sampled_from([None, TEAM]), st.booleans())
def test_whatever_happens_what_is_held_fits_and_nothing_is_left_held_at_the_end(
    data: st.DataObject, cluster: str, team: Team | None, known: bool
) -> None:
    watched = Watched(parse_simulated(cluster, cards_per_node=2), team, known=known)
    drive(watched, data, 25)
    watched.send(NodeUse(gpus={}), *(Withdrawn(name=name) for name in sorted(watched.held)))
    watched.send(*(SweepLeft(sweep=sweep) for sweep in "abc"))
    status = watched.broker.status()
    assert (status["free_gpus"], status["held"], status["waiting"]) == (watched.inventory.cards, [], [])


@settings(max_examples=25)
@given(st.lists(st.tuples(needs, st.integers(1, 9)), min_size=1, max_size=30), st.sampled_from(CLUSTERS), st.booleans())
def test_every_request_starts_and_no_card_idles_while_one_that_fits_it_waits(
    sized: list[tuple[Need, int]], cluster: str, known: bool
) -> None:
    inventory = parse_simulated(cluster)
    if len({pool.speed for pool in inventory.pools}) > 1:
        known = False  # a slow card idles where a quick one ends a request sooner
    watched = Watched(inventory, known=known)
    left = {f"s/{number:02}": length for number, (_, length) in enumerate(sized)}
    for name, (need, _) in zip(left, sized, strict=True):
        watched.submit(name, replace(need, cpus=0.0, cards=1))  # an idle card may be kept for one that needs two
    all_names = {*watched.held, *watched.queued}
    while watched.held or watched.queued:
        assert watched.held, "somebody can always start on cards that are all free"
        used = {(node, card) for one in watched.held.values() for node in one.nodes for card in one.cards}
        idle = {n.cards[0].model for n in watched.inventory.nodes for c in n.cards if (n.name, c.index) not in used}
        for request in watched.queued.values():
            fitting = [one for one in request.alternatives if one.model in idle and one.cards == 1]
            assert not fitting, f"{fitting[0].model} idles while {request.name} waits"
        for name in sorted(watched.held):
            left[name] -= 1
        watched.send(*(Ended(name=name) for name in sorted(watched.held) if left[name] <= 0))
    assert all(left[name] <= 0 for name in all_names)


@settings(max_examples=15)
@given(st.lists(needs, min_size=1, max_size=12), st.sampled_from(CLUSTERS), st.randoms(use_true_random=False))
def test_permuting_nodes_and_cards_changes_nothing(some: list[Need], cluster: str, shuffler: random.Random) -> None:
    straight = parse_simulated(cluster, cards_per_node=2)
    nodes = [
        replace(node, cards=tuple(shuffler.sample(node.cards, len(node.cards))))
        for node in shuffler.sample(straight.nodes, len(straight.nodes))
    ]
    found = []
    for inventory in (straight, Inventory(nodes=tuple(nodes), simulated=True)):
        watched = Watched(inventory)
        decisions = []
        for number, need in enumerate(some):
            watched.submit(f"s/{number}", need)
            decisions.append(sorted(watched.held))
            if number % 3 == 2 and watched.held:
                decisions.append([str(watched.send(Ended(name=min(watched.held))))])
        found.append((decisions, watched.held))
    assert found[0] == found[1]


@settings(max_examples=10)
@given(needs, st.sampled_from(["1x24GiB", "3x24GiB", "2x24GiB,1x80GiB"]), st.booleans())
def test_a_large_request_starts_in_spite_of_an_endless_stream_of_small_ones(
    small: Need, cluster: str, known: bool
) -> None:
    watched = Watched(parse_simulated(cluster), known=known)
    small = replace(small, upper_bytes=min(small.upper_bytes, 10_000 * MIB), cards=1, cpus=0.0)
    for number in range(60):
        watched.submit(f"s/{number}", small)
    large = max((pool.usable_bytes for pool in watched.inventory.pools), default=0)
    watched.submit("s/large", replace(small, upper_bytes=large))
    for number in range(60, 60 + 60 * 8):
        if "s/large" in watched.held:
            return
        watched.submit(f"s/{number}", small)
        watched.send(Ended(name=min(watched.held, key=lambda name: int(name[2:]))))
    raise AssertionError("it starved")


@settings(max_examples=15)  # prices are found anew for each new kind
@given(st.lists(st.tuples(st.sampled_from("abc"), needs), max_size=12), st.booleans())
def test_quotas_never_let_a_member_borrow_what_another_waits_for_inside_its_quota(
    asked: list[tuple[str, Need]], lend_idle: bool
) -> None:
    team = replace(TEAM, lend_idle=lend_idle)
    watched = Watched(parse_simulated("3x24GiB"), team)
    watched.send(*(SweepJoined(sweep=sweep, member=sweep) for sweep in "abc"))
    for number, (sweep, need) in enumerate(asked):
        watched.submit(f"{sweep}/{number}", need)
        gpus = {m: sum(one.alternative.gpus for n, one in watched.held.items() if n[0] == m) for m in "abc"}
        for member, held in gpus.items():
            if not lend_idle:
                assert held <= team.members[member].quota_gpus + 1e-6
    watched.send(QuotasChanged(team=None), *(Started(name=name) for name in watched.held), Tick())
