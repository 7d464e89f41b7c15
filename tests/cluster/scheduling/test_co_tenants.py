"""How many trials a card takes, found from what they report: on a simulated card whose interference is known."""

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.scheduling.co_tenants import ENOUGH, KEPT, CoTenants, Pace
from cluster.scheduling.request import Alternative, Request
from cluster.scheduling.shares import UNITS, Share

Slowdown = Callable[[int], float]
ALONE = {"bart": 100.0, "gpt2": 30.0, "t5": 7.0}  # rates of each kind; their units differ


def run_card(
    found: CoTenants, slowdown: Slowdown, *, trials: int = 60, evaluations: int = 5, noise: float = 0.0, seed: int = 0
) -> list[int]:
    """Runs trials one after another on one card of a GPU model; returns the limit at each start."""
    rng = random.Random(seed)
    running: list[tuple[str, int]] = []
    limits = []
    for number in range(trials):
        limit = found.limit("A40")
        while len(running) >= limit:
            running = evaluate(found, running, slowdown, noise, rng)
        running.append((sorted(ALONE)[number % len(ALONE)], evaluations + rng.randrange(3)))
        limits.append(limit)
        if len(running) == limit:
            running = evaluate(found, running, slowdown, noise, rng)
    return limits


def evaluate(
    found: CoTenants, running: list[tuple[str, int]], slowdown: Slowdown, noise: float, rng: random.Random
) -> list[tuple[str, int]]:
    """Lets every trial on the card evaluate once; returns those that go on."""
    tenants = len(running)
    for kind, _ in running:
        rate = ALONE[kind] / slowdown(tenants) * rng.lognormvariate(0.0, noise)
        found.observe(Pace(model="A40", kind=kind, tenants=tenants, rate=rate))
    return [(kind, left - 1) for kind, left in running if left > 1]


def total(slowdown: Slowdown, tenants: int) -> float:
    return tenants / slowdown(tenants)


@st.composite
def slowdowns(draw: st.DrawFn) -> Slowdown:
    """A card that is full with some trials, and beyond that loses a part with each further one."""
    full = draw(st.floats(1.0, 8.0))
    lost = draw(st.floats(0.0, 0.3))
    return lambda tenants: max(1.0, tenants / full) * (1 + lost * max(0.0, tenants - full))


@settings(max_examples=30)
@given(slowdown=slowdowns(), noise=st.sampled_from([0.0, 0.02, 0.05]), seed=st.integers(0, 99))
def test_the_number_found_gets_as_much_done_as_the_best_fixed_one(slowdown: Slowdown, noise: float, seed: int) -> None:
    found = CoTenants(8)
    limits = run_card(found, slowdown, noise=noise, seed=seed)
    assert min(limits) >= 1
    assert max(limits) <= 8
    best = max(total(slowdown, tenants) for tenants in range(1, 9))
    assert total(slowdown, limits[-1]) >= best * (0.92 if noise else 0.96)


@settings(max_examples=30)
@given(slowdown=slowdowns(), seed=st.integers(0, 99))
def test_noise_does_not_let_it_oscillate(slowdown: Slowdown, seed: int) -> None:
    limits = run_card(CoTenants(8), slowdown, trials=120, noise=0.05, seed=seed)[40:]
    assert sum(after > before for before, after in itertools.pairwise(limits)) <= 3


@pytest.mark.parametrize(
    ("gains", "lost", "expected"), [(8, 0.0, 8), (1, 0.1, 1), (1, 0.0, 2)], ids=["every", "none", "equal"]
)
def test_a_card_that_gains_with_every_trial_stays_full_and_one_that_loses_takes_one(
    gains: int, lost: float, expected: int
) -> None:
    limits = run_card(CoTenants(8), lambda tenants: max(1.0, tenants / gains) * (1 + lost * max(0, tenants - gains)))
    assert limits[0] == 8
    assert limits[-1] == expected


def test_two_trials_are_not_parted_to_see_how_one_does_alone() -> None:
    """That would leave half of a card idle for long, for a small gain at best."""
    found = CoTenants(8)
    for _ in range(5 * ENOUGH):
        found.observe(Pace(model="A40", kind="t5", tenants=2, rate=5.0))
    assert found.limit("A40") == 3


def test_few_rates_decide_nothing() -> None:
    found = CoTenants(8)
    for _ in range(ENOUGH - 1):
        found.observe(Pace(model="A40", kind="t5", tenants=8, rate=0.1))
    assert (found.limit("A40"), found.filled_by("A40"), found.lines()) == (8, None, [])


def test_kinds_that_never_met_are_not_compared() -> None:
    """A larger model is slower by itself: that says nothing about the number of trials."""
    found = CoTenants(8)
    for _ in range(ENOUGH):
        found.observe(Pace(model="A40", kind="large", tenants=4, rate=1.0))
        found.observe(Pace(model="A40", kind="small", tenants=3, rate=50.0))
    assert found.limit("A40") == 5  # one more than was seen; nothing says that four are too many


