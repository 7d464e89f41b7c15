"""What must hold whatever the numbers: how a batch is computed, where a run was cut, how a batch is padded."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dialsum.summarizer_trainer
from dialsum.config import RunConfig
from dialsum.data import Example, write_examples
from dialsum.encoding import Collator, EncodedDataset
from dialsum.generate import generate_ids, summarize
from dialsum.preparation import prepare
from dialsum.reporter import RecordingReporter
from dialsum.step import forward_loss
from dialsum.trainer import train
from tests.dialsum.own_loss import own_loss

PLACES, DAYS = ("병원", "식당", "은행", "미용실 예약 창구"), ("월요일", "화요일", "수요일 오후 세 시", "금요일")


def small_run(folder: Path, **changes: object) -> RunConfig:
    """A run whose dialogues differ in length, so that batches differ in their number of tokens."""
    examples = [
        Example(
            fname=f"{turns}-{place}-{day}",
            dialogue="\n".join([f"#Person1#: {place}이죠?", "#Person2#: 네."] * turns + [f"#Person1#: {day}이요."]),
            summaries=(f"#Person1#은 {day}에 {place}에 간다. " + "#Person2#가 답한다. " * turns,),
        )
        for turns in (1, 2, 3)
        for place in PLACES
        for day in DAYS
    ]
    write_examples(folder / "train.jsonl", examples[:40])
    write_examples(folder / "dev.jsonl", examples[40:])
    values: dict[str, object] = {
        "train_file": str(folder / "train.jsonl"), "dev_file": str(folder / "dev.jsonl"), "batch_size": 8,
        "learning_rate": 5e-3, "num_epochs": 2, "decoder_max_len": 24, "generation_max_len": 6,
        "tiny_hidden_size": 32, "tiny_layers": 1, "tiny_vocab_size": 300,
    }  # fmt: skip
    return RunConfig.from_dict(values | changes)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("model", ["tiny-bart", "tiny-t5", "tiny-gpt2"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_pieces_of_a_batch_give_the_gradient_of_the_batch(tmp_path: Path, model: str, label_smoothing: float) -> None:
    """SGD without clipping: a gradient of the wrong size would give other weights (Adam would hide it)."""
    found = []
    for pieces in (1, 4):
        config = small_run(
            tmp_path, model=model, dropout=0.0, optimizer="sgd", max_grad_norm=0.0, learning_rate=0.3, max_steps=5,
            gradient_accumulation_steps=pieces, label_smoothing=label_smoothing,
        )  # fmt: skip
        reporter = RecordingReporter()
        result = train(config, tmp_path / str(pieces), reporter=reporter, cache_dir=tmp_path / "cache")
        found.append((weights_of(result.best_model_dir), [log["train/loss"] for log in reporter.logs]))
    (whole, whole_loss), (split, split_loss) = found
    assert split_loss == pytest.approx(whole_loss, rel=1e-4)
    for name, weight in whole.items():
        torch.testing.assert_close(split[name], weight, rtol=1e-3, atol=1e-5)


class CutAt(RecordingReporter):
    """Ends a run at one step, as a scheduler does, and keeps that step's checkpoint."""

    def __init__(self, step: int, keep: Path) -> None:
        super().__init__()
        self._step, self._keep = step, keep

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        if metrics["train/global_step"] == self._step:
            checkpoint.rename(self._keep)
            raise SystemExit(0)


@pytest.mark.parametrize("cut_step", [3, 6, 9])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_run_cut_within_an_epoch_goes_on_bit_for_bit(tmp_path: Path, cut_step: int, pieces: int) -> None:
    config = small_run(tmp_path, num_epochs=2, eval_steps=3, gradient_accumulation_steps=pieces)
    whole = train(config, tmp_path / "whole", cache_dir=tmp_path / "cache")
    kept = tmp_path / "kept"
    with pytest.raises(SystemExit):
        train(config, tmp_path / "part", reporter=CutAt(cut_step, kept), cache_dir=tmp_path / "cache")
    resumed = train(config, tmp_path / "part", resume_from=kept, cache_dir=tmp_path / "cache")
    assert [row["eval/loss"] for row in resumed.history] == [row["eval/loss"] for row in whole.history]
    assert [row["train/global_step"] for row in resumed.history] == [3, 6, 9, 10]
    assert resumed.metrics["train/loss"] == whole.metrics["train/loss"]


