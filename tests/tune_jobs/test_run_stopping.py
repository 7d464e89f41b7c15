"""Early termination: rungs where they belong, and the same decisions as Ray's own schedulers on the same curves."""

import itertools
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_jobs.search.stopping import BracketRule, MedianRule, NeverStop, RungRule, asha_rungs, hyperband_rungs


def test_asha_rungs_lie_below_the_longest_trial() -> None:
    assert asha_rungs(min_iter=1, eta=2, max_iter=8) == (1, 2, 4)
    assert asha_rungs(min_iter=2, eta=3, max_iter=2) == ()


def test_wandb_brackets_are_counted_down_from_max_iter_or_up_from_min_iter() -> None:
    assert hyperband_rungs(eta=3, max_iter=81, s=4, last=81) == (1, 3, 9, 27)
    assert hyperband_rungs(eta=2, max_iter=5, s=2, last=5) == (1, 2)
    assert hyperband_rungs(eta=3, min_iter=3, last=8) == (3,)


def test_the_first_trial_at_a_rung_goes_on_and_a_worse_one_is_stopped_with_its_reason() -> None:
    rule = RungRule(rungs=(1, 3), eta=2, goal="maximize")
    assert not rule.report("a", 1, 10.0).stop
    verdict = rule.report("b", 1, 5.0)
    assert (verdict.stop, verdict.rung) == (True, 1)
    assert verdict.reason == "5 against 10 at rung 1 (2 trials)"
    assert rule.report("a", 2, 1.0) == rule.report("a", 2, 1.0)
    assert not rule.report("a", 2, 1.0).stop


def test_low_is_good_when_the_goal_says_so() -> None:
    rule = RungRule(rungs=(1,), eta=2, goal="minimize")
    assert not rule.report("a", 1, 10.0).stop
    assert not rule.report("b", 1, 5.0).stop
    assert rule.report("c", 1, 9.0).reason == "9 against 7.5 at rung 1 (3 trials)"


def test_a_value_that_is_no_number_never_passes_a_rung_and_never_moves_its_cutoff() -> None:
    rule = RungRule(rungs=(1,), eta=2, goal="maximize")
    rule.report("a", 1, 4.0)
    assert rule.report("b", 1, math.nan).stop
    assert not rule.report("c", 1, 4.0).stop


def test_brackets_stop_as_in_the_worked_example_of_wandb_s_own_package() -> None:
    curves = {"a": [10, 9], "b": [10, 10], "c": [10, 8, 8], "d": [10, 7, 7], "e": [10, 6, 6]}
    rule = BracketRule(rungs=hyperband_rungs(eta=2, max_iter=5, s=2, last=5), eta=2, goal="minimize")
    assert rule.rungs == (1, 2)
    for trial, values in curves.items():
        for place, value in enumerate(values[:-1] if trial in "bcd" else values):
            rule.report(trial, place + 1, value)
    last = {trial: rule.report(trial, len(curves[trial]), curves[trial][-1]).stop for trial in "dcb"}
    assert last == {"d": False, "c": False, "b": True}


def test_loose_brackets_look_at_the_best_value_and_strict_ones_at_the_bracket_s() -> None:
    def stops(strict: bool) -> list[bool]:
        rule = BracketRule(rungs=(2,), eta=3, goal="maximize", strict=strict)
        reports = [
            ("a", 1, 1),
            ("a", 2, 5),
            ("b", 1, 4),
            ("b", 2, 6),
            ("c", 1, 7),
            ("c", 2, 3),
            ("d", 2, 8),
            ("a", 3, 4),
        ]
        return [rule.report(trial, iteration, value).stop for trial, iteration, value in reports]

    # c was best at its first evaluation; a passed its bracket and fell behind when d came: second of four is 6
    assert stops(strict=False) == [False, False, False, False, False, False, False, True]
    assert stops(strict=True) == [False, False, False, False, False, True, False, True]


def brackets_by_the_book(curves: dict[str, list[float]], trial: str, rungs: list[int], eta: int, strict: bool) -> bool:
    """W&B's decision on one trial, computed from whole histories; high is good."""
    reached = [rung for rung in rungs if rung <= len(curves[trial])]
    if not reached:
        return False
    at_rung = sorted((curve[reached[-1] - 1] for curve in curves.values() if len(curve) >= reached[-1]), reverse=True)
    own = curves[trial][reached[-1] - 1] if strict else max(curves[trial])
    return own < at_rung[int(1 / eta * len(at_rung))]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=60), st.sampled_from([2, 3, 4]), st.booleans()
)
def test_brackets_decide_as_whole_histories_do(reports: list[tuple[int, int]], eta: int, strict: bool) -> None:
    rule = BracketRule(rungs=(1, 3, 9), eta=eta, goal="maximize", strict=strict)
    curves: dict[str, list[float]] = {}
    for number, value in reports:
        curve = curves.setdefault(str(number), [])
        curve.append(float(value))
        expected = brackets_by_the_book(curves, str(number), [1, 3, 9], eta, strict)
        assert rule.report(str(number), len(curve), float(value)).stop == expected


def test_a_trial_without_a_number_is_stopped_at_its_bracket() -> None:
    rule = BracketRule(rungs=(1,), eta=2, goal="minimize")
    assert rule.report("a", 1, math.nan).stop
    assert not rule.report("b", 1, 3.0).stop


def test_the_median_rule_needs_company_and_then_stops_the_worst() -> None:
    rule = MedianRule(goal="maximize", min_trials=2)
    verdicts = [rule.report(trial, 1, value).stop for trial, value in (("a", 4.0), ("b", 6.0), ("c", 5.0), ("d", 4.5))]
    assert verdicts == [False, False, False, True]


