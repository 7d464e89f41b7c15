"""From a run configuration to a question for the memory estimator.

Must not import torch or transformers where a model is known by name or lies in a folder: an estimate answers at once.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path

from cluster.estimator.checkpoint import Checkpoint, find_in_hub_cache, read_checkpoint
from cluster.estimator.gpu_profile import GpuProfile
from cluster.estimator.model_facts import ModelFacts, model_facts, read_model_folder
from cluster.estimator.request import BF16_SM, Allocator, MemoryRequest, Precision
from cluster.estimator.sharding import Sharding
from dialsum.adapters import memory_settings
from dialsum.config import RunConfig
from dialsum.models import ModelSpec, hf_config, repository_of, resolve

# Fields that no memory estimate depends on: runs that differ in nothing else need the same memory.
NO_BYTES = frozenset(
    {
        "adapter_alpha",
        "learning_rate",
        "prompt",
        "num_epochs",
        "max_steps",
        "eval_steps",
        "lr_scheduler",
        "warmup_ratio",
        "warmup_steps",
        "weight_decay",
        "max_grad_norm",
        "seed",
        "early_stopping_patience",
        "early_stopping_threshold",
        "length_penalty",
        "temperature",
        "top_k",
        "top_p",
        "generation_min_len",
        "remove_tokens",
        "columns",
        "use_topic",
        "max_train_samples",
        "max_eval_samples",
    }
)
NEVER_FP16 = frozenset({"t5", "mt5"})  # their activations overflow; the trainer decides alike, see dialsum.device


def memory_key(config: RunConfig) -> tuple[object, ...]:
    """Returns what is equal for all runs that need the same memory.

    >>> memory_key(RunConfig(learning_rate=3e-5, dropout=0.1)) == memory_key(RunConfig(seed=7, dropout=0.3))
    True
    >>> memory_key(RunConfig(dropout=0.0)) == memory_key(RunConfig(dropout=0.3))
    False
    """
    switches = {name: True for name in ("adapter_dropout", "dropout", "label_smoothing") if getattr(config, name)}
    return tuple(switches.get(name, value) for name, value in vars(config).items() if name not in NO_BYTES)


def request_of(
    config: RunConfig,
    gpu: GpuProfile,
    *,
    model: ModelFacts | None = None,
    allocator: Allocator = "expandable",
    ranks: int = 1,
) -> MemoryRequest:
    """Asks for what a run will need on a card.

    Args:
        config: The run; precision "auto" becomes what the trainer would choose on this card.
        gpu: The card.
        model: Facts of config.model, where the caller has them already.
        allocator: How torch's allocator is set; trials of a sweep run with expandable segments.
        ranks: Data-parallel processes, each on a card of its own. A run with `fsdp` is divided among them.

    Raises:
        RequestError: When the model is unknown or cannot be estimated, or lengths do not fit its positions.
    """
    facts = model or facts_of(config)
    return MemoryRequest(
        model=facts,
        gpu=gpu,
        batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        encoder_max_len=config.encoder_max_len,
        decoder_max_len=config.decoder_max_len,
        precision=precision_on(gpu, config, facts.family),
        adapter=memory_settings(config),
        optimizer=config.optimizer,
        attention=config.attention,
        gradient_checkpointing=config.gradient_checkpointing,
        label_smoothing=config.label_smoothing,
        dropout=config.dropout,
        num_beams=config.num_beams,
        generation_batch_size=config.generation_batch,
        loss_batch_size=config.loss_batch_size,
        generation_max_len=config.generation_max_len,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        allocator=allocator,
        torch_compile=config.torch_compile,
        ranks=ranks,
        sharding=sharding_of(facts, memory_settings(config)) if config.fsdp else None,
    )


def open_batches(config: RunConfig) -> tuple[str, ...]:
    """Returns the evaluation batches that a configuration leaves to the memory plan.

    >>> open_batches(RunConfig(loss_batch_size=8))
    ('generation_batch_size',)
    """
    return tuple(name for name in ("loss_batch_size", "generation_batch_size") if getattr(config, name) is None)


def sharding_of(facts: ModelFacts, adapter: Mapping[str, object] | None = None) -> Sharding:
    """Counts what is gathered of a model that is divided among several cards.

    Takes some seconds the first time, as it builds the model without its weights.

    Args:
        facts: Facts of the model.
        adapter: See adapters.memory_settings; None without one.

    Raises:
        RequestError: When the model cannot be built, or divided.
    """
    values = json.dumps(dict(facts.config), sort_keys=True, default=str)
    return _sharding(values, facts.untied, json.dumps(adapter))


@functools.cache
def _sharding(values: str, untied: bool, adapter: str) -> Sharding:
    from dialsum.sharding import pieces_of
    from dialsum.workload import empty_model

    pieces = pieces_of(empty_model(json.loads(values), untied=untied, adapter=json.loads(adapter)))
    return Sharding(layer_parameters=pieces.layer, rest_parameters=pieces.rest, table_parameters=pieces.table)


def precision_on(gpu: GpuProfile, config: RunConfig, family: str) -> Precision:
    """Returns the number format that a run has on a card: for "auto" what dialsum.device.precision_of takes there.

    >>> from cluster.estimator.gpu_profile import find_gpu
    >>> precision_on(find_gpu("L4"), RunConfig(), "t5"), precision_on(find_gpu("T4"), RunConfig(), "t5")
    ('bf16', 'fp32')
    """
    if config.precision != "auto":
        return config.precision
    if gpu.sm >= BF16_SM:
        return "bf16"
    return "fp32" if family in NEVER_FP16 else "fp16"


def facts_of(config: RunConfig, *, untied: bool | None = None) -> ModelFacts:
    """Reads what an estimate must know of a run's model.

    A named model is known without any file; where its weights were downloaded before, their header says whether the
    output head is tied. Any other hub id is read from the local cache first, and from the hub only then.

    Args:
        config: Gives the model, and the shape of a tiny one.
        untied: Whether the output head is untied, where the person said so.

    Raises:
        RequestError: When the model is unknown, cannot be loaded, or is no language model.
    """
    name = config.model
    if Path(name).is_dir():
        return read_model_folder(Path(name), untied=untied)
    spec = resolve_light(name)
    if spec is not None and spec.hub_id is None:
        return model_facts(name, _tiny_values(config, spec), untied=untied)
    hub_id = spec.hub_id if spec is not None and spec.hub_id else name
    repository, revision = repository_of(hub_id)
    folder = find_in_hub_cache(repository, hub_cache(), revision)
    downloaded = folder is not None and (folder / "config.json").is_file()
    if spec is not None and spec.shape and not (revision and downloaded):
        return model_facts(name, values_of(spec), checkpoint=_weights(folder), untied=untied)
    if folder is not None and downloaded:
        return dataclasses.replace(read_model_folder(folder, untied=untied), name=name)
    values: Mapping[str, object] = hf_config(name).to_dict()
    return model_facts(name, values, checkpoint=_weights(folder), untied=untied)


def resolve_light(name: str) -> ModelSpec | None:
    """Finds a named model, by its hub id too; None for another hub id, of which only its own configuration knows more.

    Raises:
        RequestError: When the name is neither.
    """
    from dialsum.models import SPECS

    repository = repository_of(name)[0]
    ids = {repository_of(spec.hub_id)[0]: spec for spec in SPECS.values() if spec.hub_id is not None}
    named = SPECS.get(name) or ids.get(repository)
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/"))
    return named if named is not None or is_hub_id else resolve(name)


def hub_cache() -> Path:
    """Returns the folder in which models of the hub are kept, as huggingface_hub chooses it."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen)
    home = os.environ.get("HF_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "huggingface") / "hub"


def values_of(spec: ModelSpec) -> dict[str, object]:
    """Returns the configuration of a named model, as far as it moves memory."""
    return {"model_type": spec.architecture, "is_encoder_decoder": spec.kind == "seq2seq", **spec.shape}


def _tiny_values(config: RunConfig, spec: ModelSpec) -> Mapping[str, object]:
    """The shape of a tiny model with the largest vocabulary that its tokenizer may learn."""
    from dialsum.tiny_models import tiny_config

    values: Mapping[str, object] = tiny_config(config, spec.architecture, config.tiny_vocab_size).to_dict()
    return values


def _weights(folder: Path | None) -> Checkpoint | None:
    return read_checkpoint(folder) if folder is not None else None
