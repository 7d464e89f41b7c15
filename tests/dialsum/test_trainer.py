"""A tiny run learns, resumes exactly where it was, reports what it measures and leaves files that load without us."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import dialsum.summarizer_trainer
from dialsum.arguments import training_arguments
from dialsum.callbacks import StepTimer
from dialsum.config import RunConfig
from dialsum.reporter import RecordingReporter
from dialsum.trainer import TrainResult, train
from tuning_common.errors import RequestError, WorkError

PLACES, DAYS = ("병원", "식당", "은행"), ("월요일", "화요일", "수요일")


def write_data(folder: Path) -> dict[str, object]:
    rows = [
        {
            "fname": f"{place}-{day}-{turn}",
            "dialogue": f"#Person1#: 안녕하세요. {place}이죠?\n#Person2#: 네, 언제가 좋으세요?\n#Person1#: {day}이요.",
            "summary": f"#Person1#은 {day}에 {place}에 예약한다.",
        }
        for turn in range(8)
        for place in PLACES
        for day in DAYS
    ]
    for name, part in (("train", rows[9:]), ("dev", rows[:9])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return {
        "train_file": str(folder / "train.jsonl"),
        "dev_file": str(folder / "dev.jsonl"),
        "batch_size": 8,
        "learning_rate": 5e-3,
        "num_epochs": 2,
        "decoder_max_len": 24,
        "tiny_hidden_size": 32,
        "tiny_layers": 1,
        "tiny_vocab_size": 300,
    }


def run(tmp_path: Path, name: str = "run", reporter: RecordingReporter | None = None, **changes: object) -> TrainResult:
    values = write_data(tmp_path) | changes
    config = RunConfig.from_dict(values)
    return train(config, tmp_path / name, reporter=reporter, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("model", ["tiny-bart", "tiny-t5", "tiny-gpt2"])
def test_a_tiny_model_learns_and_leaves_its_files(tmp_path: Path, model: str) -> None:
    reporter = RecordingReporter()
    result = run(tmp_path, model=model, num_epochs=6, reporter=reporter)
    first, last = result.history[0], result.history[-1]
    assert last["eval/loss"] < 0.6 * first["eval/loss"]
    assert result.best_metrics["best/rouge_combined_f1"] > 30
    assert [row["train/global_step"] for row in reporter.reports] == [8, 16, 24, 32, 40, 48]
    assert {"train/loss", "time/forward_s", "time/backward_s", "memory/host_rss_bytes"} <= set(reporter.logs[-1])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.yaml", "metrics.json", "models", "predictions.jsonl", "training.log",
    ]  # fmt: skip
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["best_rouge_combined_f1"] == result.best_metrics["best/rouge_combined_f1"]
    assert {"best_rouge1_f1", "best_rouge2_f1", "best_rougeL_f1"} <= set(written)
    predictions = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert len(predictions) == 9
    assert all("#Person1#" in row["prediction"] for row in predictions)


def test_the_best_model_loads_with_transformers_alone(tmp_path: Path) -> None:
    folder = run(tmp_path).best_model_dir
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (folder / "model.safetensors").exists()
    assert model.generate(**tokenizer("안녕하세요", return_tensors="pt"), max_new_tokens=4).shape[0] == 1


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folder = run(tmp_path, name, seed=seed).best_model_dir
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


class StopAfter(RecordingReporter):
    """Ends the run after some evaluations, as a scheduler does, and keeps the last checkpoint."""

    def __init__(self, evaluations: int, keep: Path) -> None:
        super().__init__()
        self._left, self._keep = evaluations, keep

    def report(self, metrics: object, checkpoint: Path | None) -> None:
        self._left -= 1
        if not self._left:
            checkpoint.rename(self._keep)
            raise SystemExit(0)


def test_a_resumed_run_ends_as_one_that_was_never_interrupted(tmp_path: Path) -> None:
    config = RunConfig.from_dict(write_data(tmp_path) | {"num_epochs": 3})
    whole = train(config, tmp_path / "whole", cache_dir=tmp_path / "cache")
    with pytest.raises(SystemExit):
        train(config, tmp_path / "part", reporter=StopAfter(1, tmp_path / "kept"), cache_dir=tmp_path / "cache")
    resumed = train(config, tmp_path / "part", resume_from=tmp_path / "kept", cache_dir=tmp_path / "cache")
    names = ("eval/loss", "eval/rouge_combined_f1", "train/global_step")
    assert [[row[name] for name in names] for row in resumed.history] == [
        [row[name] for name in names] for row in whole.history
    ]
    assert (resumed.best_model_dir / "model.safetensors").read_bytes() == (
        whole.best_model_dir / "model.safetensors"
    ).read_bytes()


def test_accumulation_changes_how_a_batch_is_computed_not_what_is_learned(tmp_path: Path) -> None:
    changes = {"dropout": 0.0, "max_steps": 4, "eval_steps": 4}
    whole = run(tmp_path, "whole", **changes)
    pieces = run(tmp_path, "pieces", gradient_accumulation_steps=4, **changes)
    assert pieces.metrics["eval/loss"] == pytest.approx(whole.metrics["eval/loss"], rel=2e-2)


def test_a_process_that_sees_several_cards_uses_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", property(lambda arguments: 4))
    plain = transformers.Seq2SeqTrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8, use_cpu=True)
    assert (plain.n_gpu, plain.train_batch_size) == (4, 32)
    ours = training_arguments(RunConfig(batch_size=8), tmp_path, 8, "bart")
    assert (ours.n_gpu, ours.train_batch_size, ours.eval_batch_size) == (1, 8, 32)


def test_the_batches_of_an_evaluation_change_neither_scores_nor_weights(tmp_path: Path) -> None:
    usual = run(tmp_path, "usual", num_epochs=1)
    small = run(tmp_path, "small", num_epochs=1, loss_batch_size=2, generation_batch_size=3)
    assert small.metrics["eval/loss"] == pytest.approx(usual.metrics["eval/loss"], rel=1e-5)
    assert small.metrics["eval/rouge_combined_f1"] == usual.metrics["eval/rouge_combined_f1"]
    files = [(one.best_model_dir / "model.safetensors").read_bytes() for one in (usual, small)]
    assert files[0] == files[1]


def test_checkpointing_changes_nothing_that_is_learned(tmp_path: Path) -> None:
    plain = run(tmp_path, "plain", dropout=0.0, num_epochs=1)
    saved = run(tmp_path, "saved", dropout=0.0, num_epochs=1, gradient_checkpointing=True)
    assert saved.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], rel=1e-4)


def test_early_stopping_ends_a_run_that_no_longer_gains(tmp_path: Path) -> None:
    result = run(tmp_path, num_epochs=6, early_stopping_patience=1, early_stopping_threshold=100.0)
    assert len(result.history) == 2


def test_a_loss_that_is_no_number_ends_the_run_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = dialsum.summarizer_trainer.forward_loss

    def no_number(*args: object, **kwargs: object) -> torch.Tensor:
        return sound(*args, **kwargs) * math.nan

    monkeypatch.setattr(dialsum.summarizer_trainer, "forward_loss", no_number)
    with pytest.raises(WorkError, match=r"became nan by step 2; a smaller learning rate \(now 0\.005\)"):
        run(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that can train in fp16")
def test_fp16_on_a_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="fp16 needs a CUDA device"):
        run(tmp_path, precision="fp16")


def test_the_timer_splits_a_step() -> None:
    ticks = iter([0.0, 10.0, 10.5, 20.0, 21.0, 22.0, 23.0, 25.5, 26.0])
    timer = StepTimer(clock=lambda: next(ticks))
    with timer.part("data_s"):
        pass
    timer.step_begun()
    with timer.part("step_s"), timer.part("forward_s"):
        pass
    timer.step_done()
    timer.count_tokens(torch.tensor(40))
    timer.count_tokens(torch.tensor(25))
    assert timer.mean() == {
        "train/tokens_per_second": 10.0,
        "time/data_s": 0.5,
        "time/forward_s": 1.0,
        "time/backward_s": 3.5,
        "time/total_s": 6.5,
    }


def test_bf16_pure_trains_weights_in_bf16_and_saves_them_so(tmp_path: Path) -> None:
    from safetensors import safe_open

    run(tmp_path, model="tiny-t5", precision="bf16_pure", optimizer="adamw")
    (weights,) = tmp_path.rglob("models/best_model/model.safetensors")
    with safe_open(weights, framework="pt") as stored:
        kinds = {str(stored.get_tensor(name).dtype) for name in stored.keys()}  # noqa: SIM118  # no mapping
    assert kinds == {"torch.bfloat16"}
