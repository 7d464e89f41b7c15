"""The run configuration: defaults, strict reading, every problem at once, a round trip."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from dialsum.config import FIELD_DESCRIPTIONS, RunConfig, load_run_config
from tuning_common.errors import RequestError


def test_defaults_fit_a_tiny_model_on_a_cpu() -> None:
    config = RunConfig()
    assert (config.model, config.language, config.cpu_threads) == ("tiny-bart", "ko", 1)
    assert (config.encoder_max_len, config.decoder_max_len, config.summary_max_len) == (512, 128, 128)
    assert config.rouge_weights == (0.3, 0.3, 0.4)


def test_micro_batch_times_accumulation_is_the_effective_batch() -> None:
    config = RunConfig(batch_size=24, gradient_accumulation_steps=3)
    assert config.micro_batch * config.gradient_accumulation_steps == 24


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(RequestError) as caught:
        RunConfig(
            learning_rate=float("nan"),
            batch_size=10,
            gradient_accumulation_steps=4,
            dropout=1.0,
            rouge_weights=(0.5, 0.5, 0.5),
            optimizer="adam",  # type: ignore[arg-type]
            tiny_hidden_size=40,
            seed=-1,
        )
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "learning_rate",
        "gradient_accumulation_steps",
        "dropout",
        "optimizer",
        "seed",
        "rouge_weights",
        "tiny_hidden_size",
    ]
    assert "must divide batch_size 10, but is 4" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_epochs", 0), ("warmup_ratio", 1.0), ("label_smoothing", -0.1), ("max_grad_norm", -1.0), ("num_beams", 0)],
)
def test_one_bad_value_is_one_problem(name: str, value: float) -> None:
    with pytest.raises(RequestError) as caught:
        RunConfig().with_changes({name: value})
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(name)


def test_plain_values_go_through_json_and_back() -> None:
    config = RunConfig(model="kobart", dropout=0.2, pin_memory=True, max_steps=7, rouge_weights=(1.0, 0.0, 0.0))
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301 (own bytes: a trial gets its configuration so)


def test_changes_are_checked_like_a_file() -> None:
    with pytest.raises(RequestError, match="unknown key 'learning_rat'; did you mean 'learning_rate'"):
        RunConfig().with_changes({"learning_rat": 1e-4})
    with pytest.raises(RequestError, match="batch_size must be a whole number from 1 to 100000, but is '8'"):
        RunConfig().with_changes({"batch_size": "8"})


def test_every_field_has_a_description_that_ends_as_a_sentence() -> None:
    assert set(FIELD_DESCRIPTIONS) == {field.name for field in dataclasses.fields(RunConfig)}
    assert all(text.endswith(".") and len(text) > 10 for text in FIELD_DESCRIPTIONS.values())


def test_a_file_is_read_and_overrides_win(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: kobart\nlearning_rate: 3e-5\nbatch_size: 32\n")
    config = load_run_config(path, {"batch_size": 64})
    assert (config.model, config.learning_rate, config.batch_size) == ("kobart", 3e-5, 64)


def test_problems_of_a_file_carry_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: kobart\nlerning_rate: 3e-5\nnum_epochs: many\n")
    with pytest.raises(RequestError) as caught:
        load_run_config(path)
    assert caught.value.problems == (
        f"{path}:2: unknown key 'lerning_rate'; did you mean 'learning_rate'?",
        f"{path}:3: num_epochs must be a whole number from 1 to 100000, but is 'many'",
    )


def test_a_value_out_of_range_is_found_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: kobart\nnum_epochs: 0\n")
    with pytest.raises(RequestError) as caught:
        load_run_config(path)
    assert caught.value.problems == (f"{path}:2: num_epochs must be at least 1, but is 0",)


def test_a_bad_override_has_no_line_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: kobart\nnum_epochs: 3\n")
    with pytest.raises(RequestError, match="with num_epochs given beside it") as caught:
        load_run_config(path, {"num_epochs": 0})
    assert caught.value.problems == (f"{path}:1: num_epochs must be at least 1, but is 0",)
