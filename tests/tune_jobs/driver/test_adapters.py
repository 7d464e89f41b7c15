"""A LoRA sweep on a tiny Qwen3 on a real Ray, over a killed process, to the merged model of its winner."""

import io
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from dialsum.__main__ import main as dialsum
from dialsum.finished import load_finished
from tests.dialsum.test_training_invariants import small_run
from tests.dialsum.tiny_bases import tiny_base
from tests.tune_jobs.driver.test_recovered import KillingDevice
from tests.tune_jobs.linear_devices import LinearDevice
from tune_jobs.__main__ import main as tune_jobs
from tune_jobs.config.sweep_file import load_sweep
from tune_jobs.driver.run_sweep import RunOptions, run_sweep
from tune_jobs.driver.view import LogView
from tune_jobs.records.trial_spec import RunShape, TrialSpec
from tune_jobs.trial.run_trial import run_trial
from tuning_common.files import read_jsonl

SWEEP = """
name: ranks
method: grid
base_config: base.yaml
parameters:
  adapter.r: {values: [2, 4]}
resources: {simulate: 1x24GiB}
tracking: {wandb: disabled}
"""
BASE = """
model: base
prompt: chat
adapter: {type: lora, alpha: 16, target_modules: [q_proj, v_proj]}
train_file: train.jsonl
dev_file: dev.jsonl
batch_size: 8
learning_rate: 2e-2
num_epochs: 2
decoder_max_len: 24
generation_max_len: 6
"""


def device_of(spec: TrialSpec, shape: RunShape) -> LinearDevice | KillingDevice:
    """Kills the process of rank 4 once, after its first evaluation."""
    killed = spec.sampled["adapter_r"] == 4
    return KillingDevice(folder=Path(spec.folder)) if killed else LinearDevice(fixed_bytes=2**30)


def trial(config: dict[str, object]) -> None:
    """A trial whose device stands in for its card."""
    run_trial(config, device_of)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_of_ranks_ends_in_a_merged_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_base(tmp_path / "base", "qwen3", small_run(tmp_path), chat=True)
    Path("base.yaml").write_text(BASE)
    Path("ranks.yaml").write_text(SWEEP)
    shown = io.StringIO()
    folder = run_sweep(load_sweep(Path("ranks.yaml")), RunOptions(trainable=trial), LogView(shown)).folder
    records = {record.sampled["adapter_r"]: record for record in folder.load().trials}
    assert {rank: record.status for rank, record in records.items()} == {2: "finished", 4: "finished"}, shown.getvalue()
    assert {rank: record.retries for rank, record in records.items()} == {2: 0, 4: 1}
    assert [row["iteration"] for row in records[4].history] == [1, 2]

    assert tune_jobs(["report", str(folder.path)]) == 0
    assert "adapter_r" in (folder.path / "analysis_report.html").read_text(encoding="utf-8")
    killed = Path("outputs/experiments") / records[4].name
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # reproduce sets it where the card was simulated
    capsys.readouterr()
    assert tune_jobs(["reproduce", str(killed), "--output", "again", "--format", "json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["outcome"], again["same_weights"]) == ("same", True)

    capsys.readouterr()
    assert tune_jobs(["hand-over", str(folder.path), "--merge", "--format", "json"]) == 0
    handed = json.loads(capsys.readouterr().out)
    winner = Path(handed["experiment"])
    stored = json.loads((winner / "models/best_model/adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == str(tmp_path / "base")
    assert dialsum(["generate", "--run", str(winner), "--data", "dev.jsonl", "--output", "written.jsonl"]) == 0
    written, expected = (read_jsonl(path)[0] for path in (Path("written.jsonl"), winner / "predictions.jsonl"))
    assert [row["prediction"] for row in written] == [row["prediction"] for row in expected]
    merged = AutoModelForCausalLM.from_pretrained(handed["model"])
    adapter = load_finished(winner, tmp_path / "cache").model.eval()
    ids = torch.arange(4, 24)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, adapter(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
