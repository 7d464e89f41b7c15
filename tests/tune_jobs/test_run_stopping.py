"""Early termination: rungs where they belong, and the same decisions as Ray's own schedulers on the same curves."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_jobs.stopping import MedianRule, NeverStop, RungRule, asha_rungs, hyperband_rungs


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


def test_strict_hyperband_lets_no_more_than_one_in_eta_pass() -> None:
    values = [3.0, 1.0, 2.0, 5.0, 4.0, 6.0]
    loose = RungRule(rungs=(1,), eta=3, goal="maximize", cutoff="hyperband")
    strict = RungRule(rungs=(1,), eta=3, goal="maximize", cutoff="hyperband", strict=True)
    passed = [[not rule.report(str(i), 1, value).stop for i, value in enumerate(values)] for rule in (loose, strict)]
    assert passed == [[True, False, True, True, True, True], [True, False, False, True, False, True]]


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

    class Controller:
        def get_live_trials(self) -> list[object]:
            return []

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