class AskedAt(RecordingReporter):
    """Asks for a checkpoint from one step on, as a driver that is to stop does, and ends the run with it."""

    def __init__(self, step: int, keep: Path) -> None:
        super().__init__()
        self._step, self._keep = step, keep
        self._asked = 0

    def wants_checkpoint(self) -> bool:
        self._asked += 1
        return self._asked >= self._step

    def interrupted(self, checkpoint: Path) -> None:
        checkpoint.rename(self._keep)
        raise SystemExit(0)


@pytest.mark.parametrize(("asked", "saved"), [(2, 2), (4, 4), (5, 6)])
def test_a_run_that_is_asked_to_stop_loses_no_step(tmp_path: Path, asked: int, saved: int) -> None:
    """Epochs have five steps: at the end of one, its evaluation comes first."""
    config = small_run(tmp_path, num_epochs=2)
    whole = train(config, tmp_path / "whole", cache_dir=tmp_path / "cache")
    kept = tmp_path / "kept"
    with pytest.raises(SystemExit):
        train(config, tmp_path / "part", reporter=AskedAt(asked, kept), cache_dir=tmp_path / "cache")
    assert json.loads((kept / "trainer_state.json").read_text())["global_step"] == saved
    resumed = train(config, tmp_path / "part", resume_from=kept, cache_dir=tmp_path / "cache")
    assert [row["train/global_step"] for row in resumed.history] == [5, 10]
    assert [row["eval/loss"] for row in resumed.history] == [row["eval/loss"] for row in whole.history]


def test_after_an_out_of_memory_smaller_pieces_go_on_with_the_same_batches(tmp_path: Path) -> None:
    """What the recovery does: the checkpoint of one shape, resumed with another, learns what the whole run learned."""
    changes: dict[str, object] = {"dropout": 0.0, "eval_steps": 3, "num_epochs": 2}
    whole = train(small_run(tmp_path, **changes), tmp_path / "whole", cache_dir=tmp_path / "cache")
    kept = tmp_path / "kept"
    with pytest.raises(SystemExit):
        train(small_run(tmp_path, **changes), tmp_path / "part", reporter=CutAt(6, kept), cache_dir=tmp_path / "cache")
    smaller = small_run(tmp_path, **changes, gradient_accumulation_steps=4, gradient_checkpointing=True)
    resumed = train(smaller, tmp_path / "part", resume_from=kept, cache_dir=tmp_path / "cache")
    assert [row["train/global_step"] for row in resumed.history] == [3, 6, 9, 10]
    assert [row["eval/loss"] for row in resumed.history] == pytest.approx(
        [row["eval/loss"] for row in whole.history], rel=1e-3
    )


def test_a_run_that_is_stopped_leaves_its_best_model_and_its_numbers(tmp_path: Path) -> None:
    config = small_run(tmp_path)
    with pytest.raises(SystemExit):
        train(config, tmp_path / "run", reporter=CutAt(5, tmp_path / "kept"), cache_dir=tmp_path / "cache")
    numbers = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert numbers["last"]["train/global_step"] == numbers["best"]["best/global_step"] == 5
    assert numbers["scorer"]["tokenizer"] == "kiwi"
    assert weights_of(tmp_path / "run" / "models" / "best_model")
    pickles = [path.name for path in (tmp_path / "run" / "models" / "best_model").iterdir() if path.suffix == ".bin"]
    assert pickles == []


def test_the_test_file_is_summarized_with_the_best_model(tmp_path: Path) -> None:
    config = small_run(tmp_path, test_file=str(tmp_path / "dev.jsonl"), num_epochs=1)
    result = train(config, tmp_path / "run", cache_dir=tmp_path / "cache")
    assert result.test_metrics["test/rouge_combined_f1"] == result.best_metrics["best/rouge_combined_f1"]
    folder = tmp_path / "run"
    assert (folder / "test_predictions.jsonl").read_text() == (folder / "predictions.jsonl").read_text()
    assert json.loads((folder / "metrics.json").read_text())["test"] == result.test_metrics


@pytest.mark.parametrize("model", ["tiny-bart", "tiny-t5", "tiny-gpt2"])
def test_a_summary_does_not_depend_on_its_neighbours_in_the_batch(tmp_path: Path, model: str) -> None:
    config = small_run(tmp_path, model=model, num_epochs=1, generation_max_len=12)
    prepared = prepare(config, tmp_path / "cache")
    together = summarize(prepared.model, prepared.tokenizer, prepared.train.sources, config, prepared.kind)
    alone = config.with_changes({"generation_batch_size": 1})
    assert summarize(prepared.model, prepared.tokenizer, prepared.train.sources, alone, prepared.kind) == together


