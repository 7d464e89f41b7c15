"""Each guard rail on a sweep that needs it and on one beside it that does not."""

import dataclasses

import pytest

from dialsum.config import RunConfig
from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.rules import Rules
from tune_jobs.config.sections import Metric, Resources
from tune_jobs.config.space import Categorical, Constant, Parameter, Range, Space
from tune_jobs.config.sweep import Phase, Sweep
from tune_jobs.planning.guard_rails import KnownFacts, warnings

RATE = Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-4)


def sweep_of(*parameters: Parameter, **changes: object) -> Sweep:
    sweep = Sweep(
        name="a",
        source="a.yaml",
        method="random",
        count=40,
        space=Space(parameters=parameters),
        base_files={"": "base.yaml"},
    )
    return dataclasses.replace(sweep, **changes)  # type: ignore[arg-type]


def rails(sweep: Sweep, facts: KnownFacts | None = None) -> list[str]:
    return [remark.rail for remark in warnings(sweep, facts)]


def test_a_sound_sweep_gets_no_remark() -> None:
    sound = sweep_of(RATE, Categorical(name="batch_size", options=(8, 16)))
    assert rails(sound, KnownFacts(trial_s=60, slots=2, train_examples=10_000, evaluations=10)) == []


def test_a_file_that_names_no_model_or_data_is_told_which_samples_it_uses() -> None:
    bare = sweep_of(RATE, base_files={})
    (remark,) = warnings(bare)
    assert remark.rail == "sample_model_or_data"
    assert "the toy model tiny-bart and the sample dialogues outputs/sample_data/train.jsonl" in remark.message
    assert remark.better.startswith("base_config: configs/kobart.yaml")
    model = Constant(name="model", value="kobart")
    (data_only,) = warnings(sweep_of(RATE, model, base_files={}))
    assert "no parameter train_file, so every trial uses the sample dialogues" in data_only.message
    data = Constant(name="train_file", value="mine.jsonl")
    assert rails(sweep_of(RATE, model, data, base_files={})) == []
    assert rails(dataclasses.replace(bare, trained_model="outputs/experiments/best")) == []


def test_three_to_the_seventh() -> None:
    names = (
        "num_epochs",
        "seed",
        "num_beams",
        "warmup_ratio",
        "weight_decay",
        "label_smoothing",
        "no_repeat_ngram_size",
    )
    grid = sweep_of(*[Categorical(name=name, options=(1, 2, 3)) for name in names], method="grid", count=None)
    (remark,) = warnings(grid)
    assert remark.rail == "exploding_grid"
    assert "3 x 3 x 3 x 3 x 3 x 3 x 3 = 2,187 configurations, of which 2,187 would run" in remark.message
    assert "method random with count 40" in remark.better
    assert rails(dataclasses.replace(grid, count=100)) == []


@pytest.mark.parametrize(
    ("distribution", "low", "high", "found"),
    [
        ("uniform", 1e-6, 1e-2, ["linear_range_of_decades"]),
        ("uniform", 1e-5, 1e-2, []),
        ("uniform", 0.0, 1e-2, []),
        ("log_uniform_values", 1e-6, 1e-2, []),
        ("log_uniform_values", 1e-9, 1e-2, ["too_many_decades"]),
    ],
)
def test_ranges_of_decades(distribution: str, low: float, high: float, found: list[str]) -> None:
    rate = Range(name="learning_rate", distribution=distribution, low=low, high=high)  # type: ignore[arg-type]
    assert rails(sweep_of(rate)) == found


def test_a_learning_rate_over_too_many_decades_is_given_the_model_s_usual_range() -> None:
    rate = Range(name="learning_rate", distribution="log_uniform_values", low=1e-9, high=1e-1)
    models = Categorical(name="model", options=("kobart", "mt5"))
    (remark,) = warnings(sweep_of(rate, models))
    assert remark.better.startswith("start with 1e-05 to 0.001")


def test_whole_bounds_of_a_fraction() -> None:
    assert rails(sweep_of(Range(name="dropout", distribution="int_uniform", low=0, high=1), count=2)) == [
        "whole_numbers_of_a_fraction"
    ]
    assert rails(sweep_of(Range(name="no_repeat_ngram_size", distribution="int_uniform", low=0, high=1), count=2)) == []


