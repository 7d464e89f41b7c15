"""Sweep files that are right: W&B's dialect, our sections, phases."""

from pathlib import Path

import pytest

from dialsum.config import RunConfig
from tune_jobs.config.early_terminate import EarlyTerminate
from tune_jobs.config.sections import Metric
from tune_jobs.config.space import Categorical, Range
from tune_jobs.config.sweep import Sweep
from tune_jobs.config.sweep_file import load_sweep
from tuning_common.errors import RequestError

PARAMETERS = "parameters:\n  learning_rate: {distribution: log_uniform_values, min: 1e-5, max: 1e-4}\n"


def loaded(tmp_path: Path, text: str, name: str = "a.yaml") -> Sweep:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load_sweep(path)


def test_a_file_written_for_wandb_loads_unchanged(tmp_path: Path) -> None:
    sweep = loaded(
        tmp_path,
        """
program: train.py
command: ["${env}", "python", "${program}", "${args}"]
project: dialogues
entity: lab
method: bayes
run_cap: 12
metric: {name: eval/rougeL_f1, goal: maximize}
parameters:
  optimization:
    parameters:
      learning_rate: {distribution: log_uniform_values, min: 1e-5, max: 1e-4}
      batch_size: {values: [8, 16]}
  num_epochs: {min: 1, max: 3}
early_terminate: {type: hyperband, s: 2, eta: 3, max_iter: 27}
""",
    )
    assert (sweep.name, sweep.method, sweep.count, sweep.trials) == ("a", "bayes", 12, 12)
    assert sweep.metric == Metric(name="eval/rougeL_f1", goal="maximize")
    assert sweep.space.parameters == (
        Range(name="learning_rate", distribution="log_uniform_values", low=1e-5, high=1e-4),
        Categorical(name="batch_size", options=(8, 16)),
        Range(name="num_epochs", distribution="int_uniform", low=1, high=3),
    )
    assert sweep.early_terminate.rungs(last=27) == (3, 9)
    assert (sweep.tracking.project, sweep.tracking.entity) == ("dialogues", "lab")
    assert [note.split(": ", 1)[1] for note in sweep.notes] == [
        "program 'train.py' is not run; python -m dialsum train is",
        "command is not run; python -m dialsum train is",
    ]


def test_what_a_file_leaves_out_has_our_defaults(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, f"method: random\ncount: 3\nmetric: {{name: eval/loss}}\n{PARAMETERS}")
    assert sweep.metric.goal == "minimize"
    assert sweep.early_terminate == EarlyTerminate(type="asha")
    assert sweep.base == RunConfig()
    assert (sweep.search.seed, sweep.resources.share, sweep.resources.time_budget_s) == (0, "auto", None)


@pytest.mark.parametrize(("metric", "own", "goal"), [
    ("eval/loss", "eval/loss", "minimize"), ("best/loss", "eval/loss", "minimize"),
    ("best/rougeL_f1", "eval/rougeL_f1", "maximize"),
])  # fmt: skip
def test_trials_choose_their_best_model_by_the_metric_of_the_sweep(
    tmp_path: Path, metric: str, own: str, goal: str
) -> None:
    sweep = loaded(tmp_path, f"method: random\ncount: 3\nmetric: {{name: {metric}}}\n{PARAMETERS}")
    trial = sweep.resolve({"learning_rate": 1e-4}).resolved
    assert (trial.metric, trial.goal) == (own, goal)


@pytest.mark.parametrize("text", ["metric: {values: [eval/loss]}", "goal: {value: minimize}"])
def test_a_trial_cannot_have_a_metric_of_its_own(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError) as refused:
        loaded(tmp_path, f"method: random\ncount: 3\nparameters:\n  {text}\n  num_beams: {{values: [1, 2]}}\n")
    assert "is the same for all trials of a sweep; write `metric: {name: ..., goal: ...}`" in refused.value.problems[0]


@pytest.mark.parametrize(("method", "stop"), [("bohb", "hyperband"), ("pbt", "none"), ("bayes", "asha")])
def test_some_methods_stop_trials_in_their_own_way(tmp_path: Path, method: str, stop: str) -> None:
    assert loaded(tmp_path, f"method: {method}\ncount: 4\n{PARAMETERS}").early_terminate.type == stop