def test_gpu_models_are_learned_apart() -> None:
    found = CoTenants(8)
    run_card(found, lambda tenants: float(tenants))
    assert (found.limit("A40"), found.limit("L4")) == (2, 8)


def request_of(units: int, busy: float | None = None, expected_s: float | None = None) -> Request:
    one = Alternative(
        model="A40",
        share=Share(units=units),
        cpus=1,
        upper_bytes=4,
        cap_bytes=units,
        busy=busy,
        expected_s=expected_s,
    )
    return Request(name="s/1", sweep="s", alternatives=(one,))


def test_a_request_takes_so_much_that_no_more_trials_fit_than_the_limit() -> None:
    found = CoTenants(8)
    run_card(found, lambda tenants: max(1.0, tenants / 2) * (1 + 0.2 * max(0, tenants - 2)))
    assert found.limit("A40") == 2
    (small,), (large,) = found.limited(request_of(1250)).alternatives, found.limited(request_of(7500)).alternatives
    assert small.share == Share(units=UNITS // 2)
    assert small.cap_bytes == UNITS // 2
    assert large.share == Share(units=7500)
    (within,) = found.limited(request_of(1250), most_units=2500).alternatives
    assert within.share == Share(units=2500)
    assert found.lines() == ["A40: a card gets most done with 2 trials (with 1: 50 % less, with 3: 17 % less)"]


@pytest.mark.parametrize(
    ("busy", "expected_s", "units"),
    [
        (1.0, None, 10_000),
        (0.5, None, 5000),
        (0.4, None, 3333),
        (0.01, None, 1250),
        (None, None, 1250),
        (1.0, 9.0, 1250),
    ],
)
def test_before_anything_is_known_trials_fill_a_card_by_the_parts_that_they_are_expected_to_keep_busy(
    busy: float | None, expected_s: float | None, units: int
) -> None:
    """Where durations are known too, the broker compares what the card gets done with and without a further one."""
    assert CoTenants(8).limited(request_of(1250, busy, expected_s)).alternatives[0].share == Share(units=units)


def test_where_the_expected_parts_were_too_large_one_trial_more_is_let_in_after_another() -> None:
    found, request = CoTenants(8), request_of(1250, busy=0.5)
    limits = []
    for tenants in (2, 3, 4):
        for _ in range(ENOUGH):
            found.observe(Pace(model="A40", kind="t5", tenants=tenants, rate=5.0))
        share = found.limited(request).alternatives[0].share
        assert share is not None
        limits.append(UNITS // share.units)
    assert limits == [3, 4, 5]


def test_another_number_is_tried_only_while_many_wait_and_then_until_it_is_known() -> None:
    found = CoTenants(8)
    limits = []
    for waiting, tenants in ((11.0, 2), (12.0, 2), (1.0, 2), (0.0, 3)):
        found.waiting = waiting
        for _ in range(KEPT):
            found.observe(Pace(model="A40", kind="t5", tenants=tenants, rate=10.0 / tenants))
        limits.append(found.limit("A40"))
    assert limits == [8, 3, 3, 2]


@pytest.mark.parametrize(("busy", "units"), [(None, 1250), (0.5, 5000)])
def test_where_too_few_wait_shares_stay_as_they_are_while_nothing_speaks_against_them(
    busy: float | None, units: int
) -> None:
    """Another share would cost each trial a new process."""
    found, request = CoTenants(8), request_of(1250, busy)
    found.waiting = 3.0
    for _ in range(KEPT):
        found.observe(Pace(model="A40", kind="t5", tenants=2, rate=5.0))
    assert found.limited(request).alternatives[0].share == Share(units=units)


def test_a_card_that_idles_lets_in_more_than_predicted() -> None:
    """Where two trials are seen not to slow each other down, each keeps at most half of the card busy."""
    found, request = CoTenants(8), request_of(1250, busy=0.9, expected_s=60.0)
    parts = [found.limited(request).alternatives[0].busy]
    for tenants, rate in ((1, 5.0), (2, 4.9), (3, 3.3)):
        for _ in range(ENOUGH):
            found.observe(Pace(model="A40", kind="t5", tenants=tenants, rate=rate))
        parts.append(found.limited(request).alternatives[0].busy)
    assert parts == [0.9, 0.9, pytest.approx(1 / 3), 0.5]


def test_trials_that_slow_each_other_down_keep_their_predicted_busy_parts() -> None:
    found = CoTenants(8)
    for tenants, rate in ((1, 5.0), (2, 3.0)):
        for _ in range(ENOUGH):
            found.observe(Pace(model="A40", kind="t5", tenants=tenants, rate=rate))
    assert found.limited(request_of(1250, busy=0.9)).alternatives[0].busy == 0.9
