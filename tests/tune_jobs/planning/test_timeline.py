"""Trials under a simulated clock: the broker's decisions, a search's own pace, whole cards, windows that close."""

import dataclasses
from datetime import UTC, datetime

import pytest

from cluster.machines.hardware import Inventory, Node, parse_simulated
from cluster.scheduling.alternatives import Need, find_alternatives, find_cpu_alternatives
from cluster.scheduling.quotas import Member, Team, Window
from cluster.scheduling.request import Alternative, Request
from tune_jobs.config.sections import Method
from tune_jobs.config.space import Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.placing.submission import SubmissionLimits, submission_limits
from tune_jobs.planning.timeline import NO_LIMITS, Quota, TimedTrial, Timeline, run_timeline

GIB = 2**30
NIGHT = Window(name="night", start="22:00", end="07:00", quota_gpus={"minji": 2})
EVENING = datetime(2026, 11, 25, 21, 0, tzinfo=UTC)


def trial(number: int, alternatives: tuple[Alternative, ...], length: float = 10.0) -> TimedTrial:
    request = Request(name=f"s/{number}", sweep="s", alternatives=alternatives)
    return TimedTrial(name=str(number), request=request, length=length)


def timeline(trials: list[TimedTrial], inventory: Inventory, limits: SubmissionLimits = NO_LIMITS) -> Timeline:
    found = run_timeline(trials, inventory, limits)
    assert found is not None
    return found


def test_without_cards_trials_wait_for_cpus_and_for_host_memory() -> None:
    machine = Inventory(nodes=(Node(name="n", cpus=3, memory_bytes=5 * GIB),))
    for cpus, host_bytes in ((1.5, GIB), (1.0, 2 * GIB)):
        alternatives = find_cpu_alternatives(cpus=cpus, host_bytes=host_bytes, inventory=machine)
        trials = [trial(number, alternatives) for number in range(1, 5)]
        assert timeline(trials, machine).makespan == 20
    assert timeline(trials, machine, SubmissionLimits(running=1)).makespan == 40
    assert [run.nodes for run in timeline(trials, machine).runs] == [("n",)] * 4


def test_a_limit_of_trials_side_by_side_holds_with_cards_too() -> None:
    cards = parse_simulated("4x24GiB,2x80GiB")
    trials = [trial(number, find_alternatives([Need(upper_bytes=GIB)], cards)) for number in range(1, 5)]
    assert timeline(trials, cards).most_at_once == 4
    assert timeline(trials, cards, SubmissionLimits(running=3)).most_at_once == 3


def test_a_trial_takes_longer_on_a_slower_model() -> None:
    cards = parse_simulated("1xSLOW:24GiB@0.5,1xQUICK:24GiB@2")
    trials = [trial(number, find_alternatives([Need(upper_bytes=20 * GIB)], cards)) for number in (1, 2)]
    assert {run.gpu_model: run.end for run in timeline(trials, cards).runs} == {"QUICK": 5.0, "SLOW": 20.0}


def test_a_plan_lets_as_many_requests_wait_as_the_search_lets_the_sweep() -> None:
    cards = parse_simulated("1x24GiB")
    sizes = [14, 14, 14, 14, 14, 2]
    trials = [
        trial(number, find_alternatives([Need(upper_bytes=gib * GIB)], cards)) for number, gib in enumerate(sizes, 1)
    ]

    def small_starts(method: Method) -> float:
        limits = submission_limits(Sweep(name="a", source="", method=method, space=Space()), cards)
        return next(run.start for run in timeline(trials, cards, limits).runs if run.name == "6")

    assert small_starts("random") == 0, "fills what the large ones leave"
    assert small_starts("bayes") == 10, "is made when only three large ones wait"


def test_whole_cards_are_counted() -> None:
    cards = parse_simulated("4x24GiB")
    trials = [trial(number, find_alternatives([Need(upper_bytes=8 * GIB, cards=2)], cards)) for number in (1, 2, 3)]
    found = [(run.name, run.gpus, run.cards, run.start) for run in timeline(trials, cards).runs]
    assert found == [("1", 2.0, (0, 1), 0.0), ("2", 2.0, (2, 3), 0.0), ("3", 2.0, (0, 1), 10.0)]
    assert timeline(trials, cards).gpu_time == 60


def test_a_trial_pauses_when_a_window_closes_and_goes_on_in_the_next() -> None:
    cards = parse_simulated("2x24GiB")
    whole = find_alternatives([Need(upper_bytes=20 * GIB)], cards)
    team = Team(members={"minji": Member(quota_gpus=0)}, windows=(NIGHT,), time_zone="UTC", lend_idle=False)
    quota = Quota(team=team, member="minji", starts_at=EVENING)
    hour_s = 3600.0
    found = run_timeline([trial(1, whole, 10 * hour_s)], cards, quota=quota)
    assert found is not None
    assert [(run.start / hour_s, run.end / hour_s) for run in found.runs] == [(1, 10), (25, 26)]


@pytest.mark.parametrize("quota_gpus", [0.0, 0.5])
def test_what_a_quota_never_lets_run_has_no_timeline(quota_gpus: float) -> None:
    cards = parse_simulated("2x24GiB")
    whole = find_alternatives([Need(upper_bytes=20 * GIB)], cards)
    team = Team(members={"minji": Member(quota_gpus=quota_gpus)}, time_zone="UTC", lend_idle=False)
    quota = Quota(team=team, member="minji", starts_at=EVENING)
    assert run_timeline([trial(1, whole)], cards, quota=quota) is None
    lent = dataclasses.replace(quota, team=dataclasses.replace(team, lend_idle=True))
    found = run_timeline([trial(1, whole)], cards, quota=lent)
    assert found is not None
    assert found.makespan == 10