def test_a_fixed_batch_that_is_too_large() -> None:
    assert rails(sweep_of(RATE, Constant(name="batch_size", value=256))) == ["oversized_batch"]
    assert rails(sweep_of(RATE, base=RunConfig(batch_size=32)), KnownFacts(train_examples=500)) == ["oversized_batch"]
    assert rails(sweep_of(RATE, base=RunConfig(batch_size=32)), KnownFacts(train_examples=5000)) == []
    assert rails(sweep_of(RATE, Categorical(name="batch_size", options=(16, 256)))) == []


@pytest.mark.parametrize(("name", "goal"), [("eval/loss", "minimize"), ("eval/rougeL_f1", "maximize")])
def test_a_single_metric_where_the_composite_exists(name: str, goal: str) -> None:
    assert rails(sweep_of(RATE, metric=Metric(name=name, goal=goal))) == ["single_metric"]  # type: ignore[arg-type]
    assert rails(sweep_of(RATE, metric=Metric(name="best/rouge_combined_f1"))) == []


def test_parameters_that_nobody_reads() -> None:
    penalty = Range(name="length_penalty", distribution="uniform", low=0.5, high=1.5)
    beams = Categorical(name="num_beams", options=(1, 4))
    tiny = Categorical(name="tiny_layers", options=(1, 2))
    assert rails(sweep_of(penalty)) == ["read_by_nobody"]
    assert rails(sweep_of(penalty, beams)) == []
    assert rails(sweep_of(penalty, rules=Rules(set={"num_beams": "4"}))) == []
    assert rails(sweep_of(RATE, tiny, base=RunConfig(model="kobart"))) == ["read_by_nobody"]
    assert rails(sweep_of(RATE, tiny)) == []
    assert rails(sweep_of(RATE, Categorical(name="num_epochs", options=(1, 2)), base=RunConfig(max_steps=9))) == [
        "read_by_nobody"
    ]


def test_a_searched_parameter_that_a_rule_overwrites() -> None:
    beams = Categorical(name="num_beams", options=(1, 4))
    assert rails(sweep_of(RATE, beams, rules=Rules(set={"num_beams": 2}))) == ["overwritten_by_a_rule"]
    assert rails(sweep_of(RATE, beams, rules=Rules(set={"num_beams": "num_beams + 1"}))) == []


def test_counts_that_do_not_fit() -> None:
    beams = Categorical(name="num_beams", options=(1, 4))
    assert rails(sweep_of(beams)) == ["fewer_configurations"]
    assert rails(sweep_of(RATE, method="bayes", count=12)) == ["too_few_trials_for_a_model"]
    assert rails(sweep_of(RATE, method="bayes", count=20)) == []
    assert rails(sweep_of(Constant(name="seed", value=1), method="bayes")) == ["nothing_to_search"]


def test_a_sweep_that_cannot_end_in_its_window() -> None:
    hurried = sweep_of(RATE, resources=Resources(time_budget="1h"), early_terminate=EarlyTerminate(type="none"))
    (remark,) = warnings(hurried, KnownFacts(trial_s=600, slots=2))
    assert remark.message == (
        "40 trials of 10 min 00 s, 2 side by side, need at least 3 h 20 min, but time_budget is 1 h 00 min"
    )
    assert remark.better.startswith("count: 12,")
    assert rails(hurried, KnownFacts(trial_s=600, slots=8)) == []
    assert rails(hurried) == []


def test_early_termination_is_counted_in_the_shortest_time() -> None:
    stopped = sweep_of(RATE, resources=Resources(time_budget="1h"))
    # 40 trials for 1 of 9 evaluations, 13.3 for 2 more, 4.4 to the end: 97.8 of 360 evaluations
    assert rails(stopped, KnownFacts(trial_s=600, slots=2, evaluations=9)) == []
    assert rails(stopped, KnownFacts(trial_s=900, slots=2, evaluations=9)) == ["does_not_end_in_time"]


def test_early_termination_without_a_rung() -> None:
    assert rails(sweep_of(RATE), KnownFacts(evaluations=1)) == ["no_rung"]
    assert rails(sweep_of(RATE, early_terminate=EarlyTerminate(type="none")), KnownFacts(evaluations=1)) == []


def test_a_staged_sweep_says_each_thing_once_and_nothing_of_its_last_phase() -> None:
    rate = Range(name="learning_rate", distribution="uniform", low=1e-7, high=1e-2)
    part = sweep_of(rate)
    phases = tuple(
        Phase(name=kind, kind=kind, sweep=part)
        for kind in ("wide", "narrow", "confirm")  # type: ignore[arg-type]
    )
    assert rails(dataclasses.replace(part, phases=phases)) == ["linear_range_of_decades"]
