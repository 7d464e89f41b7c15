"""Adapters train as peft and transformers' own Trainer train them, resume bit for bit, and merge without a change."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

from dialsum.adapters import has_adapter
from dialsum.config import WITHOUT_ADAPTER, RunConfig
from dialsum.data import load_examples
from dialsum.encoding import Collator, EncodedDataset, Item, encode
from dialsum.finished import load_finished, predict
from dialsum.models import build_model, resolve
from dialsum.preparation import prepare
from dialsum.reporter import RecordingReporter
from dialsum.sampling import GroupedSampler
from dialsum.step import IGNORED_LABEL
from dialsum.tokenizers import build_tokenizer
from dialsum.trainer import train
from tests.dialsum.test_training_invariants import CutAt, small_run
from tests.dialsum.tiny_bases import CHAT_TEMPLATE, FAMILIES, tiny_base
from tests.dialsum.together import run_together
from tuning_common.errors import RequestError
from tuning_common.files import read_jsonl

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft by itself
LORA: dict[str, object] = {"adapter_type": "lora", "adapter_r": 4, "adapter_alpha": 16}


def adapter_run(folder: Path, family: str = "qwen3", *, chat: bool = False, **changes: object) -> RunConfig:
    base = tiny_base(folder / "base", family, small_run(folder), chat=chat)
    return small_run(folder, **{"model": base, "learning_rate": 2e-2, "generation_max_len": 12, **LORA, **changes})


class _InOurOrder(Seq2SeqTrainer):  # type: ignore[misc]
    """transformers' own trainer with the order of dialogues of ours."""

    def _get_train_sampler(self, train_dataset: object = None) -> GroupedSampler:
        lengths = [len(item["input_ids"]) for item in self.train_dataset]
        return GroupedSampler(lengths, self.args.per_device_train_batch_size, self.args.seed)


def _without_positions(collator: Collator) -> Callable[[Sequence[Item]], dict[str, torch.Tensor]]:
    return lambda items: {name: tensor for name, tensor in collator(items).items() if name != "positions"}


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_equal_those_of_peft_under_transformers_own_trainer(tmp_path: Path, family: str) -> None:
    """Same seed, same batches in the same order, dropout of the adapter on: the same loss at every step."""
    config = adapter_run(tmp_path, family, max_steps=5, adapter_dropout=0.1, warmup_ratio=0.0)
    reporter = RecordingReporter()
    train(config, tmp_path / "ours", reporter=reporter, cache_dir=tmp_path / "cache")
    ours = [log["train/loss"] for log in reporter.logs]

    prepared = prepare(config, tmp_path / "cache")  # encodings and order; not its model
    set_seed(config.seed)
    causal = prepared.kind == "causal"
    base = (AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM).from_pretrained(config.model)
    theirs = get_peft_model(
        base,
        LoraConfig(
            task_type="CAUSAL_LM" if causal else "SEQ_2_SEQ_LM", r=4, lora_alpha=16, lora_dropout=0.1,
            target_modules="all-linear",
        ),
    )  # fmt: skip
    trainer = _InOurOrder(
        model=theirs,
        args=Seq2SeqTrainingArguments(
            output_dir=str(tmp_path / "theirs"), per_device_train_batch_size=8, max_steps=5, learning_rate=2e-2,
            warmup_steps=0, weight_decay=config.weight_decay, lr_scheduler_type="linear", optim="adamw_torch_fused",
            logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, seed=config.seed, disable_tqdm=True,
            remove_unused_columns=False, log_level="error",
        ),
        train_dataset=EncodedDataset(prepared.train, prepared.kind),
        data_collator=_without_positions(Collator(pad_id=0, kind=prepared.kind)),
    )  # fmt: skip
    trainer.train()
    expected = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(ours) == 5
    assert ours == pytest.approx(expected, rel=2e-5)


