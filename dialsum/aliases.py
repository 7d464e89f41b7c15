"""Names that other trainers give to our fields: Hugging Face's arguments, and the sections of teams' configurations.

One table for run configurations and sweep parameters. A name stands with its section (`inference.batch_size`) where
the section decides its meaning, else without.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Part = Literal[  # settings that only together give a field
    "micro_batch", "fp16", "bf16", "rhythm", "eval_steps", "stops_early", "best_metric", "folder", "train_file",
    "dev_file", "test_file", "text_column", "summary_column", "subset", "subset_size",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class To:
    """A name of a field.

    Attributes:
        field: Our field.
        values: Their value -> ours; other values are kept.
        gives_way: Whether another name of the same field may contradict, and wins.
    """

    field: str
    values: Mapping[object, object] = dataclasses.field(default_factory=dict)
    gives_way: bool = False

    def ours(self, value: object) -> object:
        """Returns our value for theirs; a whole number for one written with a fraction, as transformers writes epochs.

        >>> To(field="optimizer", values={"adamw_torch": "adamw"}).ours("adamw_torch"), To(field="num_epochs").ours(3.0)
        ('adamw', 3)
        """
        if isinstance(value, float) and value.is_integer() and value > 1:
            return int(value)
        return self.values.get(value, value) if isinstance(value, (str, int, float)) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A setting that gives a field only together with others."""

    part: Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Ignored:
    """A setting without a meaning here, and why."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A setting that would have an effect that runs do not have.

    Attributes:
        reason: What runs do instead.
        unless: Values with which it has no effect.
    """

    reason: str
    unless: tuple[object, ...] = ()


Alias = To | Piece | Ignored | Refused

SECTIONS = (  # mappings in which teams group settings; the table decides about their keys
    "general", "data", "model", "training", "train", "trainer", "tokenizer", "generation", "inference",
    "early_stopping", "paths", "experiment", "wandb", "logging", "evaluation", "debug", "gpu", "lora", "adapter",
    "strategies", "chat_templates", "solar_api", "quantization",
)  # fmt: skip

_OPTIMIZERS: Mapping[object, object] = MappingProxyType(
    {
        "adamw_torch": "adamw",
        "adamw_hf": "adamw",
        "adamw_torch_fused": "adamw_fused",
        "adamw_bnb_8bit": "adamw_8bit",
        "paged_adamw_32bit": "paged_adamw",
    }
)
_FOLDERS = "results go to the folder of the sweep (tracking.output_dir) or to --output"
_SAVED = "a checkpoint is saved with each evaluation, and the best model is kept"
_LOGGED = "losses are logged by this program's own rhythm"
_EVALUATED = "every evaluation writes summaries and scores them"
_TOKENS = "the tokenizer's own tokens are used, and placeholders of the data (#Person1#) are added by themselves"
_ROUGE = "ROUGE-1, -2 and -L are always computed, on Kiwi's morphemes for Korean; other scorers are not comparable"
_TRACKED = "`tracking` in the sweep file names project and entity; a trial is named by its sweep"
_PLACED = "device, share and memory of a trial are decided by the estimate and `resources`"
_KIND = "the model's own configuration gives its kind"
_PROMPT = "dialogues are given by this program's own prompt"
_ADAPTERS = "an adapter has type, r, alpha, dropout, target_modules and modules_to_save"
QLORA = (
    "a base in 4 or 8 bits (QLoRA) needs the CUDA kernels of bitsandbytes, whose memory cannot be estimated without"
    " them; write `adapter: {type: lora}`: the frozen base is in bf16, 2 bytes a weight"
)
_ADAPTER_FIELDS = ("r", "alpha", "dropout", "target_modules", "modules_to_save")
_QUANTIZED = ("load_in_4bit", "load_in_8bit", "use_qlora", "model.load_in_4bit", "model.load_in_8bit")
_LORA_SECTIONS = ("adapter", "lora", "model.lora")
_DEFAULT_ADAM = "AdamW runs with torch's defaults"
_BEST = "the best model by `metric` is kept always"


