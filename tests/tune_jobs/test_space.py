"""Distributions at known points."""

import pytest

from tune_jobs.config.space import Bell, Categorical, Constant, Range, Space


@pytest.mark.parametrize(
    ("parameter", "at_zero", "at_half", "at_end"),
    [
        (Range(name="x", distribution="uniform", low=1.0, high=3.0), 1.0, 2.0, 3.0),
        (Range(name="x", distribution="int_uniform", low=1, high=4), 1, 3, 4),
        (Range(name="x", distribution="q_uniform", low=0.0, high=0.2, q=0.05), 0.0, 0.1, 0.2),
        (Range(name="x", distribution="q_uniform", low=1, high=10, q=3), 3, 6, 9),
        (Range(name="x", distribution="log_uniform_values", low=1e-6, high=1e-2), 1e-6, 1e-4, 1e-2),
        (Range(name="x", distribution="inv_log_uniform_values", low=1e-6, high=1e-2), 1e-2, 1e-4, 1e-6),
        (Range(name="x", distribution="q_log_uniform_values", low=8, high=128, q=8), 8, 32, 128),
    ],
)
def test_values_at_the_ends_and_in_the_middle(parameter: Range, at_zero: float, at_half: float, at_end: float) -> None:
    found = [parameter.at(0.0), parameter.at(0.5), parameter.at(1 - 2.0**-53)]
    assert found == [at_zero, at_half, pytest.approx(at_end)]
    assert [type(value) for value in found] == [type(at_zero), type(at_half), type(at_end)]


def test_each_value_of_a_few_has_its_part() -> None:
    options = tuple(range(10))
    found = [Categorical(name="x", options=options).at(fraction) for fraction in (0.0, 0.19, 0.21, 1 - 2.0**-53)]
    assert found == [0, 1, 2, 9]
    likely = Categorical(name="x", options=(*options, 10), probabilities=(*[0.1] * 10, 0.0))  # with sum 0.99999999
    assert [likely.at(fraction) for fraction in (0.05, 0.15, 1 - 2.0**-53)] == [0, 1, 9]
    assert Range(name="x", distribution="int_uniform", low=1, high=4).at(0.49) == 2


def test_whole_steps_give_whole_numbers() -> None:
    assert Range(name="x", distribution="int_uniform", low=1, high=4).whole
    assert Range(name="x", distribution="q_uniform", low=1, high=10, q=3).whole
    assert not Range(name="x", distribution="q_uniform", low=1, high=10, q=0.5).whole


def test_steps_are_whole_multiples_without_binary_dust() -> None:
    steps = Range(name="x", distribution="q_uniform", low=0.1, high=0.5, q=0.1)
    assert steps.values() == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert steps.contains(0.3)
    assert not steps.contains(0.35)
    assert [Range(name="x", distribution="uniform", low=0.0, high=2.0).contains(value) for value in (True, "1")] == [
        False,
        False,
    ]


def test_a_bell_is_symmetric_and_its_logarithm_too() -> None:
    assert Bell(name="x", distribution="normal", mu=2.0, sigma=1.0).at(0.5) == 2.0
    assert Bell(name="x", distribution="log_normal", mu=0.0, sigma=1.0).at(0.5) == 1.0
    assert Bell(name="x", distribution="q_normal", mu=2.2, sigma=1.0, q=1).at(0.5) == 2
    assert Bell(name="x", distribution="q_normal", mu=12.4, sigma=1.0, q=5).at(0.5) == 10


def test_what_a_bell_can_give() -> None:
    steps, positive = (Bell(name="x", distribution="q_normal", q=5), Bell(name="x", distribution="log_normal"))
    assert [steps.contains(value) for value in (-10, 10.0, 12, "10", True, None)] == [True, True] + [False] * 4
    assert [positive.contains(value) for value in (0.3, -0.3)] == [True, False]
    assert steps.spec() == {"distribution": "q_normal", "mu": 0.0, "sigma": 1.0, "q": 5}
    assert positive.spec() == {"distribution": "log_normal", "mu": 0.0, "sigma": 1.0}


def test_a_configuration_is_in_a_space_with_all_its_parameters_or_not_at_all() -> None:
    pair = Categorical(name="rouge_weights", options=((0.3, 0.7),))
    space = Space(parameters=(pair, Constant(name="seed", value=1)))
    assert space.contains({"rouge_weights": [0.3, 0.7], "seed": 1})
    assert not space.contains({"rouge_weights": [0.3, 0.8], "seed": 1})
    assert not space.contains({"rouge_weights": [0.3, 0.7], "seed": 2})
    assert not space.contains({"rouge_weights": [0.3, 0.7]})
    assert (space["seed"], "seed" in space, "dropout" in space) == (Constant(name="seed", value=1), True, False)


def test_one_is_not_true_but_it_is_one_point_nought() -> None:
    parameter = Categorical(name="x", options=(1, None, (0.3, 0.7)))
    assert parameter.contains(1.0)
    assert parameter.contains([0.3, 0.7])
    assert not parameter.contains(True)


def test_an_unlikely_value_of_probability_nought_never_comes() -> None:
    parameter = Categorical(name="x", options=("a", "b", "c"), probabilities=(0.0, 1.0, 0.0))
    assert {parameter.at(step / 10) for step in range(10)} == {"b"}


def test_the_size_of_a_space() -> None:
    beams = Categorical(name="num_beams", options=(1, 2, 4))
    epochs = Range(name="num_epochs", distribution="int_uniform", low=2, high=5)
    rate = Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-4)
    seed = Constant(name="seed", value=1)
    assert Space(parameters=(beams, epochs, seed)).size == 12
    assert Space(parameters=(beams, rate)).size is None
    assert Space(parameters=(beams, seed)).searched == (beams,)
    assert next(iter(Space(parameters=(beams, epochs)).grid())) == {"num_beams": 1, "num_epochs": 2}


def test_a_space_is_written_as_a_sweep_file_writes_it() -> None:
    space = Space(
        parameters=(
            Constant(name="seed", value=1),
            Categorical(name="num_beams", options=(1, 4), probabilities=(0.5, 0.5)),
            Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-4),
        )
    )
    assert space.spec() == {
        "seed": {"value": 1},
        "num_beams": {"values": [1, 4], "probabilities": [0.5, 0.5]},
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-4},
    }