def test_a_run_that_was_cut_goes_on_bit_for_bit_from_its_adapter_alone(tmp_path: Path) -> None:
    config = adapter_run(tmp_path, max_steps=6, eval_steps=3, adapter_dropout=0.1)
    whole = train(config, tmp_path / "whole", cache_dir=tmp_path / "cache")
    kept = tmp_path / "kept"
    with pytest.raises(SystemExit):
        train(config, tmp_path / "part", reporter=CutAt(3, kept), cache_dir=tmp_path / "cache")
    assert [path.name for path in kept.glob("*.safetensors")] == ["adapter_model.safetensors"]
    resumed = train(config, tmp_path / "part", resume_from=kept, cache_dir=tmp_path / "cache")
    assert [row["eval/loss"] for row in resumed.history] == [row["eval/loss"] for row in whole.history]
    names = (resumed.best_model_dir, whole.best_model_dir)
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in names)
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("family", ["gemma3", "t5", "bart"])  # Qwen3 is merged in the hand-over's test
def test_the_merged_model_writes_the_same_summaries(tmp_path: Path, family: str) -> None:
    config = adapter_run(tmp_path, family, num_epochs=1, adapter_modules_to_save=[])
    result = train(config, tmp_path / "run", cache_dir=tmp_path / "cache")
    examples = load_examples(Path(config.dev_file))
    run = load_finished(tmp_path / "run", tmp_path / "cache")
    texts = predict(run, examples)
    written = read_jsonl(tmp_path / "run" / "predictions.jsonl")[0]
    assert texts == [row["prediction"] for row in written]  # those of the best evaluation
    merged = load_finished(tmp_path / "run", tmp_path / "cache", WITHOUT_ADAPTER)
    assert not has_adapter(merged.model)
    assert predict(merged, examples) == texts
    untrained = build_model(config.with_changes(WITHOUT_ADAPTER), run.tokenizer)
    assert predict(replace(merged, model=untrained), examples) != texts
    assert (result.best_model_dir / "adapter_model.safetensors").stat().st_size < 200_000


def _train(config: RunConfig, folder: Path) -> None:
    train(config, folder, cache_dir=folder.parent / "cache")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "fsdp"), [("bart", False), ("qwen3", True)])
