"""W&B's hyperband: its brackets, and the decisions of its own package."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tune_jobs.search.stand_in_driver import METRIC, StandInDriver
from tune_jobs.config.early_terminate import wandb_brackets
from tune_jobs.search.early_stopping import EVALUATION, EarlyStopping
from tune_jobs.search.wandb_hyperband import WandbHyperBand

RECORDED: list[list[float]] = json.loads((Path(__file__).parent / "recorded_curves.json").read_text())


def hosted(brackets: tuple[int, ...], eta: float, mode: str = "max", *, strict: bool = False) -> EarlyStopping:
    scheduler = WandbHyperBand(brackets=brackets, eta=eta, strict=strict)
    assert scheduler.set_search_properties(METRIC, mode)
    return EarlyStopping(scheduler, seed=0)


def stops(stopping: EarlyStopping, reports: list[tuple[int, int, float]]) -> list[bool]:
    for number in sorted({number for number, _, _ in reports}):
        stopping.add(number, {})
    return [
        stopping.report(number, {METRIC: value, EVALUATION: evaluation}).decision == "stop"
        for number, evaluation, value in reports
    ]


def test_brackets_are_counted_down_from_max_iter_or_up_from_min_iter() -> None:
    assert wandb_brackets(eta=3, max_iter=81, s=4, last=81) == (1, 3, 9, 27)
    assert wandb_brackets(eta=2, max_iter=5, s=2, last=5) == (1, 2)
    assert wandb_brackets(eta=3, min_iter=3, last=8) == (3,)
    assert wandb_brackets(eta=3, min_iter=9, last=8) == ()


def test_it_stops_as_in_the_worked_example_of_wandb_s_own_package() -> None:
    brackets = wandb_brackets(eta=2, max_iter=5, s=2, last=5)
    assert brackets == (1, 2)
    curves = {1: [10, 9], 2: [10, 10], 3: [10, 8, 8], 4: [10, 7, 7], 5: [10, 6, 6]}
    first = [
        (number, place, float(value))
        for number, values in curves.items()
        for place, value in enumerate(values if number in (1, 5) else values[:-1], start=1)
    ]
    last = [(number, len(curves[number]), float(curves[number][-1])) for number in (4, 3, 2)]
    assert stops(hosted(brackets, 2, "min"), first + last)[-3:] == [False, False, True]


@pytest.mark.parametrize("strict", [False, True])
def test_loose_brackets_compare_the_best_value_and_strict_ones_the_bracket_s(strict: bool) -> None:
    reports: list[tuple[int, int, float]] = [
        (1, 1, 1), (1, 2, 5), (2, 1, 4), (2, 2, 6), (3, 1, 7), (3, 2, 3), (4, 2, 8), (1, 3, 4),
    ]  # fmt: skip
    # Trial 3 was best at its first evaluation; 1 passed its bracket and fell behind when 4 came: second of four is 6.
    assert stops(hosted((2,), 3, strict=strict), reports) == [False] * 5 + [strict, False, True]


def decision_from_histories(
    curves: dict[int, list[float]], trial: int, rungs: list[int], eta: int, strict: bool
) -> bool:
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
def test_it_decides_as_whole_histories_do(reports: list[tuple[int, int]], eta: int, strict: bool) -> None:
    stopping = hosted((1, 3, 9), eta, strict=strict)
    for number in range(6):
        stopping.add(number, {})
    curves: dict[int, list[float]] = {}
    ended: set[int] = set()
    for number, value in reports:
        if number in ended:
            continue
        curve = curves.setdefault(number, [])
        curve.append(float(value))
        expected = decision_from_histories(curves, number, [1, 3, 9], eta, strict)
        decision = stopping.report(number, {METRIC: float(value), EVALUATION: len(curve)}).decision
        assert decision == ("stop" if expected else "continue")
        ended |= {number} if expected else set()


def test_a_trial_without_a_number_is_stopped_at_its_bracket() -> None:
    assert stops(hosted((1,), 2, "min"), [(1, 1, math.nan), (2, 1, 3.0)]) == [True, False]


def test_recorded_curves_are_stopped_and_never_paused() -> None:
    driver = StandInDriver(
        hosted((1, 3), 3), lambda number, made: RECORDED[number][min(made, len(RECORDED[number])) - 1], side_by_side=4
    ).run(range(len(RECORDED)))
    assert 5 <= len(driver.stops()) <= 12
    assert {event.ruling.decision for event in driver.events} == {"continue", "stop"}
