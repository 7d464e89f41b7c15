"""Configurations of other trainers: every key that teams use is translated, ignored with a reason, or refused."""

import csv
import dataclasses
import os
from pathlib import Path

import pytest

from dialsum.config import FIELD_DESCRIPTIONS, RunConfig, read_run_config
from dialsum.translation import Translation, translate
from tuning_common.errors import RequestError
from tuning_common.strict import Located, dump_yaml, parse_yaml

TESTS = Path(__file__).resolve().parent.parent
KEYS = list(csv.DictReader((TESTS / "data" / "team_config_keys.csv").open(encoding="utf-8")))
SNIPPETS = TESTS / "data" / "other_trainers"
TABLE = TESTS / "golden" / "team_keys.md"
TEXTS = {"paths.data_dir": "data", "general.data_path": "data", "wandb.project": "team"}


def read(text: str) -> Translation:
    return translate(parse_yaml(text, "a.yaml"), tuple(FIELD_DESCRIPTIONS))


def value_of(row: dict[str, str]) -> object:
    first = row["examples"].split("|")[0]
    if row["kinds"] == "list":
        return ["#Person1#", "<usr>"]
    if row["kinds"] == "str":
        return first or TEXTS.get(row["key"], "name")
    return parse_yaml(first, "x").data if first else TEXTS.get(row["key"], "name")


def nested(key: str, value: object) -> str:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dump_yaml(value)


@pytest.mark.parametrize("row", KEYS, ids=lambda row: row["key"])
def test_every_key_of_several_teams_is_known(row: dict[str, str]) -> None:
    found = read(nested(row["key"], value_of(row)))
    known = found.problems or found.ignored or set(found.values) <= set(FIELD_DESCRIPTIONS)
    assert known, f"{row['key']} would be refused as unknown"


def test_every_argument_of_transformers_is_known() -> None:
    from transformers import Seq2SeqTrainingArguments

    names = sorted(one.name for one in dataclasses.fields(Seq2SeqTrainingArguments))
    unknown = [name for name in names if f"training.{name}" in read(f"training: {{{name}: 1}}").values]
    assert unknown == []