def test_two_processes_train_the_adapter_that_one_trains_in_two_pieces(tmp_path: Path, family: str, fsdp: bool) -> None:
    """Data-parallel, or with the base and the adapter divided among both."""
    config = adapter_run(
        tmp_path, family, label_smoothing=0.1, dropout=0.0, optimizer="sgd", max_grad_norm=0.0, learning_rate=0.3,
        max_steps=4, eval_steps=2,
    )  # fmt: skip
    one = train(config.with_changes({"gradient_accumulation_steps": 2}), tmp_path / "one", cache_dir=tmp_path / "cache")
    run_together(tmp_path, _train, config.with_changes({"fsdp": fsdp}), tmp_path / "two")
    rows = json.loads((tmp_path / "two" / "metrics.json").read_text(encoding="utf-8"))["history"]
    for name in ("train/loss", "eval/loss"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in one.history], rel=1e-4), name
    found, expected = (
        load_file(tmp_path / run / "models" / "best_model" / "adapter_model.safetensors") for run in ("two", "one")
    )
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_divided_base_in_bf16_trains_an_adapter_that_loads_with_peft_alone(tmp_path: Path) -> None:
    config = adapter_run(tmp_path, precision="bf16", fsdp=True, max_steps=4, eval_steps=2)
    run_together(tmp_path, _train, config, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))["history"]
    assert rows[-1]["eval/loss"] < rows[0]["eval/loss"]
    folder = tmp_path / "run" / "models" / "best_model"
    weights = load_file(folder / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert AutoPeftModelForCausalLM.from_pretrained(folder).peft_config["default"].r == 4


def test_the_folder_of_an_adapter_names_its_base_and_loads_with_peft_alone(tmp_path: Path) -> None:
    config = adapter_run(tmp_path, num_epochs=1, adapter_modules_to_save=["embed_tokens"])
    folder = train(config, tmp_path / "run", cache_dir=tmp_path / "cache").best_model_dir
    stored = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (stored["base_model_name_or_path"], stored["r"], stored["lora_alpha"]) == (config.model, 4, 16)
    assert resolve(str(folder)).architecture == "qwen3"
    alone = AutoPeftModelForCausalLM.from_pretrained(folder)
    ours = load_finished(tmp_path / "run", tmp_path / "cache").model
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(alone(input_ids=ids).logits, ours.eval()(input_ids=ids).logits)


def test_an_adapter_trains_on_from_its_folder_with_its_own_rank_only(tmp_path: Path) -> None:
    config = adapter_run(tmp_path, num_epochs=1)
    first = train(config, tmp_path / "run", cache_dir=tmp_path / "cache")
    further = config.with_changes({"model": str(first.best_model_dir)})
    again = train(further, tmp_path / "again", cache_dir=tmp_path / "cache")
    assert again.history[-1]["eval/loss"] < first.history[-1]["eval/loss"]
    stored = json.loads((again.best_model_dir / "adapter_config.json").read_text(encoding="utf-8"))
    assert stored["base_model_name_or_path"] == config.model
    with pytest.raises(RequestError, match="its adapter has r 4 and alpha 16, but the run has r 8 and alpha 16"):
        prepare(further.with_changes({"adapter_r": 8}), tmp_path / "cache")


def test_a_frozen_base_is_in_bf16_and_the_adapter_in_fp32(tmp_path: Path) -> None:
    config = adapter_run(tmp_path, precision="bf16", adapter_modules_to_save=["embed_tokens"])
    model = prepare(config, tmp_path / "cache").model
    formats = {parameter.requires_grad: set() for parameter in model.parameters()}
    for parameter in model.parameters():
        formats[parameter.requires_grad].add(parameter.dtype)
    assert formats == {True: {torch.float32}, False: {torch.bfloat16}}
    trained = train(config, tmp_path / "run", cache_dir=tmp_path / "cache")
    assert trained.history[-1]["eval/loss"] < trained.history[0]["eval/loss"]


def test_a_chat_template_stands_around_the_dialogue_and_only_the_summary_has_loss(tmp_path: Path) -> None:
    config = adapter_run(tmp_path, chat=True, prompt="chat", encoder_max_len=60)
    tokenizer = build_tokenizer(config, [], tmp_path)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    encoding = encode(load_examples(Path(config.train_file)), tokenizer, config, tmp_path)
    item = EncodedDataset(encoding, "causal")[0]
    text = tokenizer.decode(encoding.sources[0])
    assert text.startswith("[user]다음 대화를 요약하세요.")
    assert text.endswith("[assistant]")
    assert len(item["input_ids"]) == len(item["labels"])
    counted = [label for label in item["labels"] if label != IGNORED_LABEL]
    assert tuple(counted) == encoding.targets[0]
    assert max(len(source) for source in encoding.sources) <= 60


@pytest.mark.parametrize(("family", "message"), [("qwen3", "has no chat template"), ("bart", "dialogue alone")])
def test_a_chat_needs_a_template(tmp_path: Path, family: str, message: str) -> None:
    config = adapter_run(tmp_path, family, prompt="chat")
    with pytest.raises(RequestError, match=f"{message}.*; take prompt: plain"):
        prepare(config, tmp_path / "cache")


def test_a_module_that_the_model_does_not_have_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    config = adapter_run(tmp_path, adapter_target_modules=["q_proj", "query"])
    with pytest.raises(RequestError) as caught:
        prepare(config, tmp_path / "cache")
    assert caught.value.problems == (
        "adapter_target_modules: Qwen3ForCausalLM has no module 'query'",
        "its linear layers: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter_type": None, "adapter_r": 8}, "adapter_r has no effect without an adapter"),
        ({"adapter_type": "lora"}, "tiny-bart has random weights"),
        ({"adapter_type": "lora", "model": "kobart", "precision": "bf16_pure"}, "take bf16 or fp32"),
        ({"adapter_type": "lora", "model": "kobart", "adapter_r": 0}, "adapter_r must be at least 1"),
        ({"adapter_type": "lora", "model": "kobart", "adapter_target_modules": []}, "must be auto or a list such as"),
        (
            {"adapter_type": "lora", "model": "kobart", "adapter_target_modules": 3},
            "must be auto or a list .* but is 3",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        RunConfig.from_dict(changes)