def _same(reason: str, names: str) -> Iterator[tuple[str, Alias]]:
    """Yields names that are ignored for one reason."""
    yield from ((name, Ignored(reason=reason)) for name in names.split())


def _to(target: str, names: str, **options: bool) -> Iterator[tuple[str, Alias]]:
    """Yields names of one field."""
    yield from ((name, To(field=target, gives_way=options.get("gives_way", False))) for name in names.split())


ALIASES: Mapping[str, Alias] = MappingProxyType(
    {
        **dict(_to("model", "model_name model_name_or_path pretrained_model_name model.checkpoint")),
        **dict(_to("model", "model.name architecture", gives_way=True)),
        **dict(_to("learning_rate", "lr")),
        **dict(_to("gradient_checkpointing", "activation_checkpointing")),
        **dict(_to("num_epochs", "num_train_epochs epochs")),
        **dict(_to("dataloader_workers", "dataloader_num_workers num_workers")),
        **dict(_to("pin_memory", "dataloader_pin_memory")),
        **dict(_to("label_smoothing", "label_smoothing_factor")),
        **dict(_to("seed", "experiment.seed")),
        **dict(_to("encoder_max_len", "max_source_length max_input_length tokenizer.max_length")),
        **dict(_to("decoder_max_len", "max_target_length val_max_target_length")),
        **dict(_to("generation_batch_size", "inference.batch_size generation.batch_size")),
        **dict(_to("generation_batch_size", "per_device_eval_batch_size eval_batch_size", gives_way=True)),
        **dict(_to("num_beams", "beams beam_size")),
        **dict(_to("num_beams", "generation_num_beams", gives_way=True)),
        **dict(_to("no_repeat_ngram_size", "generation_no_repeat_ngram_size", gives_way=True)),
        **dict(_to("generation_max_len", "max_new_tokens generate_max_length generate_max_new_tokens")),
        **dict(_to("generation_max_len", "inference.max_length generation.max_length")),
        **dict(_to("generation_max_len", "generation_max_length", gives_way=True)),
        **dict(_to("generation_min_len", "min_length min_new_tokens generate_min_new_tokens")),
        "max_steps": To(field="max_steps", values={-1: None}),
        "lr_scheduler_type": To(field="lr_scheduler", values={"constant_with_warmup": "constant"}),
        "scheduler_type": To(field="lr_scheduler", values={"constant_with_warmup": "constant"}),
        "optim": To(field="optimizer", values=_OPTIMIZERS),
        "optimizer": To(field="optimizer", values=_OPTIMIZERS),
        "per_device_train_batch_size": Piece(part="micro_batch"),
        "train_batch_size": Piece(part="micro_batch"),
        "training.batch_size": Piece(part="micro_batch"),
        "fp16": Piece(part="fp16"),
        "bf16": Piece(part="bf16"),
        "evaluation_strategy": Piece(part="rhythm"),
        "eval_strategy": Piece(part="rhythm"),
        "eval_steps": Piece(part="eval_steps"),
        "use_early_stopping": Piece(part="stops_early"),
        "metric_for_best_model": Piece(part="best_metric"),
        "greater_is_better": Ignored(reason="the goal is the metric's own"),
        "general.data_path": Piece(part="folder"),
        "data.data_path": Piece(part="folder"),
        "paths.data_dir": Piece(part="folder"),
        "data.data_dir": Piece(part="folder"),
        "paths.train_data": Piece(part="train_file"),
        "train_path": Piece(part="train_file"),
        "dev_path": Piece(part="dev_file"),
        "val_path": Piece(part="dev_file"),
        "val_file": Piece(part="dev_file"),
        "test_path": Piece(part="test_file"),
        "paths.train_file": Piece(part="train_file"),
        "paths.dev_data": Piece(part="dev_file"),
        "paths.dev_file": Piece(part="dev_file"),
        "validation_file": Piece(part="dev_file"),
        "text_column": Piece(part="text_column"),
        "summary_column": Piece(part="summary_column"),
        "paths.test_data": Piece(part="test_file"),
        "paths.test_file": Piece(part="test_file"),
        "debug.use_subset": Piece(part="subset"),
        "debug.subset_size": Piece(part="subset_size"),
        "adam_beta1": Refused(reason=f"{_DEFAULT_ADAM} (0.9)", unless=(0.9,)),
        "adam_beta2": Refused(reason=f"{_DEFAULT_ADAM} (0.999)", unless=(0.999,)),
        "adam_epsilon": Refused(reason=f"{_DEFAULT_ADAM} (1e-8)", unless=(1e-8, "1e-8", "1e-08")),
        "dataloader_drop_last": Refused(reason="the last, smaller batch is trained too", unless=(False,)),
        "inference.early_stopping": Ignored(reason="a beam search ends when it has num_beams whole summaries"),
        "generation.early_stopping": Ignored(reason="a beam search ends when it has num_beams whole summaries"),
        "training.fsdp": Refused(reason="write `fsdp: true` at the top, to divide a model", unless=("", False)),
        "training.debug": Ignored(reason=_LOGGED),
        "use_liger_kernel": Refused(reason="models run with torch's and transformers' own kernels", unless=(False,)),
        "liger_kernel_config": Refused(reason="models run with torch's and transformers' own kernels", unless=({},)),
        "optim_target_modules": Refused(reason="an optimizer treats all modules alike"),
        "generation_config": Refused(reason="write its settings as fields: num_beams, generation_max_len ..."),
        "torch_compile_backend": Ignored(reason="torch_compile runs with torch's default"),
        "torch_compile_mode": Ignored(reason="torch_compile runs with torch's default"),
        "adafactor": Refused(reason="write `optim: adafactor`", unless=(False,)),
        "deepspeed": Refused(reason="a model that is too large is divided by `fsdp: true`"),
        "neftune_noise_alpha": Refused(reason="training adds no noise to embeddings"),
        "optim_args": Refused(reason=_DEFAULT_ADAM, unless=("", {})),
        "lr_scheduler_kwargs": Refused(reason="schedules run with transformers' defaults", unless=({},)),
        "solar_api.api_key": Refused(reason="no other service is asked; take the key out of the file", unless=("",)),
        "num_beam_groups": Refused(reason="beams form one group", unless=(1,)),
        "num_return_sequences": Refused(reason="one summary is written for each dialogue", unless=(1,)),
        **dict(_same(_FOLDERS, "output_dir overwrite_output_dir general.model_folder_name inference.result_path")),
        **dict(_same(_FOLDERS, "paths.output_dir paths.submission_dir paths.model_save_dir paths.log_dir")),
        **dict(_same(_FOLDERS, "paths.visualization_dir logging_dir")),
        **dict(_same("`dialsum generate --run FOLDER` writes summaries with a finished run", "ckt_path ckt_dir")),
        **dict(_same(_SAVED, "save_on_each_node enable_jit_checkpoint restore_callback_states_from_checkpoint")),
        **dict(_same(_SAVED, "save_strategy save_steps save_total_limit save_safetensors save_only_model")),
        **dict(_same(_BEST, "load_best_model_at_end")),
        **dict(_same(_LOGGED, "logging_strategy logging_steps logging_first_step disable_tqdm log_level run_name")),
        **dict(_same(_LOGGED, "logging_nan_inf_filter log_level_replica log_on_each_node skip_memory_metrics")),
        **dict(_same(_LOGGED, "include_num_input_tokens_seen include_tokens_per_second")),
        **dict(_same("`tracking.wandb` in the sweep file decides", "report_to")),
        **dict(_same(_EVALUATED, "predict_with_generate do_eval do_train do_predict eval_on_start eval_delay")),
        **dict(_same(_EVALUATED, "batch_eval_metrics include_for_metrics include_inputs_for_metrics")),
        **dict(_same(_EVALUATED, "prediction_loss_only eval_do_concat_batches eval_use_gather_object")),
        **dict(_same("batches hold dialogues of similar length always", "group_by_length length_column_name")),
        **dict(_same("the run's seed gives the order of dialogues too", "data_seed full_determinism")),
        **dict(_same("batches hold dialogues of similar length always", "train_sampling_strategy sortish_sampler")),
        **dict(_same("only what the model reads is given to it", "remove_unused_columns label_names")),
        **dict(_same("recomputation is not re-entrant; its gradients are the same", "gradient_checkpointing_kwargs")),
        **dict(_same("recomputation is not re-entrant; its gradients are the same", "activation_checkpointing_kwargs")),
        **dict(_same("the memory of a trial is planned", "torch_empty_cache_steps eval_accumulation_steps")),
        **dict(_same("precision is set by fp16 and bf16", "fp16_opt_level fp16_full_eval bf16_full_eval tf32")),
        **dict(_same("precision is set by fp16 and bf16", "half_precision_backend fp16_backend")),
        **dict(_same("generation uses its cache always, training never", "use_cache")),
        **dict(_same("padding is on the side that the kind of model needs", "padding_side padding truncation")),
        **dict(_same("models come from HF_HOME, as everywhere", "cache_dir")),
        **dict(_same("`tune_jobs hand-over` comes after a sweep", "push_to_hub hub_model_id hub_strategy hub_token")),
        **dict(_same("`tune_jobs hand-over` comes after a sweep", "hub_private_repo hub_always_push hub_revision")),
        **dict(_same(_TRACKED, "project trackio_space_id trackio_bucket_id trackio_static_space_id")),
        **dict(_same("batches are prepared by dataloader_workers", "dataloader_persistent_workers")),
        **dict(_same("batches are prepared by dataloader_workers", "dataloader_prefetch_factor dataloader_in_order")),
        **dict(_same("batches are prepared by dataloader_workers", "dataloader_multiprocessing_context")),
        **dict(_same("`tune_jobs run --resume` continues", "resume_from_checkpoint ignore_data_skip")),
        **dict(_same(_PLACED, "device no_cuda use_cpu local_rank ddp_find_unused_parameters auto_find_batch_size")),
        **dict(_same(_PLACED, "ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_static_graph ddp_timeout")),
        **dict(_same(_PLACED, "accelerator_config parallelism_config fsdp_config")),
        **dict(_same("a summary's loss is a mean over all tokens of a batch", "average_tokens_across_devices")),
        **dict(_same(_TOKENS, "special_tokens bos_token eos_token pad_token unk_token")),
        **dict(_same(_PROMPT, "prompt_template")),
        **dict(_same(_KIND, "model.type model.architecture lora.task_type model.lora.task_type adapter.task_type")),
        **dict(_to("adapter_type", "adapter adapter.type lora.type")),
        **{f"adapter.{name}": To(field=f"adapter_{name}") for name in _ADAPTER_FIELDS},
        **dict(_to("adapter_alpha", "lora.lora_alpha model.lora.lora_alpha lora.alpha adapter.lora_alpha lora_alpha")),
        **dict(_to("adapter_dropout", "lora.lora_dropout model.lora.lora_dropout lora.dropout adapter.lora_dropout")),
        **dict(_to("adapter_dropout", "lora_dropout")),
        **dict(_to("adapter_r", "lora.r model.lora.r lora_r")),
        **dict(_to("adapter_target_modules", "lora.target_modules model.lora.target_modules lora_target_modules")),
        **dict(_to("adapter_modules_to_save", "lora.modules_to_save model.lora.modules_to_save")),
        **{f"{section}.bias": Refused(reason="biases stay frozen", unless=("none",)) for section in _LORA_SECTIONS},
        **{name: Refused(reason=QLORA, unless=(False,)) for name in (_QUANTIZED)},
    }
)

