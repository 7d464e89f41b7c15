"""The best model and early stopping follow the run's metric, whatever it is."""

import json
from pathlib import Path

import pytest

from dialsum.config import RunConfig
from dialsum.reporter import RecordingReporter
from tests.dialsum.test_trainer import run
from tuning_common.errors import RequestError

LOSS = {"metric": "eval/loss", "goal": "minimize"}
# Few dialogues and a high rate: from the fourth evaluation on the loss still falls, but the summaries get no better.
OVERFITTED = {"max_train_samples": 12, "batch_size": 4, "learning_rate": 1e-2, "dropout": 0.0, "num_epochs": 8}


def best_row(history: list[dict[str, float]], name: str, *, lowest: bool) -> dict[str, float]:
    return min(history, key=lambda row: row[name] if lowest else -row[name])


def test_the_best_model_is_the_one_with_the_best_metric(tmp_path: Path) -> None:
    reporter = RecordingReporter()
    by_rouge = run(tmp_path, "rouge", **OVERFITTED)
    by_loss = run(tmp_path, "loss", reporter=reporter, **OVERFITTED, **LOSS)
    assert [row["eval/loss"] for row in by_loss.history] == [row["eval/loss"] for row in by_rouge.history]
    lowest = best_row(by_loss.history, "eval/loss", lowest=True)
    highest = best_row(by_loss.history, "eval/rouge_combined_f1", lowest=False)
    assert lowest["train/global_step"] > highest["train/global_step"], "the two metrics choose different evaluations"
    assert by_loss.best_metrics["best/global_step"] == lowest["train/global_step"]
    assert by_rouge.best_metrics["best/global_step"] == highest["train/global_step"]
    assert reporter.reports[-1]["best/loss"] == lowest["eval/loss"]
    assert json.loads((tmp_path / "loss" / "metrics.json").read_text())["best"]["best/loss"] == lowest["eval/loss"]
    weights = [(one.best_model_dir / "model.safetensors").read_bytes() for one in (by_loss, by_rouge)]
    assert weights[0] != weights[1]


def test_early_stopping_and_its_threshold_follow_the_metric(tmp_path: Path) -> None:
    stopping = {**OVERFITTED, "early_stopping_patience": 2}
    by_rouge = run(tmp_path, "rouge", **stopping)
    by_loss = run(tmp_path, "loss", **stopping, **LOSS)
    assert len(by_rouge.history) < len(by_loss.history) == 8, "the loss still falls where ROUGE no longer rises"
    strict = run(tmp_path, "strict", **stopping, **LOSS, early_stopping_threshold=10.0)
    assert len(strict.history) == 3, "no fall of the loss is as large as the threshold"


def test_a_metric_that_no_evaluation_reports_is_refused() -> None:
    with pytest.raises(RequestError) as unknown:
        RunConfig(metric="accuracy")
    assert unknown.value.problems[0].startswith("metric 'accuracy' is reported by no evaluation; known: eval/loss, ")
    with pytest.raises(RequestError) as worst:
        RunConfig(metric="eval/loss")
    assert worst.value.problems == ("goal 'maximize' would choose the worst model by eval/loss; write goal: minimize",)
