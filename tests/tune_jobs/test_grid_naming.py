"""Trials that are known beforehand, and what they are called."""

import dataclasses
from datetime import datetime
from pathlib import Path

import pytest

from dialsum.config import RunConfig
from tune_jobs.config.naming import trial_name
from tune_jobs.config.rules import Rules
from tune_jobs.config.sections import SearchOptions
from tune_jobs.config.space import Categorical, Range, Space
from tune_jobs.config.sweep import Sweep
from tune_jobs.search.grid import planned_trials, sampled_configs
from tuning_common.errors import RequestError

BEAMS = Categorical(name="num_beams", options=(1, 2, 4))
EPOCHS = Range(name="num_epochs", distribution="int_uniform", low=1, high=4)
RATE = Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-3)


def sweep_of(*parameters: Categorical | Range, method: str = "random", count: int | None = None) -> Sweep:
    return Sweep(
        name="a",
        source="a.yaml",
        method=method,
        space=Space(parameters=parameters),
        count=count,  # type: ignore[arg-type]
    )


def test_a_grid_is_complete_and_in_order() -> None:
    configs = sampled_configs(sweep_of(BEAMS, EPOCHS, method="grid"))
    assert len(configs) == 12
    assert configs[0] == {"num_beams": 1, "num_epochs": 1}
    assert configs[1] == {"num_beams": 1, "num_epochs": 2}
    assert configs[-1] == {"num_beams": 4, "num_epochs": 4}


def test_a_part_of_a_grid_is_spread_over_it_and_no_walk_through_it() -> None:
    wide = [
        Range(name=name, distribution="int_uniform", low=1, high=100) for name in ("num_beams", "num_epochs", "seed")
    ]
    configs = sampled_configs(sweep_of(*wide, *[EPOCHS] * 20, method="grid", count=50))
    assert len({str(config) for config in configs}) == 50
    assert len({config["num_beams"] for config in configs}) > 25


def test_a_seed_repeats_a_random_search_and_a_larger_count_only_adds() -> None:
    few, many = (sampled_configs(sweep_of(RATE, BEAMS, count=count)) for count in (5, 9))
    assert many[:5] == few
    other = dataclasses.replace(sweep_of(RATE, BEAMS, count=5), search=SearchOptions(seed=1))
    assert sampled_configs(other) == sampled_configs(other) != few


def test_a_random_search_takes_every_configuration_of_a_small_space_once() -> None:
    rare = Categorical(name="seed", options=(1, 2), probabilities=(1.0, 0.0))
    configs = sampled_configs(sweep_of(BEAMS, rare, count=20))
    assert len({str(config) for config in configs}) == len(configs) == 6


def test_planned_trials_are_resolved_and_all_that_cannot_run_are_told() -> None:
    batches = Categorical(name="batch_size", options=(8, 12))
    pieces = Categorical(name="gradient_accumulation_steps", options=(1, 8))
    with pytest.raises(RequestError) as caught:
        planned_trials(sweep_of(batches, pieces, method="grid"))
    assert caught.value.problems == (
        "trial {batch_size: 12, gradient_accumulation_steps: 8}: 1 problem: "
        "gradient_accumulation_steps must divide batch_size 12, but is 8",
    )
    assert [trial.resolved.batch_size for trial in planned_trials(sweep_of(batches, method="grid"))] == [8, 12]


def test_names_are_unique_within_a_sweep_and_safe_as_folders() -> None:
    started = datetime(2026, 1, 2, 3, 4)
    config = RunConfig(model="./my models/t5 base", learning_rate=0.00123, batch_size=8)
    first = trial_name("s", config, started)
    assert first == "s_t5-base_lr1e-03_bs8_0102_0304"
    assert trial_name("s", config, started, taken=[first]) == "s_t5-base_lr1e-03_bs8_0102_0304_2"
    assert Path(first).name == first


def test_rules_are_applied_to_planned_trials() -> None:
    sweep = dataclasses.replace(
        sweep_of(Categorical(name="batch_size", options=(16, 64)), method="grid"),
        rules=Rules(scale_learning_rate_from_batch=16),
        base=RunConfig(learning_rate=1e-4),
    )
    assert [trial.resolved.learning_rate for trial in planned_trials(sweep)] == [1e-4, 2e-4]