def test_exponents_become_values(tmp_path: Path) -> None:
    sweep = loaded(
        tmp_path,
        "method: random\ncount: 2\nparameters:\n"
        "  learning_rate: {distribution: log_uniform, min: -11.512925, max: -9.210340}\n"
        "  weight_decay: {distribution: inv_log_uniform, min: 2.302585, max: 4.605170}\n",
    )
    rate, decay = sweep.space.parameters
    assert isinstance(rate, Range)
    assert isinstance(decay, Range)
    assert (rate.distribution, decay.distribution) == ("log_uniform_values", "inv_log_uniform_values")
    assert [rate.low, rate.high, decay.low, decay.high] == pytest.approx([1e-5, 1e-4, 0.01, 0.1], rel=1e-5)


def test_a_random_search_has_no_more_trials_than_there_are_configurations(tmp_path: Path) -> None:
    text = "method: random\ncount: 9\nparameters: {num_beams: {values: [1, 2, 4]}, seed: {value: 7}}\n"
    assert loaded(tmp_path, text).trials == 3


def test_each_model_has_its_own_base(tmp_path: Path) -> None:
    for model, length in (("kobart", 512), ("mt5", 384)):
        (tmp_path / f"{model}.yaml").write_text(f"model: {model}\nencoder_max_len: {length}\n")
    sweep = loaded(
        tmp_path,
        f"method: grid\nparameters: {{model: {{values: [kobart, mt5]}}}}\n"
        f"base_config: {{kobart: {tmp_path}/kobart.yaml, mt5: {tmp_path}/mt5.yaml}}\n",
    )
    lengths = [sweep.resolve(config).resolved.encoder_max_len for config in sweep.space.grid()]
    assert lengths == [512, 384]


def test_a_staged_file_has_a_sweep_for_each_phase(tmp_path: Path) -> None:
    sweep = loaded(
        tmp_path,
        f"""name: staged
{PARAMETERS}  num_epochs: {{values: [2, 3]}}
early_terminate: {{type: median}}
phases:
  - name: quick_check
    set: {{max_train_samples: 50}}
  - {{name: wide, count: 12}}
  - {{name: narrow, count: 8, keep_fraction: 0.3, early_terminate: {{type: none}}}}
  - {{name: confirm, winners: 2, seeds: [1, 2]}}
""",
    )
    quick, wide, narrow, confirm = sweep.phases
    assert [phase.sweep.name for phase in sweep.phases] == [
        "staged_quick_check",
        "staged_wide",
        "staged_narrow",
        "staged_confirm",
    ]
    assert [phase.sweep.method for phase in sweep.phases] == ["random", "random", "bayes", "grid"]
    assert [phase.sweep.trials for phase in sweep.phases] == [2, 12, 8, 4]
    assert [phase.sweep.early_terminate.type for phase in sweep.phases] == ["none", "median", "none", "none"]
    assert sweep.trials == 26
    assert [quick.sweep.space[name].values() for name in ("num_epochs", "max_train_samples", "max_eval_samples")] == [
        (1,),
        (50,),
        (200,),
    ]
    assert wide.sweep.space == sweep.space
    assert (narrow.keep_fraction, confirm.winners, confirm.seeds) == (0.3, 2, (1, 2))


def test_a_phase_can_stand_in_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text(f"name: far\nmethod: random\ncount: 5\n{PARAMETERS}")
    sweep = loaded(tmp_path, f"{PARAMETERS}phases: [{{name: wide, file: {tmp_path}/wide.yaml}}]\n")
    assert (sweep.phases[0].sweep.name, sweep.phases[0].sweep.count) == ("far", 5)


def test_a_wrong_phase_file_is_told_by_its_own_lines(tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text(f"metod: random\n{PARAMETERS}")
    with pytest.raises(RequestError) as caught:
        loaded(tmp_path, f"{PARAMETERS}phases: [{{name: wide, file: {tmp_path}/wide.yaml}}]\n")
    assert caught.value.problems[0] == f"{tmp_path}/wide.yaml:1: unknown key 'metod'; did you mean 'method'?"


def test_a_contradiction_is_told_beside_an_unknown_key_and_once(tmp_path: Path) -> None:
    section = "resources: {cpus: 2, gpus_per_trial: 1, spread: true}\n"
    with pytest.raises(RequestError) as caught:
        loaded(tmp_path, f"method: random\ncount: 3\n{PARAMETERS}{section}")
    assert [text.split(": ", 1)[1][:29] for text in caught.value.problems] == [
        "unknown key 'cpus'; known: sh",
        "resources.spread is for the c",
    ]
