"""The box of the best: inside the old range unless at its end, never empty, wider with more margin or trials."""

import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tune_jobs.config.space import Bell, Categorical, Range, Space, Value
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep, read_sweep
from tune_jobs.config.sweep_writer import sweep_text
from tune_jobs.search.narrowing import EDGE, Box, Tried, narrow
from tuning_common.strict import parse_yaml

SPACE = Space(
    parameters=(
        Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-2),
        Range(name="dropout", distribution="uniform", low=0.0, high=0.3),
        Range(name="num_epochs", distribution="int_uniform", low=2, high=9),
        Range(name="warmup_ratio", distribution="q_uniform", low=0.0, high=0.2, q=0.05),
        Range(name="label_smoothing", distribution="inv_log_uniform_values", low=0.001, high=0.2),
        Categorical(name="batch_size", options=(4, 8, 16), probabilities=(0.5, 0.3, 0.2)),
        Bell(name="weight_decay", distribution="log_normal", mu=-3.0, sigma=0.5),
    )
)
RANGES = [one for one in SPACE.parameters if isinstance(one, Range)]
fractions = st.floats(0, 1, exclude_max=True)


@st.composite
def searches(draw: st.DrawFn) -> list[Tried]:
    found = []
    for _ in range(draw(st.integers(1, 14))):
        sampled: dict[str, Value] = {one.name: one.at(draw(fractions)) for one in SPACE.parameters}
        score = draw(st.none() | st.integers(0, 30).map(float))
        found.append(Tried(sampled=sampled, score=score))
    return found


margins = st.floats(0, 0.5)
parts = st.floats(0.05, 1)


def within(inner: Box, outer: Box) -> bool:
    return all(
        isinstance(a := inner.space[one.name], Range)
        and isinstance(b := outer.space[one.name], Range)
        and b.low <= a.low * (1 + 1e-12)
        and a.high * (1 - 1e-12) <= b.high
        for one in RANGES
    )


@given(searches(), parts, margins)
def test_the_box_holds_the_best_and_is_never_empty(trials: list[Tried], part: float, margin: float) -> None:
    box = narrow(trials, SPACE, keep_fraction=part, margin=margin)
    assert [one.name for one in box.space.parameters] == [one.name for one in SPACE.parameters]
    for parameter in box.space.parameters:
        assert parameter.size is None or parameter.size >= 1
        if not isinstance(SPACE[parameter.name], Bell):
            assert all(parameter.contains(one.sampled[parameter.name]) for one in box.best)
        if isinstance(parameter, Range):
            assert parameter.low < parameter.high
        assert box.reasons[parameter.name]


@given(searches(), parts, margins)
def test_it_leaves_the_old_range_only_where_the_very_best_lies_at_the_end(
    trials: list[Tried], part: float, margin: float
) -> None:
    box = narrow(trials, SPACE, keep_fraction=part, margin=margin)
    for old in RANGES:
        new = box.space[old.name]
        assert isinstance(new, Range)
        if not box.best:
            assert new == old
            continue
        low, high = old.to_log(old.low), old.to_log(old.high)
        first = old.to_log(box.best[0].sampled[old.name])
        near = EDGE * (high - low) * (1 + 1e-9)
        assert new.low >= old.low or first - low <= near
        assert new.high <= old.high or high - first <= near
        if old.name == "dropout":
            assert new.low >= 0.0, "no run accepts less"


@given(searches(), parts, margins, margins)
def test_a_larger_margin_or_more_trials_give_a_box_around_the_smaller_one(
    trials: list[Tried], part: float, margin: float, more: float
) -> None:
    box = narrow(trials, SPACE, keep_fraction=part, margin=margin)
    if len(box.best) < len(trials):
        assert within(box, narrow(trials, SPACE, keep_fraction=part, margin=margin + more))
    larger = narrow(trials, SPACE, keep_fraction=min(1.0, part + more), margin=margin)
    if len(larger.best) < len(trials):
        assert within(box, larger)


@given(searches(), parts, st.floats(0, 5))
def test_the_order_of_the_trials_and_the_sign_of_the_goal_do_not_matter(
    trials: list[Tried], part: float, noise: float
) -> None:
    unique = {one.score: one for one in trials}  # of equals the first comes first, so that order would matter
    ordered = list(unique.values())
    turned = [Tried(sampled=one.sampled, score=None if one.score is None else -one.score) for one in reversed(ordered)]
    up = narrow(ordered, SPACE, keep_fraction=part, noise=noise)
    down = narrow(turned, SPACE, keep_fraction=part, noise=noise, goal="minimize")
    assert (up.space, up.reasons) == (down.space, down.reasons)


@given(searches(), parts, margins)
def test_the_box_is_written_as_a_file_and_reads_back(trials: list[Tried], part: float, margin: float) -> None:
    box = narrow(trials, SPACE, keep_fraction=part, margin=margin)
    sweep = Sweep(name="next", source="n.yaml", method="bayes", count=9, space=box.space)
    again = read_sweep(parse_yaml(sweep_text(sweep, reasons=box.reasons), "n.yaml"), load_sweep)
    for old, new in zip(sweep.space.parameters, again.space.parameters, strict=True):
        if isinstance(old, Categorical) and old.probabilities is not None:
            assert isinstance(new, Categorical)
            assert new.probabilities is not None
            assert math.isclose(sum(new.probabilities), 1.0)
        assert new == old
    assert Path(sweep.source).name == "n.yaml"
