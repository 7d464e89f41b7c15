"""Trials from a list and from a model: seeded, resumable, and unaffected by an out-of-memory."""

import math

import pytest

from tune_jobs.config.space import Bell, Categorical, Constant, Range, Space, Value
from tune_jobs.search.samplers import CompletedTrial, ListSampler, Sampled, TpeSampler

SPACE = Space(
    parameters=(
        Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-1),
        Range(name="warmup_ratio", distribution="q_uniform", low=0.0, high=0.2, q=0.05),
        Range(name="num_epochs", distribution="int_uniform", low=1, high=4),
        Categorical(name="batch_size", options=(8, 16, 32)),
        Categorical(name="rouge_weights", options=((0.5, 0.0, 0.5), (0.3, 0.3, 0.4))),
        Bell(name="weight_decay", distribution="normal", mu=0.1, sigma=0.01),
        Constant(name="model", value="tiny-bart"),
    )
)


def score(sampled: Sampled) -> float:
    rate = sampled["learning_rate"]
    assert isinstance(rate, float)
    return -abs(math.log10(rate) + 3) + (0.5 if sampled["batch_size"] == 16 else 0.0)


def tpe(count: int, seed: int = 0, **options: object) -> TpeSampler:
    pytest.importorskip("optuna")
    return TpeSampler(SPACE, count, goal="maximize", seed=seed, startup_trials=5, **options)  # type: ignore[arg-type]


def test_a_list_is_suggested_in_its_order_and_then_nothing() -> None:
    sampler = ListSampler([{"num_beams": 1}, {"num_beams": 4}])
    assert sampler.total == 2
    assert [sampler.suggest(number) for number in (2, 1, 3)] == [{"num_beams": 4}, {"num_beams": 1}, None]


def test_the_model_suggests_valid_values_repeats_itself_and_beats_chance() -> None:
    def run(seed: int) -> list[Sampled]:
        sampler, tried = tpe(40, seed), []
        for number in range(1, 41):
            sampled = sampler.suggest(number)
            assert sampled is not None
            tried.append(sampled)
            sampler.observe(number, CompletedTrial(sampled=sampled, outcome="finished", value=score(sampled), step=3))
        assert sampler.suggest(41) is None
        return tried

    tried = run(0)
    assert tried == run(0)
    assert all(SPACE.contains(sampled) for sampled in tried)
    early, late = tried[:10], tried[-10:]
    assert sum(map(score, late)) / 10 > sum(map(score, early)) / 10 + 0.3


def test_several_at_a_time_are_different_and_may_end_in_any_order() -> None:
    sampler = tpe(12)
    tried: dict[int, Sampled] = {}
    for number in range(1, 13):
        sampled = sampler.suggest(number)
        assert sampled is not None
        tried[number] = sampled
        if number % 3 == 0:
            for ended in (number, number - 2):
                sampler.observe(
                    ended, CompletedTrial(sampled=tried[ended], outcome="stopped", value=score(tried[ended]), step=1)
                )
    assert len({repr(sampled) for sampled in tried.values()}) == 12


def test_a_warm_start_tries_the_given_points_first() -> None:
    point: dict[str, Value] = {
        "learning_rate": 2e-3,
        "warmup_ratio": 0.15,
        "num_epochs": 2,
        "batch_size": 32,
        "rouge_weights": (0.3, 0.3, 0.4),
        "weight_decay": 0.1125,
        "model": "tiny-bart",
    }
    first = tpe(3, points=[point]).suggest(1)
    assert first is not None
    assert first["weight_decay"] == pytest.approx(0.1125)
    assert {name: value for name, value in first.items() if name != "weight_decay"} == {
        name: value for name, value in point.items() if name != "weight_decay"
    }


def test_results_of_an_earlier_process_count_and_an_out_of_memory_does_not() -> None:
    good: dict[str, Value] = dict(tpe(1).suggest(1) or {})

    def fifth_after(outcome: str, value: float | None) -> Sampled | None:
        sampler = tpe(30, seed=7)
        for number in range(1, 11):
            sampled = dict(good) | {"learning_rate": 10.0 ** (-1 - number / 3)}
            completed = CompletedTrial(sampled=sampled, outcome="finished", value=score(sampled), step=3)
            sampler.observe(number, completed)
        sampler.observe(11, CompletedTrial(sampled=good, outcome=outcome, value=value, step=1))  # type: ignore[arg-type]
        return sampler.suggest(12)

    assert fifth_after("out_of_memory", None) == fifth_after("out_of_memory", 99.0)
    assert fifth_after("finished", 99.0) != fifth_after("out_of_memory", 99.0)
    assert fifth_after("failed", None) is not None