def test_generation_settings_of_other_trainers_do_what_they_name(tmp_path: Path) -> None:
    config = small_run(tmp_path, num_epochs=1, generation_max_len=12)
    prepared = prepare(config, tmp_path / "cache")

    def written(**changes: object) -> list[str]:
        changed = config.with_changes(changes)
        return summarize(prepared.model, prepared.tokenizer, prepared.dev.sources, changed, prepared.kind)

    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    drawn = written(do_sample=True, top_k=0)
    assert torch.equal(torch.random.get_rng_state(), before), "the numbers of the training are its own"
    assert written(do_sample=True, top_k=0) == drawn != written()
    assert written(do_sample=True, top_k=0, seed=1) != drawn
    assert written(do_sample=True, top_k=1) == written()
    assert written(do_sample=True, top_k=0, repetition_penalty=5.0) != drawn
    letter = next(letter for letter in "".join(drawn) if letter.strip())
    assert all(letter not in text for text in written(do_sample=True, top_k=0, remove_tokens=[letter]))
    ids = torch.tensor([prepared.dev.sources[0]])
    prepared.model.eval()
    longest = config.with_changes({"generation_min_len": 12})
    assert generate_ids(prepared.model, ids, torch.ones_like(ids), longest, pad_id=0).shape == (1, 13)


@pytest.mark.parametrize("name", ["polynomial", "inverse_sqrt"])
def test_a_schedule_of_transformers_rises_over_the_given_steps(tmp_path: Path, name: str) -> None:
    config = small_run(tmp_path, lr_scheduler=name, warmup_steps=4, max_steps=6, batch_size=8)
    reporter = RecordingReporter()
    train(config, tmp_path / name, reporter=reporter, cache_dir=tmp_path / "cache")
    rates = [row["train/learning_rate"] for row in reporter.logs]
    assert rates[1] < rates[3] == pytest.approx(config.learning_rate, rel=0.3)


def test_the_loss_of_a_causal_model_sees_no_prompt_and_no_padding(tmp_path: Path) -> None:
    prepared = prepare(small_run(tmp_path, model="tiny-gpt2"), tmp_path / "cache")
    items = EncodedDataset(prepared.dev, "causal")
    batch = Collator(pad_id=0, kind="causal")([items[0], items[1]])
    prepared.model.eval()
    logits = prepared.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])["logits"]
    losses = []
    for row, (source, target) in enumerate(zip(prepared.dev.sources[:2], prepared.dev.targets[:2], strict=True)):
        writing = logits[row, len(source) - 1 : len(source) + len(target) - 1]  # each position writes the next token
        losses.append(torch.nn.functional.cross_entropy(writing, torch.tensor(target), reduction="sum"))
    tokens = sum(len(target) for target in prepared.dev.targets[:2])
    expected = (torch.stack(losses).sum() / tokens).item()
    assert forward_loss(prepared.model, batch, label_smoothing=0.0, causal=True).item() == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("model", ["tiny-bart", "tiny-t5", "tiny-gpt2"])
def test_every_parameter_learns(tmp_path: Path, model: str) -> None:
    config = small_run(tmp_path, model=model, num_epochs=1)
    before = {name: value.clone() for name, value in prepare(config, tmp_path / "cache").model.named_parameters()}
    after = weights_of(train(config, tmp_path / "run", cache_dir=tmp_path / "cache").best_model_dir)
    positions = ("embed_positions", "wpe")  # rows behind the longest dialogue are never looked up
    assert before.keys() - after.keys() == set()
    for name, value in before.items():
        assert not torch.equal(after[name], value), f"{name} did not change"
        if not any(part in name for part in positions) and value.dim() == 1:
            assert (after[name] != value).float().mean() > 0.9, f"{name} hardly changed"


@pytest.mark.parametrize("model", ["tiny-bart", "tiny-gpt2"])
def test_a_run_has_the_losses_of_the_models_own_loss(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every loss of training and the dev loss, with smoothing, pieces of a batch and a last batch that is smaller."""
    losses = []
    config = small_run(tmp_path, model=model, label_smoothing=0.1, gradient_accumulation_steps=2, max_steps=6)
    for name, function in (("own", own_loss), ("ours", forward_loss)):
        monkeypatch.setattr(dialsum.summarizer_trainer, "forward_loss", function)
        reporter = RecordingReporter()
        result = train(config, tmp_path / name, reporter=reporter, cache_dir=tmp_path / "cache")
        losses.append([*(row["train/loss"] for row in reporter.logs), result.metrics["eval/loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert len(losses[0]) > 2
