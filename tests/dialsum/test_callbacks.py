"""What a run says about itself: numbers under their names, a warning near the memory limit, overflows left out."""

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

import dialsum.callbacks
from dialsum.callbacks import NumbersCallback, best_numbers
from dialsum.config import RunConfig
from dialsum.device import OVERFLOWS_IN_FP16, precision_of
from dialsum.metrics import ScorerIdentity
from dialsum.reporter import RecordingReporter
from dialsum.run_folder import RunFolder
from tuning_common.errors import WorkError

SCORER = ScorerIdentity(
    language="en", tokenizer="porter", tokenizer_version="1", tokenizer_model="m", rouge_score_version="1"
)
GIB = 2**30


class Bench:
    """A callback, and the trainer's part of the conversation."""

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.reporter = RecordingReporter()
        self.numbers = NumbersCallback(RunConfig(), self.reporter, RunFolder(folder), SCORER, limit_bytes)
        self.args = TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True)
        self.state, self.control = TrainerState(), TrainerControl()

    def log(self, step: int, **logs: float) -> None:
        self.state.global_step = step
        self.numbers.on_log(self.args, self.state, self.control, logs)

    def evaluate(self, step: int, **metrics: float) -> None:
        self.state.global_step, self.state.epoch = step, step / 10
        self.numbers.on_evaluate(self.args, self.state, self.control, metrics)
        self.numbers.on_save(self.args, self.state, self.control)


def test_used_memory_is_in_gib_and_in_percent_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6 * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 10 * GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 12 * GIB)
    monkeypatch.setattr(dialsum.callbacks, "gpu_utilization", lambda: None)
    found = dialsum.callbacks.memory_metrics()
    assert (found["train/gpu_memory_used"], found["train/gpu_memory_percent"]) == (18.0, 75.0)
    assert found["memory/device_bytes"] == 18.0 * GIB


def test_an_evaluation_is_reported_with_the_best_so_far_and_kept_in_files(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for step, score in ((10, 30.0), (20, 20.0)):
        bench.log(step, loss=2.0, learning_rate=1e-3, grad_norm=0.5, epoch=step / 10)
        bench.evaluate(step, eval_loss=1.5, eval_rouge_combined_f1=score)
    last = bench.reporter.reports[-1]
    assert (last["eval/rouge_combined_f1"], last["best/rouge_combined_f1"]) == (20.0, 30.0)
    assert (last["train/loss"], last["train/epoch"], last["train/global_step"]) == (2.0, 2.0, 20.0)
    assert json.loads((tmp_path / "metrics.json").read_text())["last"]["eval/rouge_combined_f1"] == 20.0
    assert dialsum.callbacks.read_history(tmp_path / "checkpoint-20") == bench.numbers.history
    assert best_numbers([], "eval/loss", "minimize") == {}


def test_memory_near_the_limit_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    used = iter([5.0, 9.5, 9.6])
    monkeypatch.setattr(dialsum.callbacks, "memory_metrics", lambda: {"memory/reserved_bytes": next(used) * GIB})
    bench = Bench(tmp_path, limit_bytes=10 * GIB)
    with caplog.at_level(logging.WARNING, "dialsum"):
        for step in (1, 2, 3):
            bench.log(step, loss=1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "9.50 GiB of 10.0 GiB are reserved; a longer batch may fail"
    ]
    assert bench.reporter.logs[-1]["memory/reserved_bytes"] == 9.6 * GIB


def test_a_gradient_overflow_is_left_out_and_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.log(1, loss=3.0, grad_norm=math.inf)
    assert "train/grad_norm" not in bench.reporter.logs[-1]
    assert bench.reporter.logs[-1]["train/loss"] == 3.0
    with pytest.raises(WorkError, match="training loss became nan by step 2"):
        bench.log(2, loss=math.nan)


@pytest.mark.parametrize(("bf16", "architecture", "chosen"), [
    (True, "t5", "bf16"), (False, "t5", "fp32"), (False, "mt5", "fp32"), (False, "bart", "fp16"),
])  # fmt: skip
def test_a_gpu_without_bf16_trains_t5_in_full_precision(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, architecture: str, chosen: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bf16)
    assert precision_of("auto", architecture) == chosen
    assert set(OVERFLOWS_IN_FP16) == {"t5", "mt5"}