def test_what_becomes_of_each_key_is_listed() -> None:
    """After a wanted change: GOLDEN_ACCEPT=1, then read the diff in git."""
    lines = ["| key | files | what becomes of it |", "|---|---|---|"]
    for row in KEYS:
        found = read(nested(row["key"], value_of(row)))
        if found.problems:
            told = "refused: " + found.problems[0].split(" is refused: ")[1]
        elif found.ignored:
            told = "ignored: " + next(iter(found.ignored))
        else:
            told = ", ".join(f"`{name}`" for name in found.values)
        lines.append(f"| `{row['key']}` | {row['files']} | {told} |")
    shown = "\n".join(lines) + "\n"
    if os.environ.get("GOLDEN_ACCEPT"):
        TABLE.write_text(shown, encoding="utf-8")
    assert shown == TABLE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(SNIPPETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_of_another_trainer_is_read_and_its_translation_is_shown(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / path.name).write_bytes(path.read_bytes())
    config, notes = read_run_config(Path(path.name))
    changed = {name: value for name, value in config.to_dict().items() if value != RunConfig().to_dict()[name]}
    shown = dump_yaml({"read as": changed, "notes": list(notes)})
    golden = path.with_suffix(".txt")
    if os.environ.get("GOLDEN_ACCEPT"):
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("training: {per_device_train_batch_size: 8, gradient_accumulation_steps: 4}", {"batch_size": 32}),
        ("per_device_train_batch_size: 8\ngradient_accumulation_steps: 4", {"batch_size": 32}),
        ("training.batch_size: 8\ntraining.gradient_accumulation_steps: 2", {"batch_size": 16}),
        ("batch_size: 8\ngradient_accumulation_steps: 2", {"batch_size": 8}),
        ("training: {fp16: false, bf16: true}", {"precision": "bf16"}),
        ("training: {fp16: false}", {"precision": "fp32"}),
        ("training: {eval_strategy: steps, eval_steps: 50}", {"eval_steps": 50}),
        ("training: {evaluation_strategy: epoch, eval_steps: 50}", {"eval_steps": None}),
        ("training: {eval_steps: 50}", {"eval_steps": 50}),
        ("training: {use_early_stopping: false, early_stopping_patience: 3}", {"early_stopping_patience": None}),
        ("training: {metric_for_best_model: eval_loss}", {"metric": "eval/loss", "goal": "minimize"}),
        ("training: {metric_for_best_model: rouge-2}", {"metric": "eval/rouge2_f1"}),
        ("training: {num_train_epochs: 3.0, max_steps: -1}", {"num_epochs": 3, "max_steps": None}),
        ("general: {data_path: data}", {"train_file": "data/train.csv", "dev_file": "data/dev.csv"}),
        ("paths: {data_dir: d, train_file: a.csv, dev_file: x/b.csv}",
         {"train_file": "d/a.csv", "dev_file": "x/b.csv"}),
        ("debug: {use_subset: true, subset_size: 100}", {"max_train_samples": 100}),
        ("paths: {data_dir: d, train_data: '${paths.data_dir}/a.csv'}", {"train_file": "d/a.csv"}),
        ("experiment: {seed: 7}\ntraining: {seed: '${experiment.seed}'}", {"seed": 7}),
        ("columns: {fname: id, summary: label}", {"columns": ["fname=id", "summary=label"]}),
        ("data: {columns: {dialogue: text}}", {"columns": ["dialogue=text"]}),
        ("text_column: document\nsummary_column: label", {"columns": ["dialogue=document", "summary=label"]}),
        ("inference: {num_beams: 6}\ntraining: {generation_num_beams: 4}", {"num_beams": 6}),
        ("training: {generation_num_beams: 4}", {"num_beams": 4}),
        ("training: {optim: adamw_torch_fused, lr_scheduler_type: polynomial, warmup_steps: 10}",
         {"optimizer": "adamw_fused", "lr_scheduler": "polynomial", "warmup_steps": 10}),
        ("lora: {r: 8, lora_alpha: 16, bias: none}", {"adapter_type": "lora", "adapter_r": 8, "adapter_alpha": 16}),
        ("adapter: {type: lora, dropout: 0.1}\ndropout: 0.2", {"adapter_dropout": 0.1, "dropout": 0.2}),
        ("adapter: {target_modules: [q_proj]}", {"adapter_type": "lora", "adapter_target_modules": ["q_proj"]}),
        ("model: {name: mine, checkpoint: gogamza/kobart-base-v2}", {"model": "gogamza/kobart-base-v2"}),
    ],
)  # fmt: skip
def test_settings_mean_what_they_meant(text: str, values: dict[str, object]) -> None:
    found = read(text)
    assert found.problems == []
    assert {name: found.values.get(name) for name in values} == values
    RunConfig.from_dict({"model": "kobart"} | found.values)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("learning_rate: 1e-4\ntraining: {learning_rate: 1e-5}", "a.yaml:2: training.learning_rate: 1e-05 contradicts"),
        ("batch_size: 8\ntraining:\n  per_device_train_batch_size: 16", "a.yaml:3: training.per_device_train"),
        ("training: {fp16: true, bf16: true}", "contradicts"),
        ("training: {adam_beta1: 0.8}", "a.yaml:1: training.adam_beta1: 0.8 is refused: AdamW runs with"),
        ("lora: {variant: dora}", "a.yaml:1: lora.variant: dora is refused: an adapter has type, r, alpha"),
        ("adapter: {type: qlora}", "a base in 4 or 8 bits (QLoRA) needs the CUDA kernels of bitsandbytes"),
        ("model: {load_in_4bit: true}", "a base in 4 or 8 bits (QLoRA) needs the CUDA kernels of bitsandbytes"),
        ("lora: {bias: all}", "biases stay frozen"),
        ("solar_api: {api_key: secret}", "take the key out of the file"),
    ],
)
def test_contradictions_and_abilities_that_are_missing_are_refused(text: str, problem: str) -> None:
    (told,) = read(text).problems
    assert problem in told


def test_an_unknown_key_keeps_its_line_and_its_hint(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("training:\n  learning_rte: 1e-5\n  num_train_epochs: many\n", encoding="utf-8")
    with pytest.raises(RequestError) as caught:
        read_run_config(path)
    assert [text.removeprefix(str(tmp_path)) for text in caught.value.problems] == [
        "/a.yaml:2: unknown key 'training.learning_rte'; did you mean 'learning_rate'?",
        "/a.yaml:3: num_epochs must be a whole number from 1 to 100000, but is 'many'",
    ]


def test_our_own_names_are_translated_to_themselves() -> None:
    own = RunConfig().to_dict()
    found = translate(Located(data=own, lines={(): 1}, source="a"), tuple(FIELD_DESCRIPTIONS))
    assert found.values == own
    assert not found.changed
