"""The broker for many drivers: quotas over all sweeps, borrowing, windows, dead drivers, lost brokers, moved clocks."""

from dataclasses import replace
from datetime import datetime

import pytest

from cluster.machines.hardware import parse_simulated
from cluster.scheduling.broker_service import LEASE_S
from cluster.scheduling.cluster_broker import ClusterBroker
from cluster.scheduling.quotas import Member, Team
from cluster.scheduling.request import Alternative, CardUse, Request
from tests.cluster.scheduling.shells import SEOUL, TEAM, Shells, names, together
from tuning_common.errors import RequestError


def fill(shells: Shells, client: ClusterBroker, sweep: str) -> None:
    """Lets a sweep hold all four cards, one after another."""
    for number in range(4):
        client.submit(shells.request(f"{sweep}/{number}"))
        assert names(shells.wait(2, client)[0]) == [f"{sweep}/{number}"]
        client.started(f"{sweep}/{number}")


def held(shells: Shells) -> list[tuple[object, object, object]]:
    found = shells.service.status()["held"]
    assert isinstance(found, list)
    return [(one["member"], one["trial"], one["kind"]) for one in found]


def test_a_quota_holds_over_all_sweeps_of_a_member() -> None:
    shells = Shells()
    strict = Team(members=TEAM.members, lend_idle=False)
    first, second = shells.driver("a", member="minji", team=strict), shells.driver("b", member="minji", team=strict)
    first.submit(shells.request("a/1", 11.0))
    for number in (1, 2):
        second.submit(shells.request(f"b/{number}", 11.0))
    decided = shells.wait(2, first, second)
    assert [names(one) for one in decided] == [["a/1"], ["b/1"]]
    second.waiting_reason("b/2")
    shells.wait(2, first, second)
    assert second.waiting_reason("b/2") == "minji holds 1 of 1 GPUs; the team does not lend idle GPUs"


def test_idle_cards_are_borrowed_and_come_back_as_many_as_are_missing() -> None:
    shells = Shells()
    minji, jun = shells.driver("m", member="minji"), shells.driver("j", member="jun")
    fill(shells, minji, "m")
    assert [kind for *_, kind in held(shells)] == ["own", "borrowed", "borrowed", "borrowed"]
    for number in (0, 1):
        jun.submit(shells.request(f"j/{number}"))
    decided, _ = shells.wait(3, minji, jun)
    assert {one.name for one in decided.pauses} == {"m/2", "m/3"}, "the youngest lose least"
    assert decided.pauses[0].reason == (
        "minji holds 4 of 1 GPUs and jun asked for what is theirs (quotas change at Wed 22:00)"
    )
    minji.ended("m/3")
    minji.submit(shells.request("m/3"))
    decided, decided_for_jun = shells.wait(3, minji, jun)
    assert (names(decided), names(decided_for_jun)) == ([], ["j/0"])
    assert decided.pauses == (), "each is decided once"


def test_when_a_window_closes_what_was_owned_is_borrowed() -> None:
    shells = Shells()
    shells.now_s = datetime(2026, 11, 26, 6, 58, tzinfo=SEOUL).timestamp()
    minji, jun = shells.driver("m", member="minji"), shells.driver("j", member="jun")
    fill(shells, minji, "m")
    for number in (0, 1):
        jun.submit(shells.request(f"j/{number}"))
    decided, _ = shells.wait(60, minji, jun)
    assert decided.pauses == ()
    decided, _ = shells.wait(65, minji, jun)
    assert {one.name for one in decided.pauses} == {"m/2", "m/3"}


def test_a_dead_driver_is_forgotten_and_a_set_clock_ends_no_lease() -> None:
    shells = Shells()
    minji, jun = shells.driver("m", member="minji"), shells.driver("j", member="jun")
    for number in range(3):
        jun.submit(shells.request(f"j/{number}"))
    minji.submit(shells.request("m/0"))
    shells.wait(2, minji, jun)
    shells.now_s += 3600
    minji.submit(shells.request("m/1"))
    assert names(shells.wait(LEASE_S - 5, minji)[0]) == [], "jun's lease is not over"
    assert names(shells.wait(10, minji)[0]) == ["m/1"]  # jun's driver reports nothing any more
    assert held(shells) == [("minji", "m/0", "own"), ("minji", "m/1", "borrowed")]


def test_a_driver_whose_job_has_ended_is_forgotten_at_once() -> None:
    shells = Shells()
    client = shells.driver("s")
    client.submit(shells.request("s/1"))
    shells.wait(1, client)
    shells.service.jobs_ended({"02000000"})
    assert held(shells) == [("", "s/1", "own")]
    shells.service.jobs_ended({"01000000"})
    assert held(shells) == []


def test_a_driver_that_was_silent_for_too_long_joins_again_with_all_that_it_holds() -> None:
    shells = Shells()
    client = shells.driver("s")
    client.submit(shells.request("s/1"))
    shells.wait(1, client)
    client.started("s/1")
    shells.wait(LEASE_S + 2)
    assert held(shells) == []
    shells.wait(3, client)
    assert held(shells) == [("", "s/1", "own")]


