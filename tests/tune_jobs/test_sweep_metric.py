"""A sweep by the dev loss: its trials keep, and its files name, the model with the lowest loss."""

import io
import json
from pathlib import Path

import pytest

from dialsum.config import load_run_config
from tests.dialsum.test_trainer import write_data
from tune_jobs.after.hand_over import hand_over
from tune_jobs.analysis.experiments import find_winner_or_one
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.driver.run_sweep import RunOptions, run_sweep
from tune_jobs.driver.view import LogView

SWEEP = """
name: byloss
method: grid
metric: {name: eval/loss}
early_terminate: {type: none}
parameters:
  learning_rate: {values: [1e-5, 1e-2]}
  num_epochs: {value: 8}
  max_train_samples: {value: 12}
  dropout: {value: 0.0}
tracking: {wandb: disabled}
base_config: base.yaml
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_model_with_the_lowest_loss_is_kept_reported_and_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = write_data(tmp_path) | {"batch_size": 4}
    (tmp_path / "base.yaml").write_text(json.dumps(base), encoding="utf-8")
    (tmp_path / "s.yaml").write_text(SWEEP, encoding="utf-8")
    outcome = run_sweep(load_sweep(Path("s.yaml")), RunOptions(cpu_only=True), LogView(io.StringIO()))

    best = outcome.best
    assert best is not None
    losses = [row["eval/loss"] for row in best.history]
    scores = [row["eval/rouge_combined_f1"] for row in best.history]
    lowest = losses.index(min(losses))
    assert lowest != scores.index(max(scores)), "the two metrics choose different evaluations"
    assert best.best_metrics["eval/loss"] == losses[lowest]
    assert best.best_metrics["eval/rouge_combined_f1"] == scores[lowest] < max(scores)
    kept = json.loads((Path(best.model_folder) / "best.json").read_text(encoding="utf-8"))
    assert (kept["best/loss"], kept["best/rouge_combined_f1"]) == (losses[lowest], scores[lowest])

    config = load_run_config(outcome.folder.best_config)
    assert (config.metric, config.goal, config.learning_rate) == ("eval/loss", "minimize", 1e-2)
    report = outcome.folder.report_markdown.read_text(encoding="utf-8")
    assert f"loss {losses[lowest]:.4g}" in report
    winner = find_winner_or_one([str(outcome.folder.path)])
    done = hand_over(winner, tmp_path / "given", None, tmp_path / "cache")
    assert done.folder == tmp_path / "given"
    card = (tmp_path / "given" / "README.md").read_text(encoding="utf-8")
    assert f"| dev, by which it was chosen | {kept['best/rouge1_f1']:.2f} |" in card
    assert "Of all evaluations of the training this one has the lowest eval/loss." in card
