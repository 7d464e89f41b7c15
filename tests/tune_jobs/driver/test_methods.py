"""Every method and every early termination on a real Ray with the real trainer, on tiny budgets."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from tests.tune_jobs.counting import counting_trial
from tests.tune_jobs.tiny import write_dialogues
from tests.waiting import tail, wait_until
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.driver.run_sweep import RunOptions, run_sweep
from tune_jobs.driver.sweep_end import SweepOutcome
from tune_jobs.driver.view import LogView
from tune_jobs.records.journal import Journal
from tune_jobs.records.ledger import TrialRecord
from tune_jobs.search.early_stopping import EVALUATION, EarlyStopping
from tune_jobs.search.tune_schedulers import scheduler_for
from tuning_common.files import read_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).resolve().parents[3]
SWEEP = """
name: {name}
method: {method}
count: {count}
parameters:
  learning_rate: {{distribution: log_uniform_values, min: 1e-4, max: 1e-1}}
  batch_size: {{values: [4, 8]}}
  train_file: {{value: train.jsonl}}
  dev_file: {{value: dev.jsonl}}
  num_epochs: {{value: 4}}
  decoder_max_len: {{value: 12}}
  encoder_max_len: {{value: 48}}
  tiny_hidden_size: {{value: 16}}
  tiny_layers: {{value: 1}}
  tiny_vocab_size: {{value: 400}}
metric: {{name: eval/loss, goal: minimize}}
early_terminate: {stop}
search: {search}
resources: {{max_concurrent_trials: {at_once}}}
tracking: {{wandb: disabled}}
"""


def swept(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, method: str, stop: str, count: int) -> SweepOutcome:
    monkeypatch.chdir(folder)
    write_dialogues(folder)
    search = "{seed: 3}" if method == "random" else "{seed: 3, startup_trials: 3}"
    path = folder / f"{name}.yaml"
    # W&B's rule depends on who comes first, so one after another: the same trials are stopped in every run.
    at_once = 1 if "hyperband" in stop else 2
    path.write_text(SWEEP.format(name=name, method=method, stop=stop, count=count, search=search, at_once=at_once))
    return run_sweep(load_sweep(path), RunOptions(cpu_only=True), LogView(io.StringIO()))


@pytest.mark.parametrize(
    ("method", "stop", "count"),
    [
        ("random", "{type: hyperband, max_iter: 4, s: 2, eta: 2, strict: true}", 6),
        ("random", "{type: median, min_trials: 6}", 6),  # never enough company
        ("bayes", "{type: none}", 7),
        ("bohb", "{type: hyperband, min_iter: 1, eta: 2, strict: true}", 7),
    ],
)
def test_a_method_with_an_early_termination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, stop: str, count: int
) -> None:
    outcome = swept(tmp_path, monkeypatch, "tiny", method, stop, count)
    assert not outcome.interrupted
    assert not Path("outputs/sample_data").exists(), "the sweep has data of its own"
    records = outcome.folder.load().trials
    assert len(records) == count
    assert {record.status for record in records} <= {"finished", "stopped"}
    assert outcome.best is not None
    best = outcome.best.best_metrics["eval/loss"]
    assert best == min(record.best_metrics["eval/loss"] for record in records)
    journal = Journal(outcome.folder.path / "journal.jsonl")
    processes = {trial.attempts[-1]["pid"] for trial in journal.trials.values()}
    assert len(processes) < count, "a warm process serves the next trial"
    stopped = {record.trial_id for record in records if record.status == "stopped"}
    assert stopped == replayed(outcome.folder.path, tmp_path / "tiny.yaml")
    assert bool(stopped) == ("hyperband" in stop), "six learning rates over three decades"
    for record in records:
        assert (len(record.history) < 4) == (record.trial_id in stopped)


def replayed(folder: Path, sweep: Path) -> set[str]:
    """Goes through the journal with a fresh scheduler and returns the trials that it stops."""
    stopping = EarlyStopping(scheduler_for(load_sweep(sweep), last=4, side_by_side=2), seed=3)
    stopped = set()
    for event in Journal(folder / "journal.jsonl").earlier:
        number = cast("int", event["number"])
        if event["event"] == "submitted":
            stopping.add(number, {})
        elif event["event"] == "reported" and cast("int", event["evaluation"]) < 4:  # there it ends by itself
            result = {"eval/loss": event["value"], EVALUATION: event["evaluation"]}
            stopped |= {str(number)} if stopping.report(number, result).decision == "stop" else set()
    return stopped


BRACKETS = """
name: brackets
method: random
count: 12
parameters:
  learning_rate: {distribution: uniform, min: 0.1, max: 1.0}
  train_file: {value: train.jsonl}
  dev_file: {value: dev.jsonl}
  num_epochs: {value: 9}
