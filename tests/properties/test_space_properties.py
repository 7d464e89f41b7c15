"""Whatever a distribution says: samples stay inside, seeds repeat, grids are complete."""

import dataclasses
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from tune_jobs.config.space import Bell, Categorical, Constant, Parameter, Range, Space

small = st.floats(min_value=-100, max_value=100, allow_nan=False)
positive = st.floats(min_value=1e-8, max_value=1e3)
fractions = st.floats(min_value=0, max_value=1, exclude_max=True)


@st.composite
def ranges(draw: st.DrawFn, name: str = "x") -> Range:
    distribution = draw(
        st.sampled_from(
            [
                "uniform",
                "int_uniform",
                "q_uniform",
                "log_uniform_values",
                "q_log_uniform_values",
                "inv_log_uniform_values",
            ]
        )
    )
    if distribution == "int_uniform":
        low = draw(st.integers(-20, 20))
        return Range(name=name, distribution=distribution, low=low, high=low + draw(st.integers(1, 30)))
    low = draw(positive if "log" in distribution else small)
    if distribution.startswith("q_"):
        q = draw(st.sampled_from([1, 2, 0.1, 0.05, 0.25]))
        return Range(name=name, distribution=distribution, low=low, high=low + 3 * q, q=q)
    return Range(name=name, distribution=distribution, low=low, high=low + draw(st.floats(1e-3, 50)))


def categoricals(name: str = "x") -> st.SearchStrategy[Categorical]:
    return st.lists(st.integers(-5, 5), min_size=1, max_size=4, unique=True).map(
        lambda options: Categorical(name=name, options=tuple(options))
    )


def spaces() -> st.SearchStrategy[Space]:
    parameters = st.one_of(
        ranges(), categoricals(), st.integers(0, 3).map(lambda value: Constant(name="x", value=value))
    )

    def build(drawn: list[Parameter]) -> Space:
        return Space(parameters=tuple(_renamed(one, f"p{place}") for place, one in enumerate(drawn)))

    return st.lists(parameters, min_size=1, max_size=4).map(build)


def _renamed(parameter: Parameter, name: str) -> Parameter:
    return dataclasses.replace(parameter, name=name)


@given(ranges(), fractions)
def test_a_range_gives_only_values_that_it_contains(parameter: Range, fraction: float) -> None:
    assert parameter.contains(parameter.at(fraction))


@given(ranges(), fractions, fractions)
def test_a_larger_random_number_never_gives_a_smaller_value(parameter: Range, one: float, other: float) -> None:
    first, second = parameter.at(min(one, other)), parameter.at(max(one, other))
    assert isinstance(first, (int, float))
    assert isinstance(second, (int, float))
    assert first >= second if parameter.distribution == "inv_log_uniform_values" else first <= second


@given(ranges(), fractions)
def test_the_log_scale_can_be_undone(parameter: Range, fraction: float) -> None:
    value = parameter.at(fraction)
    assert isinstance(value, (int, float))
    assert math.isclose(parameter.from_log(parameter.to_log(value)), value, rel_tol=1e-9, abs_tol=1e-9)


@given(spaces(), st.integers(0, 2**32))
def test_samples_lie_in_the_space_and_a_seed_repeats_them(space: Space, seed: int) -> None:
    first = space.sample(random.Random(seed))
    assert space.contains(first)
    assert space.sample(random.Random(seed)) == first


@given(spaces())
def test_a_grid_has_every_configuration_once(space: Space) -> None:
    if space.size is None or space.size > 300:
        return
    configs = list(space.grid())
    assert len({str(config) for config in configs}) == len(configs) == space.size
    assert all(space.contains(config) for config in configs)


@given(st.sampled_from(["normal", "log_normal", "q_normal", "q_log_normal"]), fractions, st.sampled_from([1, 0.1]))
def test_a_bell_gives_values_that_it_contains(distribution: str, fraction: float, q: float) -> None:
    step = q if distribution.startswith("q_") else None
    parameter = Bell(name="x", distribution=distribution, mu=0.5, sigma=2.0, q=step)  # type: ignore[arg-type]
    assert parameter.contains(parameter.at(fraction))


@given(categoricals(), st.integers(0, 1000))
def test_probabilities_are_kept_in_the_long_run(parameter: Categorical, seed: int) -> None:
    shares = [place + 1 for place in range(len(parameter.options))]
    weighted = Categorical(
        name="x", options=parameter.options, probabilities=tuple(share / sum(shares) for share in shares)
    )
    drawn = [weighted.at((step + 0.5) / 1000) for step in range(1000)]
    for option, share in zip(parameter.options, shares, strict=True):
        assert abs(drawn.count(option) / 1000 - share / sum(shares)) < 0.002