def test_without_a_rule_everything_goes_on() -> None:
    assert not NeverStop().report("a", 1, -math.inf).stop


class RayTrial:
    """As much of a Ray trial as schedulers look at."""

    def __init__(self, name: str) -> None:
        self.trial_id = name


curves = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=9), min_size=1, max_size=9)


@given(curves, st.sampled_from([2, 3, 4]), st.integers(1, 2))
def test_rungs_decide_as_rays_asha_on_any_curves(values: list[list[int]], eta: int, min_iter: int) -> None:
    bracket_class = pytest.importorskip("ray.tune.schedulers.async_hyperband")._Bracket
    bracket = bracket_class(min_iter, 9, eta, 0)
    rule = RungRule(rungs=asha_rungs(min_iter=min_iter, eta=eta, max_iter=10), eta=eta, goal="maximize")

    order = [(i, t) for i, curve in enumerate(values) for t in range(len(curve))]
    random.Random(0).shuffle(order)
    order.sort(key=lambda step: step[1])
    stopped: set[int] = set()
    for trial, step in order:
        if trial in stopped:
            continue
        value = float(values[trial][step])
        ours = rule.report(str(trial), step + 1, value).stop
        theirs = bracket.on_result(RayTrial(str(trial)), step + 1, value) == "STOP"
        assert ours == theirs
        if ours:
            stopped.add(trial)


@given(curves)
def test_the_median_rule_decides_as_rays_on_any_curves(values: list[list[int]]) -> None:
    schedulers = pytest.importorskip("ray.tune.schedulers")
    theirs = schedulers.MedianStoppingRule(
        time_attr="t", metric="m", mode="max", grace_period=1, min_samples_required=2, min_time_slice=100
    )
    ours = MedianRule(goal="maximize", min_trials=2)

    stopped: set[int] = set()
    trials = [RayTrial(str(i)) for i in range(len(values))]
    for step in range(9):
        for trial, curve in enumerate(values):
            if step >= len(curve) or trial in stopped:
                continue
            value = float(curve[step])
            verdict = theirs.on_trial_result(Controller(), trials[trial], {"t": step + 1, "m": value})
            assert ours.report(str(trial), step + 1, value).stop == (verdict == "STOP")
            if verdict == "STOP":
                stopped.add(trial)


# eval/rouge_combined_f1 of 16 trials of tune_jobs/sweeps/staged_sample.yaml (wide, narrow), as its ledgers kept them
RECORDED: list[list[float]] = json.loads((Path(__file__).parent / "recorded_curves.json").read_text())


def side_by_side(count: int) -> Iterator[tuple[int, int, float]]:
    """Trial, evaluation and value in the order in which `count` trials at a time would report."""
    waiting = iter(range(len(RECORDED)))
    running = dict.fromkeys(itertools.islice(waiting, count), 0)
    while running:
        for trial in list(running):
            running[trial] += 1
            yield trial, running[trial], RECORDED[trial][running[trial] - 1]
            if running[trial] == len(RECORDED[trial]):
                del running[trial]
                running.update(dict.fromkeys(itertools.islice(waiting, 1), 0))


class Controller:
    """As much of Ray's controller as its schedulers ask for."""

    def get_live_trials(self) -> list[object]:
        return []


@pytest.mark.parametrize(("count", "eta", "min_iter"), [(2, 2, 2), (4, 3, 1), (16, 4, 1)])
def test_recorded_curves_are_stopped_where_rays_asha_stops_them(count: int, eta: int, min_iter: int) -> None:
    schedulers = pytest.importorskip("ray.tune.schedulers")
    theirs = schedulers.AsyncHyperBandScheduler(
        time_attr="t", metric="m", mode="max", grace_period=min_iter, reduction_factor=eta, max_t=9
    )
    rule = RungRule(rungs=asha_rungs(min_iter=min_iter, eta=eta, max_iter=9), eta=eta, goal="maximize")
    trials = [RayTrial(str(number)) for number in range(len(RECORDED))]
    for trial in trials:
        theirs.on_trial_add(Controller(), trial)
    stopped: set[int] = set()
    for trial, evaluation, value in side_by_side(count):
        if trial in stopped:
            continue
        verdict = theirs.on_trial_result(Controller(), trials[trial], {"t": evaluation, "m": value})
        assert rule.report(str(trial), evaluation, value).stop == (verdict == "STOP"), (trial, evaluation)
        stopped |= {trial} if verdict == "STOP" else set()
    assert len(stopped) >= 5


@pytest.mark.parametrize("count", [2, 16])
def test_recorded_curves_are_stopped_where_rays_median_rule_stops_them(count: int) -> None:
    schedulers = pytest.importorskip("ray.tune.schedulers")
    theirs = schedulers.MedianStoppingRule(
        time_attr="t", metric="m", mode="max", grace_period=1, min_samples_required=3, min_time_slice=100
    )
    rule = MedianRule(goal="maximize", min_trials=3)
    trials = [RayTrial(str(number)) for number in range(len(RECORDED))]
    stopped: set[int] = set()
    for trial, evaluation, value in side_by_side(count):
        if trial in stopped:
            continue
        verdict = theirs.on_trial_result(Controller(), trials[trial], {"t": evaluation, "m": value})
        assert rule.report(str(trial), evaluation, value).stop == (verdict == "STOP"), (trial, evaluation)
        stopped |= {trial} if verdict == "STOP" else set()
    assert stopped
