"""The flat, frozen configuration of one run, shared by the trainer, the estimator and sweeps.

Must not import torch or transformers: the tuner reads configurations before heavy imports.
"""

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from dialsum.translation import translate
from tuning_common.errors import Problems, RequestError
from tuning_common.files import packaged
from tuning_common.goal import Goal
from tuning_common.schemas import descriptions
from tuning_common.strict import from_mapping, load_yaml, model, nearest

Language = Literal["ko", "en"]
LrScheduler = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "constant"]
OptimizerName = Literal["adamw_fused", "adamw", "adafactor", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "sgd"]
Precision = Literal["auto", "fp32", "fp16", "bf16", "bf16_pure"]
Attention = Literal["sdpa", "eager"]
AdapterType = Literal["lora"]
Prompt = Literal["plain", "chat"]
COMPOSITE = "eval/rouge_combined_f1"
METRIC_GOALS: Mapping[str, Goal] = MappingProxyType(  # metrics of every evaluation, usable for model selection
    {
        "eval/loss": "minimize",
        "eval/rouge1_f1": "maximize",
        "eval/rouge2_f1": "maximize",
        "eval/rougeL_f1": "maximize",
        COMPOSITE: "maximize",
    }
)
MAX_SEED = 2**32 - 1  # the largest that numpy takes
DIVISIBLE = ("adamw_fused", "adamw", "sgd")  # element-wise optimizers, whose states can be sharded
GENERATION_BATCH = 32
TINY_HIDDEN_STEP = 16  # so that every tiny model splits evenly into attention heads
Count = Annotated[int, Field(ge=1)]
Batch = Annotated[int, Field(ge=1, le=10**5)]
Steps = Annotated[int, Field(ge=0, le=10**9)]
Length = Annotated[int, Field(ge=2, le=10**6)]
Natural = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