metric: {name: eval/loss, goal: minimize}
early_terminate: {type: HyperBandScheduler, max_t: 9, reduction_factor: 3}
search: {seed: 3}
tracking: {wandb: disabled}
"""


def scored_by_rate(config: dict[str, object]) -> None:
    """Counts with a score in which large learning rates are bad."""
    counting_trial(config, steps=9, score=lambda spec, step: float(str(spec.sampled["learning_rate"])) / step)


def test_brackets_and_pauses_are_those_of_ray_s_hyperband(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray begins with the bracket that never stops: three trials, then five from 3 evaluations on, the rest from 1 on.

    That the decisions are Ray's for any scores is held without a cluster by tests/tune_jobs/search.
    """
    monkeypatch.chdir(tmp_path)
    write_dialogues(tmp_path)
    Path("brackets.yaml").write_text(BRACKETS)
    options = RunOptions(cpu_only=True, trainable=scored_by_rate)
    outcome = run_sweep(load_sweep(Path("brackets.yaml")), options, LogView(io.StringIO()))
    assert not outcome.interrupted
    records = sorted(outcome.folder.load().trials, key=lambda record: int(record.trial_id))
    journal = Journal(outcome.folder.path / "journal.jsonl")
    ends = [len(record.history) for record in records]
    assert ends[:3] == [9, 9, 9]
    second, third = sorted(records[3:8], key=rate_of), sorted(records[8:], key=rate_of)
    assert [len(record.history) for record in second] == [9, 9, 3, 3, 3], ends
    assert [len(record.history) for record in third] == [9, 3, 3, 1], ends
    paused = [(event["number"], event["reason"]) for event in journal.earlier if event["event"] == "paused"]
    assert {reason for _, reason in paused} == {"HyperBandScheduler paused it"}
    assert {number for number, _ in paused} <= set(range(4, 13))
    assert len(paused) >= 4 + 3, "all but the last of each comparison wait for it"
    assert all(record.retries == 0 for record in records), "a pause is no failure"
    for trial in journal.trials.values():
        assert [number for number, _ in trial.values] == list(range(1, len(trial.values) + 1))


def rate_of(record: TrialRecord) -> float:
    return float(str(record.sampled["learning_rate"]))


POPULATION = """
name: population
method: pbt
count: 4
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-5, max: 1e-2}
  batch_size: {value: 8}
  train_file: {value: train.jsonl}
  dev_file: {value: dev.jsonl}
  num_epochs: {value: 3}
  decoder_max_len: {value: 12}
  encoder_max_len: {value: 48}
  tiny_hidden_size: {value: 16}
  tiny_layers: {value: 1}
  tiny_vocab_size: {value: 400}
metric: {name: eval/loss, goal: minimize}
search: {seed: 3}
resources: {max_concurrent_trials: 2}
tracking: {wandb: disabled}
"""


def killed_after_a_copy(folder: Path) -> None:
    """Runs the population in a driver of its own, and kills that as soon as a trial has another one's weights."""
    journal = folder / "outputs/sweep_results/population/journal.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "tune_jobs", "run", "population.yaml", "--cpu-only"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip

    def alive() -> None:
        assert process.poll() is None, process.communicate()[1]

    wait_until(
        lambda: any(event["event"] == "copied" for event in read_jsonl(journal)[0]),
        "a copy",
        alive=alive,
        known=lambda: tail(journal),
        every_s=0.05,
    )
    process.kill()
    process.communicate()


def test_a_population_copies_weights_and_says_so_also_over_kill_9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dialogues(tmp_path)
    (tmp_path / "population.yaml").write_text(POPULATION)
    killed_after_a_copy(tmp_path)
    again = RunOptions(cpu_only=True, resume=True)
    outcome = run_sweep(load_sweep(Path("population.yaml")), again, LogView(io.StringIO()))
    assert not outcome.interrupted
    records = {int(record.trial_id): record for record in outcome.folder.load().trials}
    assert sorted(records) == [1, 2, 3, 4]
    assert {record.status for record in records.values()} == {"finished"}
    iterations = {number: [row["iteration"] for row in record.history] for number, record in records.items()}
    assert iterations == {number: [1, 2, 3] for number in records}, (outcome.folder.path / "journal.jsonl").read_text()
    copies = {number: record.lineage for number, record in records.items() if record.lineage}
    assert copies
    for number, lineage in copies.items():
        for copy in lineage:
            donor = records[int(str(copy["donor"]))]
            own = records[number].history[int(str(copy["evaluation"])) - 1]
            other = donor.history[int(str(copy["donor_evaluation"])) - 1]
            assert other["eval/loss"] < own["eval/loss"]  # type: ignore[operator]
            assert copy["donor_evaluation"] == copy["evaluation"], "trials take turns, so all are equally far"
        first = lineage[0]["before"]
        assert isinstance(first, dict)
        assert records[number].sampled["learning_rate"] != first["learning_rate"]
        assert records[number].resolved["learning_rate"] == records[number].sampled["learning_rate"]
    assert not list((outcome.folder.path / "population").glob("*")), "no copied weights are left"
