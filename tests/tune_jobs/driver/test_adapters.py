"""A LoRA sweep on a tiny Qwen3 on a real Ray, to the merged model of its winner."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from dialsum.__main__ import main as dialsum
from dialsum.finished import load_finished
from tests.dialsum.test_training_invariants import small_run
from tests.dialsum.tiny_bases import tiny_base
from tune_jobs.__main__ import main as tune_jobs
from tune_jobs.records.ledger import SweepFolder
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
num_epochs: 1
decoder_max_len: 24
generation_max_len: 6
"""


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
    assert tune_jobs(["run", "ranks.yaml"]) == 0
    folder = SweepFolder.of(tmp_path / "outputs", "ranks")
    records = folder.load().trials
    assert {record.sampled["adapter_r"] for record in records} == {2, 4}
    assert [record.status for record in records] == ["finished"] * 2

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