@model
class RunConfig:
    """All settings of training, scoring and running one summarizer.

    The defaults train `tiny-bart` on the sample data within a minute or two on one CPU core. Each field's type
    carries its description, for help texts (FIELD_DESCRIPTIONS). Bounds stand in the type, and values are checked
    on construction.

    Raises:
        RequestError: With every invalid field.

    >>> config = RunConfig(batch_size=32, gradient_accumulation_steps=4)
    >>> config.micro_batch, config.summary_max_len
    (8, 128)
    """

    model: Annotated[
        str,
        "A named family (kobart, kogpt2, t5, mt5, tiny-*), a hub id (owner/model, owner/model@revision) or a folder.",
    ] = "tiny-bart"
    train_file: Annotated[str, "Dialogues with summaries for training."] = "outputs/sample_data/train.jsonl"
    dev_file: Annotated[str, "Dialogues with summaries for choosing the best model."] = "outputs/sample_data/dev.jsonl"
    test_file: Annotated[str | None, "Dialogues that the best model summarizes at the end."] = None
    columns: Annotated[
        tuple[str, ...], "Names of the columns in the data files: {dialogue: text, summary: label}."
    ] = ()
    use_topic: Annotated[bool, "Give a dialogue's topic, where it has one, on a line before it."] = False
    language: Annotated[Language, "How ROUGE splits text: ko (Kiwi morphemes) or en (Porter stems)."] = "ko"

    prompt: Annotated[Prompt, "How a causal model is asked: plain text, or its tokenizer's chat template."] = "plain"

    encoder_max_len: Annotated[
        int, Field(ge=1, le=10**6), "Longest dialogue in tokens; the rest is cut off and counted."
    ] = 512
    decoder_max_len: Annotated[Length, "Longest summary in tokens."] = 128
    max_train_samples: Annotated[Count | None, "Train on the first N dialogues only; all when null."] = None
    max_eval_samples: Annotated[Count | None, "Evaluate on the first N dialogues only; all when null."] = None

    learning_rate: Annotated[float, Field(gt=0, le=1), "Peak learning rate."] = 1e-3
    batch_size: Annotated[Batch, "Effective batch: dialogues per optimizer step."] = 16
    gradient_accumulation_steps: Annotated[Count, "Forward passes per effective batch; must divide it."] = 1
    num_epochs: Annotated[int, Field(ge=1, le=10**5), "Passes over the training data."] = 3
    max_steps: Annotated[
        Annotated[int, Field(ge=1, le=10**9)] | None, "Stop after this many optimizer steps, regardless of num_epochs."
    ] = None
    eval_steps: Annotated[Count | None, "Optimizer steps between evaluations; each epoch when null."] = None
    lr_scheduler: Annotated[LrScheduler, "How the learning rate falls after the warm-up."] = "linear"
    warmup_ratio: Annotated[Fraction, "Fraction of all steps in which the learning rate rises from zero."] = 0.1
    warmup_steps: Annotated[Steps | None, "Steps in which it rises, instead of warmup_ratio."] = None
    weight_decay: Annotated[NotNegative, "Decoupled weight decay."] = 0.01
    label_smoothing: Annotated[Fraction, "Probability taken from the right token and spread over all."] = 0.0
    dropout: Annotated[Fraction | None, "Dropout of the model; the model's own when null."] = None
    max_grad_norm: Annotated[NotNegative, "Gradients longer than this are scaled down; 0 turns that off."] = 1.0
    optimizer: Annotated[OptimizerName, "Optimizer; 8-bit and paged ones need bitsandbytes and CUDA."] = "adamw_fused"
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), "Seed of weights, order of dialogues and dropout."] = 0
    metric: Annotated[str, "Metric that selects the best model and drives early stopping."] = COMPOSITE
    goal: Annotated[Goal, Field(validate_default=True), "Whether the metric is maximized or minimized."] = "maximize"
    early_stopping_patience: Annotated[Count | None, "Stop after N evaluations without progress; never when null."] = (
        None
    )
    early_stopping_threshold: Annotated[NotNegative, "Smallest gain in the metric that counts as progress."] = 0.0

    adapter_type: Annotated[AdapterType | None, "Train an adapter beside the frozen model; all weights when null."] = (
        None
    )
    adapter_r: Annotated[int, Field(ge=1, le=4096), "Rank of the adapter's matrices."] = 16
    adapter_alpha: Annotated[int, Field(ge=1, le=10**6), "The adapter's output is scaled by alpha / r."] = 32
    adapter_dropout: Annotated[Fraction, "Dropout of the adapter's input."] = 0.0
    adapter_target_modules: Annotated[
        Literal["auto"] | tuple[str, ...], "Modules that get one, by the ends of their names; auto: all linear layers."
    ] = "auto"
    adapter_modules_to_save: Annotated[
        tuple[str, ...], "Modules that are trained whole and saved with the adapter."
    ] = ()

    precision: Annotated[Precision, "Number format; auto: the best that the device can do; bf16_pure: weights too."] = (
        "auto"
    )
    attention: Annotated[Attention, "Attention kernels: sdpa (fast) or eager (plain)."] = "sdpa"
    gradient_checkpointing: Annotated[bool, "Recompute activations in the backward pass: less memory, slower."] = False
    torch_compile: Annotated[bool, "Compile the model with torch.compile."] = False
    fsdp: Annotated[bool, "Shard weights, gradients and optimizer over a run's processes: less memory each."] = False
    cpu_threads: Annotated[int, Field(ge=1, le=1024), "Threads of torch in this process."] = 1
    dataloader_workers: Annotated[
        int, Field(ge=0, le=256), "Processes that prepare batches; 0 prepares them in this process."
    ] = 0
    pin_memory: Annotated[bool | None, "Page-locked batches; null: where a GPU is used."] = None

    num_beams: Annotated[int, Field(ge=1, le=1000), "Beams of the search for a summary; 1 is greedy."] = 1
    length_penalty: Annotated[float, "Above 1 prefers longer summaries; only with beams."] = 1.0
    no_repeat_ngram_size: Annotated[Natural, "N-grams of this many tokens must not repeat; 0 allows it."] = 0
    repetition_penalty: Annotated[Positive, "Above 1 makes tokens that are in the text already less probable."] = 1.0
    do_sample: Annotated[bool, "Draw tokens by their probability, with the run's seed, instead of the best."] = False
    temperature: Annotated[Positive, "Sampling: below 1 prefers probable tokens."] = 1.0
    top_k: Annotated[Natural, "Sampling: only the k most probable tokens; 0: all."] = 50
    top_p: Annotated[
        float, Field(gt=0, le=1), "Sampling: only the most probable tokens with this probability together."
    ] = 1.0
    generation_min_len: Annotated[Natural, "Shortest generated summary in tokens."] = 0
    generation_max_len: Annotated[
        Length | None,
        Field(validate_default=True),
        "Longest generated summary in tokens; decoder_max_len when null.",
    ] = None
    generation_batch_size: Annotated[
        Batch | None, "Dialogues that are summarized together; null: 32, in a sweep as many as need no more memory."
    ] = None
    loss_batch_size: Annotated[
        Batch | None, "Dialogues per forward pass of the dev loss; null: a micro-batch, in a sweep as above."
    ] = None
    remove_tokens: Annotated[tuple[str, ...], "Texts cut out of summaries; markers such as </s> always are."] = ()

    rouge_weights: Annotated[
        tuple[float, float, float], "Weights of ROUGE-1, ROUGE-2 and ROUGE-L in rouge_combined_f1; they add up to 1."
    ] = (0.3, 0.3, 0.4)
    summary_length_floor_chars: Annotated[
        Natural, "rouge_combined_f1 is multiplied by 0.9 where the mean summary is shorter."
    ] = 0

    tiny_hidden_size: Annotated[
        int, Field(ge=TINY_HIDDEN_STEP, le=8192, multiple_of=TINY_HIDDEN_STEP), "Width of a tiny-* model."
    ] = 64
    tiny_layers: Annotated[int, Field(ge=1, le=100), "Layers of a tiny-* model (of encoder and decoder each)."] = 2
    tiny_vocab_size: Annotated[
        int, Field(ge=300, le=10**6), "Vocabulary that a tiny-* model's tokenizer learns from the data."
    ] = 2000

    @field_validator("model", "train_file", "dev_file")
    @classmethod
    def _check_named(cls, value: str, info: ValidationInfo) -> str:
        if not value.strip():
            raise ValueError(f"{info.field_name} must not be empty")
        return value

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            ours, _, theirs = one.partition("=")
            if not theirs or not re.fullmatch(r"fname|dialogue|(summary|topic)\d*|summaries", ours):
                raise ValueError(f"columns: {one!r} is no name; write {{fname: id, dialogue: text, summary: label}}")
        return value

    @field_validator("gradient_accumulation_steps")
    @classmethod
    def _check_pieces(cls, value: int, info: ValidationInfo) -> int:
        batch = info.data.get("batch_size", value)  # absent where it is wrong itself
        if batch % value:
            raise ValueError(f"gradient_accumulation_steps must divide batch_size {batch}, but is {value}")
        return value

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, value: str) -> str:
        if value not in METRIC_GOALS:
            known = nearest(value, list(METRIC_GOALS)) or f"; known: {', '.join(METRIC_GOALS)}"
            raise ValueError(f"metric {value!r} is reported by no evaluation{known}")
        return value

    @field_validator("goal")
    @classmethod
    def _check_goal(cls, value: Goal, info: ValidationInfo) -> Goal:
        metric = info.data.get("metric")
        if metric is not None and METRIC_GOALS[metric] != value:
            raise ValueError(
                f"goal {value!r} would choose the worst model by {metric}; write goal: {METRIC_GOALS[metric]}"
            )
        return value

    @field_validator("adapter_type")
    @classmethod
    def _check_adapter(cls, value: AdapterType | None, info: ValidationInfo) -> AdapterType | None:
        name = str(info.data.get("model", ""))
        if value is not None and name.startswith("tiny-"):
            raise ValueError(
                f"adapter_type: {name} has random weights, which must be trained; take a hub id or a folder"
            )
        return value

    @field_validator(
        "adapter_r", "adapter_alpha", "adapter_dropout", "adapter_target_modules", "adapter_modules_to_save"
    )
    @classmethod
    def _check_adapter_setting(cls, value: object, info: ValidationInfo) -> object:
        name = str(info.field_name)
        if info.data.get("adapter_type", "") is None and value != WITHOUT_ADAPTER[name]:
            raise ValueError(f"{name} has no effect without an adapter; write adapter: {{type: lora}}, or leave it out")
        return value

    @field_validator("adapter_target_modules", mode="before")
    @classmethod
    def _check_targets(cls, value: object) -> object:
        if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
            return tuple(value)
        if value != "auto":
            raise ValueError(
                f"adapter_target_modules must be auto or a list such as [q_proj, v_proj], but is {value!r}"
            )
        return value

    @field_validator("precision")
    @classmethod
    def _check_precision(cls, value: Precision, info: ValidationInfo) -> Precision:
        if value == "bf16_pure" and info.data.get("adapter_type") is not None:
            raise ValueError("precision: an adapter is trained in fp32 beside a base in bf16; take bf16 or fp32")
        return value

    @field_validator("fsdp")
    @classmethod
    def _check_fsdp(cls, value: bool, info: ValidationInfo) -> bool:
        run, problems = info.data, []  # a field that is wrong itself is absent
        if run.get("optimizer", DIVISIBLE[0]) not in DIVISIBLE:
            problems.append(
                f"fsdp: the states of {run['optimizer']} depend on whole weights; take {', '.join(DIVISIBLE[:-1])} or"
                f" {DIVISIBLE[-1]}"
            )
        if run.get("precision") == "fp16":
            problems.append("fsdp: each process would scale its fp16 gradients separately; take bf16 or fp32")
        if run.get("precision") == "bf16_pure":
            problems.append("fsdp keeps fp32 weights beside the bf16 ones that it gathers; take bf16 or fp32")
        if run.get("torch_compile"):
            problems.append("fsdp and torch_compile were not tried together; leave one of them out")
        if value and problems:
            raise ValueError(*problems)
        return value

    @field_validator("generation_max_len")
    @classmethod
    def _check_lengths(cls, value: int | None, info: ValidationInfo) -> int | None:
        longest, shortest = value or info.data.get("decoder_max_len"), info.data.get("generation_min_len")
        if longest is not None and shortest is not None and shortest > longest:
            raise ValueError(f"generation_min_len must be at most generation_max_len {longest}, but is {shortest}")
        return value

    @field_validator("rouge_weights")
    @classmethod
    def _check_weights(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0 <= weight <= 1 for weight in value) or not math.isclose(sum(value), 1.0, abs_tol=1e-6):
            raise ValueError(f"rouge_weights must be three numbers from 0 to 1 that add up to 1, but are {list(value)}")
        return value

    @property
    def micro_batch(self) -> int:
        """Dialogues in one forward pass."""
        return self.batch_size // self.gradient_accumulation_steps

    @property
    def summary_max_len(self) -> int:
        """Longest generated summary in tokens."""
        return self.generation_max_len or self.decoder_max_len

    @property
    def generation_batch(self) -> int:
        """Dialogues that are summarized together."""
        return self.generation_batch_size or GENERATION_BATCH

    @property
    def loss_batch(self) -> int:
        """Dialogues per forward pass of the dev loss."""
        return self.loss_batch_size or self.micro_batch

    def to_dict(self) -> dict[str, object]:
        """Returns plain values for JSON, YAML and from_dict."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, object], *, where: str = "run configuration") -> "RunConfig":
        """Builds a configuration from plain values; reports unknown keys, wrong types and bad values together.

        Raises:
            RequestError: With every problem.

        >>> RunConfig.from_dict({"learning_rate": 3e-4, "rouge_weights": [0.5, 0.0, 0.5]}).rouge_weights
        (0.5, 0.0, 0.5)
        """
        return from_mapping(cls, values, where=where)

    def with_changes(self, changes: Mapping[str, object]) -> typing.Self:
        """Returns a copy with some values replaced, checked as in from_dict.

        >>> RunConfig().with_changes({"num_beams": 4}).num_beams
        4
        """
        return from_mapping(type(self), self.to_dict() | dict(changes), where="changes of the run configuration")


WITHOUT_ADAPTER: Mapping[str, object] = MappingProxyType(
    {field.name: field.default for field in dataclasses.fields(RunConfig) if field.name.startswith("adapter_")}
)
FIELD_DESCRIPTIONS: Mapping[str, str] = MappingProxyType(descriptions(RunConfig))


def load_run_config(path: Path, overrides: Mapping[str, object] | None = None) -> RunConfig:
    """Reads a run configuration from YAML; see read_run_config."""
    return read_run_config(path, overrides)[0]


def read_run_config(path: Path, overrides: Mapping[str, object] | None = None) -> tuple[RunConfig, tuple[str, ...]]:
    """Reads a run configuration from YAML, with our names or those of Hugging Face's trainers (see aliases).

    Args:
        path: A YAML file of `field: value` lines, flat or in sections; absent fields keep their defaults.
        overrides: Values that replace those of the file, for example from the command line.

    Returns:
        The configuration, and notes on what was translated; none for a file with our names.

    Raises:
        RequestError: When the file cannot be read, and with every unknown key, wrong type and bad value, by line.
    """
    document = load_yaml(packaged(path))
    translation = translate(document, tuple(FIELD_DESCRIPTIONS))
    located = translation.located(document)
    changed = dict(overrides or {})
    file_lines = {keys: line for keys, line in located.lines.items() if not keys or keys[0] not in changed}
    where = f"{path} with {', '.join(changed)} given beside it" if changed else str(path)
    located = dataclasses.replace(located, lines=file_lines)  # an override has no line in the file
    problems = Problems()
    problems.extend(translation.problems)
    try:
        config = from_mapping(RunConfig, translation.values | changed, where=where, located=located)
    except RequestError as error:
        problems.extend(error.problems)
    problems.raise_if_any(where)
    return config, translation.notes(str(path))
