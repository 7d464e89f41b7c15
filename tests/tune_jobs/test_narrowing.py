"""What the box of the best trials looks like in cases that a person can check by hand."""

import pytest

from tune_jobs.config.parameters import show_value
from tune_jobs.config.space import Bell, Categorical, Constant, Range, Space, Value
from tune_jobs.search.narrowing import Box, Tried, narrow

RATE = Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-3)


def tried(name: str, *pairs: tuple[Value, float | None]) -> list[Tried]:
    return [Tried(sampled={name: value}, score=score) for value, score in pairs]


def rates(*pairs: tuple[float, float | None], **options: float) -> Box:
    return narrow(tried("learning_rate", *pairs), Space(parameters=(RATE,)), **options)  # type: ignore[arg-type]


def ends(box: Box, name: str = "learning_rate") -> tuple[float, float]:
    one = box.space[name]
    assert isinstance(one, Range)
    return one.low, one.high


def test_margins_are_factors_on_a_logarithmic_axis() -> None:
    box = rates((3e-5, 9), (1e-4, 10), (3e-4, 9), (1e-5, 1), (1e-3, 1), margin=0.3)
    low, high = ends(box)
    assert (low, high) == (pytest.approx(1.5e-5, rel=0.01), pytest.approx(6e-4, rel=0.01))
    assert box.summary == "the best 3 of 5 trials"


def test_the_end_opens_where_the_very_best_trial_lies_at_it() -> None:
    box = rates((9.9e-4, 10), (5e-4, 9), (3e-4, 8), (1e-5, 1), margin=0.1)
    low, high = ends(box)
    assert high == pytest.approx(1e-3 * 100**0.1, rel=0.01)
    assert low == pytest.approx(3e-4 / 100**0.05, rel=0.01)
    assert box.reasons["learning_rate"].endswith("max: the very best trial lies at the end 1e-3, so it is opened")


def test_an_end_beyond_which_no_run_accepts_a_value_stays() -> None:
    dropout = Range(name="dropout", distribution="uniform", low=0.0, high=0.3)
    box = narrow(tried("dropout", (0.0, 5), (0.02, 4), (0.04, 3), (0.3, 1)), Space(parameters=(dropout,)))
    assert ends(box, "dropout") == (0.0, 0.055)
    assert box.reasons["dropout"].startswith("min: the very best trial lies at the end 0, beyond which no run accepts")


def test_too_few_trials_or_ties_cut_nothing_and_say_so() -> None:
    assert ends(rates((1e-4, 10))) == (1e-5, 1e-3)
    assert rates((1e-4, 10)).reasons["learning_rate"] == "kept: one trial tells nothing about it"
    tied = rates((1e-4, 10), (2e-4, 10.2), (3e-4, 9.9), (4e-4, 9.8), (5e-4, 10.1), noise=0.5)
    assert ends(tied) == (1e-5, 1e-3)
    assert tied.reasons["learning_rate"] == "kept: all 5 trials are among the best"
    assert tied.summary == "the best 3 of 5 trials, and 2 more that tie with the very best (noise 0.5)"
    assert rates((1e-4, None), (2e-4, None)).reasons["learning_rate"] == "kept: no trial has a score"


def test_a_training_that_broke_down_is_the_worst() -> None:
    box = rates((1e-4, 10), (2e-4, 9), (3e-4, 8), (9e-4, None))
    assert [show_value(one.sampled["learning_rate"]) for one in box.best] == ["1e-4", "2e-4", "3e-4"]
    assert ends(box)[1] < 4e-4


def test_a_low_loss_is_good() -> None:
    trials = tried("learning_rate", (1e-4, 1.0), (2e-4, 1.1), (3e-4, 1.2), (9e-4, 4.0))
    assert narrow(trials, Space(parameters=(RATE,)), goal="minimize").best[0].score == 1.0


def test_a_category_goes_only_on_evidence() -> None:
    batch = Categorical(name="batch_size", options=(8, 16, 32, 64), probabilities=(0.25, 0.25, 0.4, 0.1))
    pairs = [(8, 20.0 + i) for i in range(6)] + [(16, 10.0 + i) for i in range(6)] + [(32, 9.0 - i) for i in range(11)]
    box = narrow(tried("batch_size", *pairs, (64, 1.0)), Space(parameters=(batch,)))
    left = box.space["batch_size"]
    assert isinstance(left, Categorical)
    assert left.options == (8, 64)
    assert left.probabilities == (pytest.approx(0.25 / 0.35), pytest.approx(0.1 / 0.35))
    assert box.reasons["batch_size"].split("\n") == [
        "8 kept: 6 of the best 6 have it",
        "16 left out: none of its 6 trials is among the best 6 (by chance 14%)",
        "32 left out: none of its 11 trials is among the best 6 (by chance 1%)",
        "64 kept: 1 trial with it say too little (by chance 75%)",
    ]


def test_seeds_are_noise_and_constants_stay() -> None:
    space = Space(parameters=(Categorical(name="seed", options=(7, 8)), Constant(name="num_beams", value=4)))
    trials = [Tried(sampled={"seed": 7 + place % 2, "num_beams": 4}, score=float(place)) for place in range(8)]
    box = narrow(trials, space)
    assert box.space["seed"] == Constant(name="seed", value=7)
    assert box.space["num_beams"] == space["num_beams"]


def test_a_bell_becomes_the_range_of_the_best() -> None:
    bell = Bell(name="weight_decay", distribution="normal", mu=0.1, sigma=0.05)
    box = narrow(tried("weight_decay", (0.0, 9), (0.05, 8), (0.1, 7), (0.3, 1)), Space(parameters=(bell,)))
    one = box.space["weight_decay"]
    assert isinstance(one, Range)
    assert (one.distribution, one.low, one.high) == ("uniform", 0.0, 0.11)


def test_steps_and_whole_numbers_stay_what_they_are() -> None:
    epochs = Range(name="num_epochs", distribution="int_uniform", low=1, high=30)
    warmup = Range(name="warmup_ratio", distribution="q_uniform", low=0.0, high=0.5, q=0.05)
    trials = [
        Tried(sampled={"num_epochs": 10 + place, "warmup_ratio": 0.1 + 0.05 * (place % 2)}, score=-float(place))
        for place in range(12)
    ]
    box = narrow(trials, Space(parameters=(epochs, warmup)))
    assert (ends(box, "num_epochs"), ends(box, "warmup_ratio")) == ((8, 14), (0.05, 0.2))