def test_a_lost_broker_allocates_nothing_before_every_driver_has_reported() -> None:
    shells = Shells()
    minji, jun = shells.driver("m", member="minji"), shells.driver("j", member="jun")
    for number in range(3):
        jun.submit(shells.request(f"j/{number}"))
    shells.wait(2, minji, jun)
    shells.lose()
    minji.submit(shells.request("m/0"))
    decided, decided_for_jun = shells.wait(3, minji, jun)
    assert (names(decided), decided_for_jun.pauses) == ([], ()), "it does not know the nodes yet"
    shells.service.nodes_changed(shells.inventory)
    assert names(shells.wait(7, minji)[0]) == []
    minji.waiting_reason("m/0")
    shells.wait(2, minji, jun)
    assert minji.waiting_reason("m/0").startswith("the broker was started again; it allocates in ")
    minji.submit(shells.request("m/1"))
    decided, decided_for_jun = shells.wait(LEASE_S, minji, jun)
    assert (names(decided), names(decided_for_jun)) == (["m/0"], []), "what jun holds was reported again"
    assert len(held(shells)) == 4


def test_a_lost_broker_whose_nodes_answer_late_still_hears_every_driver_first() -> None:
    shells = Shells()
    first, second = shells.driver("a"), shells.driver("b")
    fill(shells, second, "b")
    shells.lose()
    first.submit(shells.request("a/1"))
    shells.wait(LEASE_S + 5, first, second)
    shells.service.nodes_changed(shells.inventory)
    decided, decided_for_second = shells.wait(20, first, second)
    assert (names(decided), decided_for_second.pauses) == ([], ())
    assert len(held(shells)) == 4
    second.ended("b/0")
    assert names(shells.wait(2, first, second)[0]) == ["a/1"]


def test_two_sweeps_of_one_name_do_not_share_their_requests() -> None:
    shells = Shells()
    first, second = shells.driver("s", key="one"), shells.driver("s", key="two")
    for client in (first, second):
        client.submit(shells.request("s/1"))
    decided = shells.wait(2, first, second)
    assert [names(one) for one in decided] == [["s/1"], ["s/1"]]
    assert {trial for _, trial, _ in held(shells)} == {"s/1", "s (2)/1"}
    first.close()
    assert {trial for _, trial, _ in held(shells)} == {"s (2)/1"}


def test_another_team_file_is_refused_while_sweeps_run_and_may_be_put_in_force() -> None:
    shells = Shells()
    shells.driver("m", member="minji")
    more = Team(members={"jun": Member(quota_gpus=4), "minji": Member(quota_gpus=0)})
    with pytest.raises(RequestError, match=r"differs from the quotas in force .* m \(minji\)"):
        shells.driver("j", member="jun", team=more)
    with pytest.raises(RequestError, match="'minji' is not in team"):
        shells.service.apply(Team(members={"jun": Member(quota_gpus=4)}), "new.yaml")
    shells.service.apply(more, "new.yaml")
    shells.driver("j", member="jun", team=more)
    assert shells.service.status()["source"] == "new.yaml"


def test_a_quota_counts_every_card_of_a_trial() -> None:
    shells = Shells()
    team = Team(members={"minji": Member(quota_gpus=3)}, lend_idle=False)
    client = shells.driver("m", member="minji", team=team)
    for number in (1, 2):
        client.submit(shells.request(f"m/{number}", 23.0, cards=2))
    assert names(shells.wait(2, client)[0]) == ["m/1"]
    client.waiting_reason("m/2")
    shells.wait(2, client)
    assert client.waiting_reason("m/2") == "minji holds 2 of 3 GPUs; the team does not lend idle GPUs"


def test_a_model_that_is_not_the_members_is_refused() -> None:
    shells = Shells()
    other = Team(members={"minji": Member(quota_gpus=1, models=("t5",))})
    with pytest.raises(RequestError, match=r"kobart: not among the models of minji; team\.yaml gives minji t5"):
        shells.driver("m", member="minji", team=other)


def test_on_a_cluster_with_quotas_a_sweep_without_a_member_is_refused_and_the_other_way_round() -> None:
    shells = Shells()
    nobody = shells.driver("s")
    with pytest.raises(RequestError, match=r"team\.yaml cannot be put in force while s runs, which names no member"):
        shells.driver("m", member="minji")
    nobody.close()
    shells.driver("m", member="minji")
    with pytest.raises(RequestError, match=r"this cluster has quotas .* write `team: \{member: NAME\}` into it"):
        shells.driver("s")


def test_what_others_hold_is_not_allocated_and_is_shown() -> None:
    shells = Shells()
    (node,) = shells.inventory.nodes
    shells.service.node_use({node.name: 3.0})
    client = shells.driver("s")
    for number in (1, 2):
        client.submit(shells.request(f"s/{number}"))
    assert names(shells.wait(2, client)[0]) == ["s/1"]
    assert shells.service.status()["others"] == [{"node": node.address, "gpus": 3.0}]
    shells.service.node_use({})
    assert names(shells.wait(2, client)[0]) == ["s/2"]


def test_each_sweep_is_told_what_runs_on_its_cards_also_of_other_sweeps() -> None:
    shells = Shells(parse_simulated("1x24GiB"))
    first, second = shells.driver("a"), shells.driver("b")
    for client, name in ((first, "a/1"), (first, "a/2"), (second, "b/1")):
        client.submit(replace(shells.request(name, 5.0), alternatives=busy(shells.request(name, 5.0))))
        assert together(shells.wait(2, first, second)).allocations
        client.started(name)
    shells.wait(3, first, second)
    use = CardUse(tenants=3, slowdown=1.0)
    assert first.card_uses() == {"a/1": use, "a/2": use}
    assert second.card_uses() == {"b/1": use}
    first.ended("a/2")
    shells.wait(3, first, second)
    assert second.card_uses() == {"b/1": CardUse(tenants=2, slowdown=1.0)}


def busy(request: Request) -> tuple[Alternative, ...]:
    return tuple(replace(one, expected_s=60.0, busy=0.3) for one in request.alternatives)
