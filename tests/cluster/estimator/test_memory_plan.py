"""A plan keeps the effective batch, stays inside the budget and is the fastest that does."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.estimator import memory_plan
from cluster.estimator.memory_plan import NoPlan, Plan, TimeModel, divisors, plan, time_model
from tuning_common.errors import RequestError

MODEL = TimeModel(launch_s=0.02, sample_s=0.005)


def cost(base: int = 1000, plain: int = 400, saved: int = 100, accumulated: int = 300) -> memory_plan.UpperBytes:
    def upper_bytes(micro: int, accumulation: int, checkpointed: bool) -> int:
        return base + micro * (saved if checkpointed else plain) + (accumulated if accumulation > 1 else 0)

    return upper_bytes


def test_plenty_of_memory_runs_the_batch_at_once() -> None:
    found = plan(64, 10**9, cost(), MODEL)
    assert isinstance(found, Plan)
    assert (found.micro_batch, found.accumulation, found.gradient_checkpointing) == (64, 1, False)
    assert found.slowdown == 1.0
    assert found.reason == "the whole batch fits at once, which is the fastest way"


def test_less_memory_means_a_smaller_micro_batch_first() -> None:
    found = plan(64, 8000, cost(), MODEL)
    assert isinstance(found, Plan)
    assert (found.micro_batch, found.accumulation, found.gradient_checkpointing) == (16, 4, False)
    assert found.upper_bytes == 1000 + 16 * 400 + 300
    assert found.reason.startswith("the largest micro-batch that fits is 16; a step takes 1.00 x")


def test_checkpointing_is_taken_where_tiny_micro_steps_would_be_slower() -> None:
    found = plan(64, 2900, cost(), MODEL)  # micro-batch 4 without: 16 micro-steps bound by launches
    assert isinstance(found, Plan)
    assert (found.micro_batch, found.gradient_checkpointing) == (4, False)
    found = plan(64, 2200, cost(), MODEL)  # 2 without checkpointing, 8 with it
    assert isinstance(found, Plan)
    assert (found.micro_batch, found.accumulation, found.gradient_checkpointing) == (8, 8, True)
    assert "faster so than many small micro-steps" in found.reason


def test_the_person_may_fix_checkpointing() -> None:
    found = plan(64, 10**9, cost(), MODEL, checkpointing=(True,))
    assert isinstance(found, Plan)
    assert found.gradient_checkpointing
    assert found.slowdown == pytest.approx(4 / 3)
    assert found.reason.startswith("the largest micro-batch that fits is 64 with gradient checkpointing (as asked); ")
    found = plan(64, 1700, cost(plain=900), MODEL)
    assert isinstance(found, Plan)
    assert "(nothing fits without it)" in found.reason


def test_the_whole_batch_is_found_although_accumulation_needs_more() -> None:
    found = plan(4, 1450, cost(plain=110, accumulated=10_000), MODEL)
    assert isinstance(found, Plan)
    assert (found.micro_batch, found.accumulation) == (4, 1)


def test_nothing_fits_is_said_with_numbers() -> None:
    found = plan(64, 1100, cost(), MODEL)
    assert isinstance(found, NoPlan)
    assert (found.smallest_bytes, found.gradient_checkpointing) == (1400, True)
    assert str(found) == (
        "nothing fits in 1.07 KiB: even micro-batch 1 with gradient checkpointing needs 1.37 KiB, 300 B too much"
    )


@pytest.mark.parametrize(("batch", "budget"), [(0, 100), (-1, 100), (8, 0)])
def test_a_batch_or_budget_below_one_is_refused(batch: int, budget: int) -> None:
    with pytest.raises(RequestError, match="at least 1"):
        plan(batch, budget, cost(), MODEL)


@given(
    st.integers(1, 512),
    st.integers(1, 300_000),
    st.integers(0, 5000),
    st.integers(1, 900),
    st.integers(1, 900),
    st.integers(0, 4000),
)
def test_the_plan_is_the_fastest_of_all_ways_that_fit(
    batch: int, budget: int, base: int, plain: int, saved: int, accumulated: int
) -> None:
    upper_bytes = cost(base, plain, min(plain, saved), accumulated)
    ways = [(micro, batch // micro, ckpt) for micro in divisors(batch) for ckpt in (False, True)]
    fitting = [way for way in ways if upper_bytes(*way) <= budget]
    found = plan(batch, budget, upper_bytes, MODEL)
    if isinstance(found, NoPlan):
        assert fitting == []
        assert found.smallest_bytes > budget
        return
    assert found.micro_batch * found.accumulation == batch
    assert found.upper_bytes == upper_bytes(found.micro_batch, found.accumulation, found.gradient_checkpointing)
    assert found.upper_bytes <= budget
    own_s = MODEL.step_s(found.micro_batch, found.accumulation, found.gradient_checkpointing)
    assert own_s == pytest.approx(min(MODEL.step_s(*way) for way in fitting))
    assert found.slowdown >= 1


@given(st.integers(1, 256), st.integers(1000, 50_000), st.integers(0, 20_000))
def test_more_memory_never_makes_a_slower_plan(batch: int, budget: int, extra: int) -> None:
    small, large = plan(batch, budget, cost(), MODEL), plan(batch, budget + extra, cost(), MODEL)
    if isinstance(small, Plan):
        assert isinstance(large, Plan)
        assert large.slowdown <= small.slowdown + 1e-6


def test_a_plan_calls_the_estimate_a_few_times_only() -> None:
    calls = 0

    def upper_bytes(micro: int, accumulation: int, checkpointed: bool) -> int:
        nonlocal calls
        calls += 1
        return 1000 + micro * 400

    plan(720_720, 50_000, upper_bytes, MODEL)  # 240 divisors
    assert calls <= 24


def test_a_plan_takes_less_than_five_milliseconds() -> None:
    plan(64, 8000, cost(), MODEL)
    best_s = min(_timed(lambda: plan(64, 8000, cost(), MODEL)) for _ in range(20))
    assert best_s < 0.005


def _timed(call: object) -> float:
    assert callable(call)
    start = time.process_time()
    call()
    return time.process_time() - start


def test_the_time_model_grows_with_tokens_and_parameters() -> None:
    small = time_model(model_parameters=10**8, tokens=640, operations=2000)
    large = time_model(model_parameters=2 * 10**8, tokens=640, operations=2000)
    assert large.sample_s == pytest.approx(2 * small.sample_s)
    assert large.launch_s == small.launch_s == pytest.approx(0.012)