WHOLE_SECTIONS: Mapping[str, Alias] = MappingProxyType(  # for keys that ALIASES does not know
    {
        "wandb": Ignored(reason=_TRACKED),
        "experiment": Ignored(reason=_TRACKED),
        "logging": Ignored(reason=_LOGGED),
        "evaluation": Ignored(reason=_ROUGE),
        "debug": Ignored(reason="a run prints nothing of its data; `max_train_samples` shortens it"),
        "gpu": Ignored(reason=_PLACED),
        "chat_templates": Ignored(reason=_PROMPT),
        "solar_api": Ignored(reason="no other service is asked"),
        "strategies": Refused(reason="this is no part of a run here", unless=(False,)),
        "adapter": Refused(reason=_ADAPTERS),
        "lora": Refused(reason=_ADAPTERS),
        "model.lora": Refused(reason=_ADAPTERS),
        "quantization": Refused(reason=QLORA),
        "model.quantization": Refused(reason=QLORA),
    }
)

_MEAN = (1 / 3, 1 / 3, 1 / 3)
METRICS: Mapping[str, tuple[str, tuple[float, float, float] | None]] = MappingProxyType(
    {  # plain spelling -> our metric, and the weights that make the composite rank as theirs
        "loss": ("eval/loss", None),
        "val_loss": ("eval/loss", None),
        "validation_loss": ("eval/loss", None),
        "rouge1": ("eval/rouge1_f1", None),
        "rouge2": ("eval/rouge2_f1", None),
        "rougel": ("eval/rougeL_f1", None),
        "rouge_avg": ("eval/rouge_combined_f1", _MEAN),
        "rouge_mean": ("eval/rouge_combined_f1", _MEAN),
        "rouge_sum": ("eval/rouge_combined_f1", _MEAN),
        "rouge": ("eval/rouge_combined_f1", _MEAN),
        "rouge_combined": ("eval/rouge_combined_f1", None),
    }
)


