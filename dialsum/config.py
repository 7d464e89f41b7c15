"""The flat, frozen configuration of one run, shared by the trainer, the estimator and sweeps.

Must not import torch or transformers: the tuner reads configurations before heavy imports.
"""

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from dialsum.translation import translate
from tuning_common.errors import Problems, RequestError
from tuning_common.files import packaged
from tuning_common.goal import Goal
from tuning_common.strict import from_mapping, load_yaml, nearest

Language = Literal["ko", "en"]
LrScheduler = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "constant"]
OptimizerName = Literal["adamw_fused", "adamw", "adafactor", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "sgd"]
Precision = Literal["auto", "fp32", "fp16", "bf16", "bf16_pure"]
Attention = Literal["sdpa", "eager"]
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of training, scoring and running one summarizer.

    The defaults train `tiny-bart` on the sample data within a minute or two on one CPU core. Each field's type
    carries its description, for help texts (FIELD_DESCRIPTIONS). Values are checked on construction.

    Raises:
        RequestError: With every invalid field.

    >>> config = RunConfig(batch_size=32, gradient_accumulation_steps=4)
    >>> config.micro_batch, config.summary_max_len
    (8, 128)
    """

    model: Annotated[str, "A named family (kobart, kogpt2, t5, mt5, tiny-*), a hub id or a local folder."] = "tiny-bart"
    train_file: Annotated[str, "Dialogues with summaries for training."] = "outputs/sample_data/train.jsonl"
    dev_file: Annotated[str, "Dialogues with summaries for choosing the best model."] = "outputs/sample_data/dev.jsonl"
    test_file: Annotated[str | None, "Dialogues that the best model summarizes at the end."] = None
    columns: Annotated[
        tuple[str, ...], "Names of the columns in the data files: {dialogue: text, summary: label}."
    ] = ()
    use_topic: Annotated[bool, "Give a dialogue's topic, where it has one, on a line before it."] = False
    language: Annotated[Language, "How ROUGE splits text: ko (Kiwi morphemes) or en (Porter stems)."] = "ko"

    encoder_max_len: Annotated[int, "Longest dialogue in tokens; the rest is cut off and counted."] = 512
    decoder_max_len: Annotated[int, "Longest summary in tokens."] = 128
    max_train_samples: Annotated[int | None, "Train on the first N dialogues only; all when null."] = None
    max_eval_samples: Annotated[int | None, "Evaluate on the first N dialogues only; all when null."] = None

    learning_rate: Annotated[float, "Peak learning rate."] = 1e-3
    batch_size: Annotated[int, "Effective batch: dialogues per optimizer step."] = 16
    gradient_accumulation_steps: Annotated[int, "Forward passes per effective batch; must divide it."] = 1
    num_epochs: Annotated[int, "Passes over the training data."] = 3
    max_steps: Annotated[int | None, "Stop after this many optimizer steps, regardless of num_epochs."] = None
    eval_steps: Annotated[int | None, "Optimizer steps between evaluations; each epoch when null."] = None
    lr_scheduler: Annotated[LrScheduler, "How the learning rate falls after the warm-up."] = "linear"
    warmup_ratio: Annotated[float, "Fraction of all steps in which the learning rate rises from zero."] = 0.1
    warmup_steps: Annotated[int | None, "Steps in which it rises, instead of warmup_ratio."] = None
    weight_decay: Annotated[float, "Decoupled weight decay."] = 0.01
    label_smoothing: Annotated[float, "Probability taken from the right token and spread over all."] = 0.0
    dropout: Annotated[float | None, "Dropout of the model; the model's own when null."] = None
    max_grad_norm: Annotated[float, "Gradients longer than this are scaled down; 0 turns that off."] = 1.0
    optimizer: Annotated[OptimizerName, "Optimizer; 8-bit and paged ones need bitsandbytes and CUDA."] = "adamw_fused"
    seed: Annotated[int, "Seed of weights, order of dialogues and dropout."] = 0
    metric: Annotated[str, "Metric that selects the best model and drives early stopping."] = COMPOSITE
    goal: Annotated[Goal, "Whether the metric is maximized or minimized."] = "maximize"
    early_stopping_patience: Annotated[int | None, "Stop after N evaluations without progress; never when null."] = None
    early_stopping_threshold: Annotated[float, "Smallest gain in the metric that counts as progress."] = 0.0

    precision: Annotated[
        Precision,
        "Number format; auto: the best that the device can do; bf16_pure: weights too.",
    ] = "auto"
    attention: Annotated[Attention, "Attention kernels: sdpa (fast) or eager (plain)."] = "sdpa"
    gradient_checkpointing: Annotated[bool, "Recompute activations in the backward pass: less memory, slower."] = False
    fsdp: Annotated[bool, "Shard weights, gradients and optimizer over a run's processes: less memory each."] = False
    torch_compile: Annotated[bool, "Compile the model; pays on long runs on a GPU."] = False
    cpu_threads: Annotated[int, "Threads of torch in this process."] = 1
    dataloader_workers: Annotated[int, "Processes that prepare batches; 0 prepares them in this process."] = 0
    pin_memory: Annotated[bool | None, "Page-locked batches; null: where a GPU is used."] = None

    num_beams: Annotated[int, "Beams of the search for a summary; 1 is greedy."] = 1
    length_penalty: Annotated[float, "Above 1 prefers longer summaries; only with beams."] = 1.0
    no_repeat_ngram_size: Annotated[int, "N-grams of this many tokens must not repeat; 0 allows it."] = 0
    repetition_penalty: Annotated[float, "Above 1 makes tokens that are in the text already less probable."] = 1.0
    do_sample: Annotated[bool, "Draw tokens by their probability, with the run's seed, instead of the best."] = False
    temperature: Annotated[float, "Sampling: below 1 prefers probable tokens."] = 1.0
    top_k: Annotated[int, "Sampling: only the k most probable tokens; 0: all."] = 50
    top_p: Annotated[float, "Sampling: only the most probable tokens with this probability together."] = 1.0
    generation_min_len: Annotated[int, "Shortest generated summary in tokens."] = 0
    generation_max_len: Annotated[int | None, "Longest generated summary in tokens; decoder_max_len when null."] = None
    generation_batch_size: Annotated[
        int | None, "Dialogues that are summarized together; null: 32, in a sweep as many as need no more memory."
    ] = None
    loss_batch_size: Annotated[
        int | None, "Dialogues per forward pass of the dev loss; null: a micro-batch, in a sweep as above."
    ] = None
    remove_tokens: Annotated[tuple[str, ...], "Texts cut out of summaries; markers such as </s> always are."] = ()

    rouge_weights: Annotated[
        tuple[float, float, float], "Weights of ROUGE-1, ROUGE-2 and ROUGE-L in rouge_combined_f1; they add up to 1."
    ] = (0.3, 0.3, 0.4)
    summary_length_floor_chars: Annotated[
        int, "rouge_combined_f1 is multiplied by 0.9 where the mean summary is shorter."
    ] = 0

    tiny_hidden_size: Annotated[int, "Width of a tiny-* model."] = 64
    tiny_layers: Annotated[int, "Layers of a tiny-* model (of encoder and decoder each)."] = 2
    tiny_vocab_size: Annotated[int, "Vocabulary that a tiny-* model's tokenizer learns from the data."] = 2000

    def __post_init__(self) -> None:
        problems = Problems()
        for check in (_check_choices, _check_metric, _check_whole_numbers, _check_fractions, _check_together):
            check(self, problems)
        problems.raise_if_any("run configuration")

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

    def with_changes(
        self, changes: Mapping[str, object], *, where: str = "changes of the run configuration"
    ) -> typing.Self:
        """Returns a copy with some values replaced, checked as in from_dict.

        >>> RunConfig().with_changes({"num_beams": 4}).num_beams
        4
        """
        return from_mapping(type(self), self.to_dict() | dict(changes), where=where)


FIELD_DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {name: hint.__metadata__[0] for name, hint in typing.get_type_hints(RunConfig, include_extras=True).items()}
)


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


_AT_LEAST = MappingProxyType(
    {
        "encoder_max_len": 1,
        "decoder_max_len": 2,
        "max_train_samples": 1,
        "max_eval_samples": 1,
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "max_steps": 1,
        "eval_steps": 1,
        "warmup_steps": 0,
        "top_k": 0,
        "generation_min_len": 0,
        "early_stopping_patience": 1,
        "cpu_threads": 1,
        "dataloader_workers": 0,
        "num_beams": 1,
        "no_repeat_ngram_size": 0,
        "generation_max_len": 2,
        "generation_batch_size": 1,
        "loss_batch_size": 1,
        "summary_length_floor_chars": 0,
        "tiny_hidden_size": TINY_HIDDEN_STEP,
        "tiny_layers": 1,
        "tiny_vocab_size": 300,
    }
)


_AT_MOST = MappingProxyType(
    {
        "encoder_max_len": 10**6,
        "decoder_max_len": 10**6,
        "batch_size": 10**5,
        "num_epochs": 10**5,
        "max_steps": 10**9,
        "cpu_threads": 1024,
        "dataloader_workers": 256,
        "num_beams": 1000,
        "warmup_steps": 10**9,
        "generation_max_len": 10**6,
        "generation_batch_size": 10**5,
        "loss_batch_size": 10**5,
        "tiny_hidden_size": 8192,
        "tiny_layers": 100,
        "tiny_vocab_size": 10**6,
    }
)


@functools.cache  # a sweep builds thousands of configurations, and reading type hints takes most of the time
def _choices() -> Mapping[str, tuple[str, ...]]:
    hints = typing.get_type_hints(RunConfig).items()
    return {name: typing.get_args(hint) for name, hint in hints if typing.get_origin(hint) is Literal}


def _check_choices(config: RunConfig, problems: Problems) -> None:
    for name, choices in _choices().items():
        value = getattr(config, name)
        if value not in choices:
            problems.add(f"{name} must be one of {', '.join(choices)}, but is {value!r}")
    for one in config.columns:
        ours, _, theirs = one.partition("=")
        if not theirs or not re.fullmatch(r"fname|dialogue|(summary|topic)\d*|summaries", ours):
            problems.add(f"columns: {one!r} is no name; write {{fname: id, dialogue: text, summary: label}}")
    for name in ("model", "train_file", "dev_file"):
        if not getattr(config, name).strip():
            problems.add(f"{name} must not be empty")


def _check_metric(config: RunConfig, problems: Problems) -> None:
    goal = METRIC_GOALS.get(config.metric)
    if goal is None:
        known = nearest(config.metric, list(METRIC_GOALS)) or f"; known: {', '.join(METRIC_GOALS)}"
        problems.add(f"metric {config.metric!r} is reported by no evaluation{known}")
    elif config.goal != goal:
        problems.add(f"goal {config.goal!r} would choose the worst model by {config.metric}; write goal: {goal}")


def _check_whole_numbers(config: RunConfig, problems: Problems) -> None:
    for name, least in _AT_LEAST.items():
        value = getattr(config, name)
        if value is not None and value < least:
            problems.add(f"{name} must be at least {least}, but is {value}")
    for name, most in _AT_MOST.items():
        value = getattr(config, name)
        if value is not None and value > most:
            problems.add(f"{name} must be at most {most}, but is {value}")
    if not 0 <= config.seed <= MAX_SEED:
        problems.add(f"seed must be between 0 and {MAX_SEED}, but is {config.seed}")
    if config.tiny_hidden_size % TINY_HIDDEN_STEP:
        problems.add(f"tiny_hidden_size must be a multiple of {TINY_HIDDEN_STEP}, but is {config.tiny_hidden_size}")


def _check_fractions(config: RunConfig, problems: Problems) -> None:
    if not 0 < config.learning_rate <= 1:  # NaN fails every comparison, here and below
        problems.add(f"learning_rate must be above 0 and at most 1, but is {config.learning_rate}")
    for name in ("warmup_ratio", "label_smoothing", "dropout"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            problems.add(f"{name} must be at least 0 and below 1, but is {value}")
    for name in ("weight_decay", "max_grad_norm", "early_stopping_threshold"):
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            problems.add(f"{name} must be a number of at least 0, but is {value}")
    for name in ("repetition_penalty", "temperature"):
        value = getattr(config, name)
        if not 0 < value < math.inf:
            problems.add(f"{name} must be a number above 0, but is {value}")
    if not 0 < config.top_p <= 1:
        problems.add(f"top_p must be above 0 and at most 1, but is {config.top_p}")
    if not math.isfinite(config.length_penalty):
        problems.add(f"length_penalty must be finite, but is {config.length_penalty}")


def _check_together(config: RunConfig, problems: Problems) -> None:
    pieces = config.gradient_accumulation_steps
    if pieces >= 1 and config.batch_size % pieces:
        problems.add(f"gradient_accumulation_steps must divide batch_size {config.batch_size}, but is {pieces}")
    if config.generation_min_len > config.summary_max_len:
        problems.add(
            f"generation_min_len must be at most generation_max_len {config.summary_max_len},"
            f" but is {config.generation_min_len}"
        )
    if config.fsdp and config.optimizer not in DIVISIBLE:
        problems.add(
            f"fsdp: the states of {config.optimizer} depend on whole weights; take {', '.join(DIVISIBLE[:-1])} or"
            f" {DIVISIBLE[-1]}"
        )
    if config.fsdp and config.precision == "fp16":
        problems.add("fsdp: each process would scale its fp16 gradients separately; take bf16 or fp32")
    if config.fsdp and config.precision == "bf16_pure":
        problems.add("fsdp keeps fp32 weights beside the bf16 ones that it gathers; take bf16 or fp32")
    if config.fsdp and config.torch_compile:
        problems.add("fsdp and torch_compile were not tried together; leave one of them out")
    weights = config.rouge_weights
    if not all(0 <= weight <= 1 for weight in weights) or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        problems.add(f"rouge_weights must be three numbers from 0 to 1 that add up to 1, but are {list(weights)}")
