"""What every broker client keeps to, in this process or over a link that loses and delays messages."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.machines.hardware import Inventory
from cluster.scheduling.broker import REFUSE_AFTER_S
from cluster.scheduling.broker_client import BrokerClient, LocalBroker
from cluster.scheduling.cluster_broker import ANSWER_S, RETRY_S, SILENT
from cluster.scheduling.quotas import Team
from cluster.scheduling.request import Alternative, Request
from cluster.scheduling.shares import UNITS, Share
from tests.cluster.scheduling.shells import TEAM, Link, Shells, names
from tuning_common.errors import WorkError

Make = Callable[[Shells], BrokerClient]
KINDS: dict[str, Make] = {"local": lambda shells: shells.local("s"), "cluster": lambda shells: shells.driver("s")}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@each_kind
def test_requests_start_in_order_and_each_is_decided_once(make: Make) -> None:
    shells = Shells()
    client = make(shells)
    for number in range(1, 7):
        client.submit(shells.request(f"s/{number}"))
    assert names(shells.wait(2, client)[0]) == ["s/1", "s/2", "s/3", "s/4"]
    for number in (1, 2, 3, 4):
        client.started(f"s/{number}")
    client.waiting_reason("s/5")
    assert names(shells.wait(2, client)[0]) == []
    assert client.waiting_reason("s/5").startswith("needs 1 card (simulated-24GiB) with 1 CPU, where s/1 holds 1")
    client.ended("s/3")
    (decided,) = shells.wait(2, client)
    assert names(decided) == ["s/5"]
    assert decided.allocations[0].nodes == (shells.inventory.nodes[0].name,)


@each_kind
def test_a_driver_that_waits_gets_at_once_what_follows_from_an_end(make: Make) -> None:
    """Tune keeps the process of an attempt only where the next one is known when it ends."""
    shells = Shells()
    client = make(shells)
    for number in range(1, 6):
        client.submit(shells.request(f"s/{number}"))
    shells.wait(1, client)
    client.waiting_reason("s/5")
    client.poll()  # a report may be under way, and one was sent a moment ago
    client.ended("s/2")
    assert names(client.poll(0.5)) == ["s/5"]


@each_kind
def test_what_is_withdrawn_gives_back_what_it_was_granted(make: Make) -> None:
    shells = Shells()
    client = make(shells)
    for number in range(1, 5):
        client.submit(shells.request(f"s/{number}"))
    assert len(names(shells.wait(1, client)[0])) == 4
    for number in range(1, 5):
        client.withdraw(f"s/{number}")  # none of them was started
    client.submit(shells.request("s/5"))
    assert names(shells.wait(2, client)[0]) == ["s/5"]


@each_kind
def test_what_ray_did_not_place_is_queued_again_with_its_age(make: Make) -> None:
    shells = Shells()
    client = make(shells)
    for number in range(1, 7):
        client.submit(shells.request(f"s/{number}"))
    shells.wait(1, client)
    client.not_placed("s/2", "Ray has no room")
    shells.wait(1, client)
    client.waiting_reason("s/2")
    shells.wait(2, client)
    assert "Ray has no room" in client.waiting_reason("s/2")
    (later,) = shells.wait(70, client)  # by then it may use the only node again, before what was submitted later
    assert names(later) == []
    client.ended("s/1")
    assert names(shells.wait(2, client)[0]) == ["s/2"]


@each_kind
def test_a_name_that_ended_can_be_submitted_again_at_once(make: Make) -> None:
    shells = Shells()
    client = make(shells)
    client.submit(shells.request("s/1"))
    shells.wait(1, client)
    client.ended("s/1")
    client.submit(shells.request("s/1", 11.0))
    (decided,) = shells.wait(2, client)
    assert [(one.name, one.alternative.gpus) for one in decided.allocations] == [("s/1", 0.5)]


@each_kind
def test_what_no_node_can_ever_hold_is_refused_once(make: Make) -> None:
    shells = Shells()
    client = make(shells)
    large = Alternative(model="H100", share=Share(units=UNITS), cpus=1.0)
    client.submit(Request(name="s/1", sweep="s", alternatives=(large,)))
    (decided,) = shells.wait(REFUSE_AFTER_S + 5, client)
    assert [(one.name, one.reason[:28]) for one in decided.refusals] == [("s/1", "needs 1 card (H100) with 1 C")]


def test_a_sweep_with_a_broker_of_its_own_keeps_its_members_quota_and_loses_nodes() -> None:
    shells = Shells()
    (node,) = shells.inventory.nodes
    left: list[Inventory | None] = [Inventory(nodes=(), simulated=True)]
    client = LocalBroker(
        shells.inventory,
        sweep="s",
        member="minji",
        team=Team(members=TEAM.members, lend_idle=False),
        watch=lambda: left.pop() if left and shells.elapsed_s > 105 else None,
        elapsed_s=lambda: shells.elapsed_s,
        now=lambda: shells.now_s,
    )
    for number in (1, 2):
        client.submit(shells.request(f"s/{number}"))
    (decided,) = shells.wait(4, client)
    assert names(decided) == ["s/1"], "minji has one GPU"
    (decided,) = shells.wait(4, client)
    assert [one.name for one in decided.pauses] == ["s/1"]
    assert decided.pauses[0].reason.startswith(f"{node.name} left the cluster")


def test_a_broker_that_does_not_answer_starts_nothing_and_ends_nothing() -> None:
    shells = Shells()
    client = shells.driver("s")
    client.submit(shells.request("s/1"))
    shells.wait(1, client)
    shells.answers = False
    client.submit(shells.request("s/2"))
    (decided,) = shells.wait(ANSWER_S + 2, client)
    assert (decided.allocations, decided.pauses, decided.refusals) == ((), (), ())
    assert client.waiting_reason("s/2") == SILENT
    shells.answers = True
    assert names(shells.wait(RETRY_S + 2, client)[0]) == ["s/2"]
    shells.answers = False
    with pytest.raises(WorkError, match="does not answer"):
        shells.driver("t")


def test_a_late_answer_is_not_taken_for_one_to_what_was_submitted_since() -> None:
    shells = Shells()
    client = shells.driver("s")
    link = client._link
    assert isinstance(link, Link)
    link.delay_s = 2.0
    client.submit(shells.request("s/1"))
    shells.wait(1, client)  # the broker has granted it, and its answer is under way
    client.withdraw("s/1")
    client.submit(shells.request("s/1", 11.0))
    (decided,) = shells.wait(8, client)
    assert [one.alternative.gpus for one in decided.allocations] == [0.5]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "withdraw", "end", "start", "not_placed", "lose the broker", "wait"]),
        st.integers(min_value=0, max_value=5),
        st.sampled_from(["", "", "", "request", "reply"]),
    ),
    max_size=40,
)


@given(ACTIONS, ACTIONS)
def test_lost_messages_and_lost_brokers_never_grant_too_much_and_leave_nothing_held(
    first: list[tuple[str, int, str]], second: list[tuple[str, int, str]]
) -> None:
    shells = Shells()
    clients = {"a": shells.driver("a"), "b": shells.driver("b")}
    queued: dict[str, set[str]] = {"a": set(), "b": set()}
    held: dict[str, dict[str, float]] = {"a": {}, "b": {}}
    fate = [""]
    for client in clients.values():
        assert isinstance(client._link, Link)
        client._link.loses = lambda: fate[0]
    steps = [("a", *action) for action in first] + [("b", *action) for action in second]
    for sweep, action, number, fate[0] in sorted(steps, key=lambda step: (step[2], step[0])):
        client, name = clients[sweep], f"{sweep}/{number}"
        if action == "submit" and name not in queued[sweep] and name not in held[sweep]:
            client.submit(shells.request(name, 11.0 if number % 2 else 23.0))
            queued[sweep].add(name)
        elif action == "withdraw" and (name in queued[sweep] or name in held[sweep]):
            client.withdraw(name)
            queued[sweep].discard(name)
            held[sweep].pop(name, None)
        elif action == "end" and held[sweep].pop(name, None) is not None:
            client.ended(name)
        elif action == "start" and name in held[sweep]:
            client.started(name)
        elif action == "not_placed" and held[sweep].pop(name, None) is not None:
            client.not_placed(name, "why not")
            queued[sweep].add(name)
        elif action == "lose the broker" and number == 0:
            shells.lose()
            shells.wait(0.3, *clients.values())
            shells.service.nodes_changed(shells.inventory)
        for mine, decided in zip(clients, shells.wait(0.5, *clients.values()), strict=True):
            for one in decided.allocations:
                queued[mine].remove(one.name)
                held[mine][one.name] = one.alternative.gpus
        assert sum(gpus for mine in held.values() for gpus in mine.values()) <= 4
    fate[0] = ""
    for mine, decided in zip(clients, shells.wait(100, *clients.values()), strict=True):
        for one in decided.allocations:
            held[mine][one.name] = one.alternative.gpus
    for sweep, client in clients.items():
        for name in held[sweep]:
            client.ended(name)
        for name in queued[sweep]:
            client.withdraw(name)
    shells.wait(3, *clients.values())
    assert shells.service.status()["free_gpus"] == 4
    assert (shells.service.status()["held"], shells.service.status()["waiting"]) == ([], [])