def find_alias(name: str) -> Alias | None:
    """Returns the meaning of a name that is no field of ours; None where it is unknown.

    Args:
        name: Dotted, with its sections.

    >>> find_alias("training.num_train_epochs").field, find_alias("wandb.notes").reason == find_alias("wandb.x").reason
    ('num_epochs', True)
    >>> find_alias("training.nums") is None
    True
    """
    if name in ALIASES:
        return ALIASES[name]
    head, _, rest = name.partition(".")
    whole = next((alias for section, alias in WHOLE_SECTIONS.items() if name.startswith(f"{section}.")), None)
    if whole is not None or not rest:
        return whole
    if head not in SECTIONS:
        return None
    return ALIASES.get(rest) or ALIASES.get(rest.split(".")[0] if "_kwargs." in rest else "")


def our_metric(name: str) -> tuple[str, tuple[float, float, float] | None] | None:
    """Returns our name of a metric with the weights that it needs; None where it is unknown.

    >>> our_metric("eval_rouge_l"), our_metric("rouge_sum")[0], our_metric("accuracy")
    (('eval/rougeL_f1', None), 'eval/rouge_combined_f1', None)
    """
    plain = name.lower().replace("-", "_").replace("/", "_").removeprefix("eval_").removeprefix("best_")
    plain = plain.removesuffix("_f1").removesuffix("_f").removesuffix("_score")
    for digit in ("1", "2", "l"):
        plain = f"rouge{digit}" if plain == f"rouge_{digit}" else plain
    return METRICS.get(plain)


def other_names(target: str) -> list[str]:
    """Returns the names of a field in other trainers; with a section where the name alone has another meaning.

    >>> other_names("num_epochs")
    ['num_train_epochs', 'epochs']
    """
    return [name for name, one in ALIASES.items() if isinstance(one, To) and one.field == target != name]
