"""A sweep of generation settings on a real Ray: one trained model, the same dialogues, nothing trained again."""

import io
from pathlib import Path

import pytest

from dialsum.config import load_run_config
from dialsum.finished import load_finished, predict, score, score_metrics
from dialsum.sample_data.generate import generate
from dialsum.trainer import train
from tests.tune_jobs.tiny import tiny_config, write_dialogues
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.driver.run_sweep import RunOptions, run_sweep
from tune_jobs.driver.trained_model import trained_experiment
from tune_jobs.driver.view import LogView
from tuning_common.errors import RequestError
from tuning_common.files import read_jsonl

SWEEP = """
name: beams
method: grid
trained_model: {trained}
parameters:
  num_beams: {{values: [1, 2]}}
  no_repeat_ngram_size: {{values: [0, 2]}}
  max_eval_samples: {{value: 3}}
tracking: {{wandb: disabled}}
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_trained_model_is_scored_with_every_setting_and_never_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dialogues(tmp_path, dev_count=5)
    train(tiny_config(tmp_path, num_epochs=1, decoder_max_len=12), tmp_path / "one", cache_dir=tmp_path / "cache")
    (tmp_path / "train.jsonl").unlink()  # a trained model is enough
    config = tmp_path / "one" / "config.yaml"  # as if several processes had shared it
    config.write_text(config.read_text().replace("fsdp: false", "fsdp: true"))
    assert load_run_config(config).fsdp
    weights = (tmp_path / "one/models/best_model/model.safetensors").read_bytes()
    (tmp_path / "beams.yaml").write_text(SWEEP.format(trained="one"))

    outcome = run_sweep(load_sweep(tmp_path / "beams.yaml"), RunOptions(simulate="1x24GiB"), LogView(io.StringIO()))
    records = outcome.folder.load().trials
    assert [record.status for record in records] == ["finished"] * 4
    assert all(len(record.history) == 1 for record in records)
    assert {record.name.split("_")[1] for record in records} == {"beams1", "beams2"}
    best = outcome.best
    assert best is not None
    assert best.resolved["model"] == str(tmp_path / "one/models/best_model")
    found = read_jsonl(Path(best.experiment_dir) / "predictions.jsonl")[0]
    run = load_finished(tmp_path / "one", tmp_path / "cache", dict(best.sampled))
    examples = generate(seed=0, train_count=24, dev_count=5)[1][:3]
    texts = predict(run, examples)
    assert [row["prediction"] for row in found] == texts
    mine = score_metrics(score(run, examples, texts), run.config)
    assert best.best_metrics["eval/rouge_combined_f1"] == pytest.approx(mine["rouge_combined_f1"])
    assert (tmp_path / "one/models/best_model/model.safetensors").read_bytes() == weights
    assert not list(tmp_path.glob("outputs/experiments/*/models")), "no weights are written"
    assert not outcome.folder.next_sweep.exists(), "every setting was tried"
    report = outcome.folder.report_markdown.read_text()
    assert "python -m dialsum generate --run one" in report
    assert "the model is in one/models/best_model" in report

    assert trained_experiment(outcome.folder.path).path == tmp_path / "one", "a further search shares the model"


def test_what_is_no_trained_model_is_refused_with_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"neither a finished sweep \(no all_results\.jsonl\) nor an experiment"):
        trained_experiment(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(RequestError, match=r"has no trained model: .*config\.yaml is not there"):
        trained_experiment(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("base_config: configs/tiny.yaml", "base_config has no meaning beside trained_model"),
        ("resources: {gpus_per_trial: 2}", "several GPUs train together, and nothing is trained beside trained_model"),
        ("metric: {name: eval/loss}", "generation has no influence on eval/loss; take eval/rouge_combined_f1"),
    ],
)
def test_what_has_no_influence_beside_a_trained_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    path = tmp_path / "beams.yaml"
    path.write_text(SWEEP.format(trained="one") + line + "\n")
    with pytest.raises(RequestError) as raised:
        load_sweep(path)
    assert said in str(raised.value)
