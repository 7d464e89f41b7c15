"""Models by name: common families for Korean, any hub id or folder, and tiny models without a hub."""

import functools
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from dialsum.adapters import base_of, load_adapter, with_adapter
from dialsum.config import RunConfig
from dialsum.tiny_models import tiny_config
from tuning_common.errors import Problems, RequestError
from tuning_common.strict import nearest

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal["seq2seq", "causal"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A named model.

    Attributes:
        name: Name in a configuration.
        architecture: Name of the family in run names and calibration: bart, gpt2, t5 or mt5.
        kind: Encoder-decoder, or decoder only (prompt and summary in one sequence).
        hub_id: Hub id of the weights; None for a tiny model, which starts from random weights.
        shape: Hugging Face configuration values; enough to estimate memory without the hub.
        learning_rates: A good search range (see benchmarks and the notes of published runs).
        special_tokens: Special tokens that the tokenizer's repository lacks.
        source: Source of the shape.
    """

    name: str
    architecture: str
    kind: Kind
    hub_id: str | None
    shape: Mapping[str, object] = field(default_factory=dict)
    learning_rates: tuple[float, float] = (1e-5, 1e-4)
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


Shape = dict[str, object]

_KOBART: Shape = {
    "vocab_size": 30000, "d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 16,
    "decoder_attention_heads": 16, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072, "max_position_embeddings": 1026,
    "pad_token_id": 3, "bos_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 1, "forced_eos_token_id": 1,
}  # fmt: skip
_KOGPT2: Shape = {
    "vocab_size": 51200, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "bos_token_id": 1,
    "eos_token_id": 1, "pad_token_id": 3,
}  # fmt: skip


def _seq2seq(name: str, architecture: str, hub_id: str, shape: Shape, source: str) -> ModelSpec:
    rates = (1e-5, 1e-4) if architecture == "bart" else (1e-4, 1e-3)
    return ModelSpec(
        name=name, architecture=architecture, kind="seq2seq", hub_id=hub_id, shape=shape, source=source,
        learning_rates=rates,
    )  # fmt: skip


def _t5_shape(size: Literal["small", "base"], vocab_size: int, **changes: object) -> Shape:
    """Returns the shape of T5 1.1 and mT5 (t5x gin files): gated GELU, heads of 64."""
    layers, width, heads, ffn = (8, 512, 6, 1024) if size == "small" else (12, 768, 12, 2048)
    shape: Shape = {
        "num_layers": layers, "num_decoder_layers": layers, "d_model": width, "num_heads": heads, "d_ff": ffn,
        "d_kv": 64, "vocab_size": vocab_size, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
        "pad_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    return shape | changes


def _language_model(name: str, architecture: str, hub_id: str, shape: Shape, source: str) -> ModelSpec:
    """Returns a large model; its range of learning rates is that of an adapter."""
    common: Shape = {"head_dim": 128, "num_key_value_heads": 8, "tie_word_embeddings": True}
    return ModelSpec(
        name=name, architecture=architecture, kind="causal", hub_id=hub_id, shape=common | shape, source=source,
        learning_rates=(5e-5, 1e-3),
    )  # fmt: skip


_QWEN3: Shape = {
    "vocab_size": 151936, "max_position_embeddings": 40960, "bos_token_id": 151643, "eos_token_id": 151645,
}  # fmt: skip
_T5_V1 = {"feed_forward_proj": "relu"}  # the first T5: plain ReLU, wider feed-forward
_SPECS = (
    _seq2seq("kobart", "bart", "gogamza/kobart-base-v2", _KOBART, "SKT KoBART README; 123,859,968 parameters"),
    _seq2seq(
        "kobart-summarization", "bart", "digit82/kobart-summarization",
        _KOBART | {"decoder_start_token_id": 2, "forced_eos_token_id": 2}, "config.json of the hub repository",
    ),
    ModelSpec(
        name="kogpt2", architecture="gpt2", kind="causal", hub_id="skt/kogpt2-base-v2", shape=_KOGPT2,
        special_tokens={"bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        source="SKT KoGPT2 README; 125,164,032 parameters",
    ),
    _seq2seq("t5", "t5", "paust/pko-t5-base", _t5_shape("base", 50358), "pko-t5 args.py; Korean"),
    _seq2seq("pko-t5-small", "t5", "paust/pko-t5-small", _t5_shape("small", 50358), "pko-t5 args.py; Korean"),
    _seq2seq(
        "ke-t5-small", "t5", "KETI-AIR/ke-t5-small", _t5_shape("small", 64128, dropout_rate=0.0), "T5 1.1; Korean"
    ),
    _seq2seq("ke-t5-base", "t5", "KETI-AIR/ke-t5-base", _t5_shape("base", 64128, dropout_rate=0.0), "T5 1.1; Korean"),
    _seq2seq(
        "t5-small", "t5", "google-t5/t5-small",
        _t5_shape("small", 32128, num_layers=6, num_decoder_layers=6, num_heads=8, d_ff=2048, **_T5_V1),
        "t5x gin; English; 60,506,624 parameters",
    ),
    _seq2seq(
        "t5-base", "t5", "google-t5/t5-base", _t5_shape("base", 32128, d_ff=3072, **_T5_V1),
        "t5x gin; English; 222,903,552 parameters",
    ),
    _seq2seq("mt5", "mt5", "google/mt5-small", _t5_shape("small", 250112), "t5x gin; 300,176,768 untied"),
    _seq2seq("mt5-base", "mt5", "google/mt5-base", _t5_shape("base", 250112), "t5x gin; 582,401,280 untied"),
    _language_model(
        "qwen3-0.6b", "qwen3", "Qwen/Qwen3-0.6B@c1899de289a04d12100db370d81485cdf75e47ca",
        _QWEN3 | {
            "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        },
        "config.json; multilingual; Apache 2.0; 596,049,920 parameters",
    ),
    _language_model(
        "qwen3-4b", "qwen3", "Qwen/Qwen3-4B@1cfa9a7208912126459214e8b04321603b3df60c",
        _QWEN3 | {
            "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        },
        "config.json; multilingual; Apache 2.0; 4,022,468,096 parameters",
    ),
    _language_model(
        "midm-2b", "llama", "K-intelligence/Midm-2.0-Mini-Instruct@383eb221c52a32278f1985257b264ade8d982e60",
        {
            "vocab_size": 131392, "hidden_size": 1792, "intermediate_size": 4608, "num_hidden_layers": 48,
            "num_attention_heads": 32, "max_position_embeddings": 32768, "bos_token_id": 0, "eos_token_id": 2,
        },
        "not read from its config.json: agrees with the published 2.3 billion parameters; Korean and English; MIT",
    ),
    ModelSpec(name="tiny-bart", architecture="bart", kind="seq2seq", hub_id=None, learning_rates=(3e-4, 1e-2)),
    ModelSpec(name="tiny-gpt2", architecture="gpt2", kind="causal", hub_id=None, learning_rates=(3e-4, 1e-2)),
    ModelSpec(name="tiny-t5", architecture="t5", kind="seq2seq", hub_id=None, learning_rates=(3e-4, 1e-2)),
)  # fmt: skip
SPECS: Mapping[str, ModelSpec] = {spec.name: spec for spec in _SPECS}


_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
BROKEN = (ValueError, TypeError, KeyError, AttributeError, IndexError)  # what transformers raises for odd files


def reason_of(error: Exception) -> str:
    """Returns an error's reason on one line; the validator of transformers gives it in its last lines.

    >>> reason_of(ValueError("Validation error for field 'd_model':\\n    TypeError: Field 'd_model' expected int"))
    "Validation error for field 'd_model': TypeError: Field 'd_model' expected int"
    """
    text = " ".join(line.strip() for line in str(error).strip().splitlines()[:3])
    return text[:300] if isinstance(error, (OSError, ValueError)) and text else f"{type(error).__name__}: {text[:300]}"


def resolve(name: str) -> ModelSpec:
    """Finds a model by its name, hub id or folder.

    Args:
        name: A key of SPECS, `owner/model` or `owner/model@revision` on the hub, or a folder with a config.json or an
            adapter.

    Returns:
        The specification; for a hub id or folder, kind and architecture are read from its configuration.

    Raises:
        RequestError: When it is none of these; the message lists the names.

    >>> resolve("kobart").hub_id
    'gogamza/kobart-base-v2'
    """
    if name in SPECS:
        return SPECS[name]
    if not Path(name).is_dir() and ("/" not in name or name.startswith((".", "/"))):
        raise RequestError(
            f"model {name!r} is unknown{nearest(name, list(SPECS))}",
            [f"known names: {', '.join(SPECS)}", "or a hub id (owner/model), or a folder with config.json"],
        )
    config = load_config(name)
    _refuse_other_tasks(name, config)
    kind: Kind = "seq2seq" if config.is_encoder_decoder else "causal"
    return ModelSpec(name=name, architecture=str(config.model_type), kind=kind, hub_id=name, source="its own config")


def hf_config(name: str) -> "PretrainedConfig":
    """Builds a model's configuration without its weights and, for a named model, without the hub.

    Args:
        name: See resolve; tiny models need a tokenizer first, see tiny_models.

    Raises:
        RequestError: When the name is unknown, tiny, or its configuration cannot be loaded.
    """
    spec = resolve(name)
    if not spec.shape:
        if spec.hub_id is None:
            raise RequestError(f"{name}: a tiny model's shape depends on its data; use tiny_models.tiny_config")
        return load_config(spec.hub_id)
    from transformers import AutoConfig

    made: PretrainedConfig = AutoConfig.for_model(spec.architecture, **spec.shape)
    return made


def repository_of(model: str) -> tuple[str, str | None]:
    """Splits a hub id into repository and revision; a folder has none.

    >>> repository_of("Qwen/Qwen3-0.6B@main"), repository_of("gogamza/kobart-base-v2")
    (('Qwen/Qwen3-0.6B', 'main'), ('gogamza/kobart-base-v2', None))
    """
    name, _, revision = (model, "", "") if Path(model).is_dir() else model.partition("@")
    return name, revision or None


def with_dropout(config: "PretrainedConfig", dropout: float | None) -> "PretrainedConfig":
    """Sets the dropout attributes of the family; None changes nothing."""
    if dropout is not None:
        for key in ("dropout", "dropout_rate", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
            if hasattr(config, key):
                setattr(config, key, dropout)
    return config


def model_class(kind: Kind) -> type["PreTrainedModel"]:
    """Returns transformers' automatic class for a kind of language model."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    chosen: type[PreTrainedModel] = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    return chosen


def build_model(config: RunConfig, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """Loads the model of a run (or creates a tiny one) and resizes its embedding for the tokenizer; set the seed first.

    Loads only safetensors and runs no code of a repository. A run with an adapter gets a new one, or continues the one
    in the model's folder; a run without an adapter gets the model into which the folder's adapter is merged.

    Raises:
        RequestError: When the weights cannot be loaded, or the model has fewer positions than the run wants.
    """
    from transformers.utils.logging import disable_progress_bar

    from dialsum.device import precision_of, weights_dtype

    disable_progress_bar()
    spec = resolve(config.model)
    if spec.hub_id is None:
        shape = tiny_config(config, spec.architecture, len(tokenizer))
        model = model_class(spec.kind).from_config(shape, attn_implementation=config.attention)
        return model.to(weights_dtype(config.precision))
    base = base_of(spec.hub_id)
    frozen = config.adapter_type is not None
    precision = precision_of(config.precision, spec.architecture) if frozen else config.precision
    model = _load_weights(base or spec.hub_id, config, spec.kind, weights_dtype(precision, frozen=frozen))
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if base is not None:
        model = load_adapter(model, Path(spec.hub_id), config)
        return model if frozen else model.merge_and_unload()
    return with_adapter(model, config, repository_of(spec.hub_id)[1]) if frozen else model


def _load_weights(name: str, config: RunConfig, kind: Kind, dtype: "torch.dtype") -> "PreTrainedModel":
    """Loads a model from the hub or a folder."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    shape = with_dropout(load_config(name), config.dropout)
    check_lengths(config, getattr(shape, "max_position_embeddings", None), kind)
    folder = Path(name)
    try:
        return model_class(kind).from_pretrained(
            str(folder.resolve()) if folder.is_dir() else repository_of(name)[0],  # an adapter names its base by it
            config=shape,
            attn_implementation=config.attention,
            use_safetensors=True,
            dtype=dtype,
            **hub_options(name),
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, *BROKEN, RuntimeError, ImportError, SafetensorError, StrictDataclassError) as error:
        raise _not_loaded(name, error) from None


def check_weights(name: str) -> None:
    """Refuses a model whose weights are not at hand and cannot be fetched. Loads nothing.

    Raises:
        RequestError: When the name is unknown, or neither folder, local cache nor hub can give the weights.
    """
    spec = resolve(name)
    if spec.hub_id is None or (not Path(spec.hub_id).is_dir() and _hub_reachable()):
        return
    from huggingface_hub import try_to_load_from_cache

    if Path(spec.hub_id).is_dir():
        found = any((Path(spec.hub_id) / file).is_file() for file in _WEIGHTS)
    else:
        found = any(isinstance(try_to_load_from_cache(spec.hub_id, file), str) for file in _WEIGHTS)
    if not found:
        raise _not_loaded(spec.hub_id, OSError(f"it has no {_WEIGHTS[0]}"))


def check_lengths(config: RunConfig, positions: int | None, kind: Kind) -> None:
    """Refuses lengths beyond a model's table of positions, which would fail with a CUDA assertion on a GPU.

    Args:
        config: The lengths in tokens.
        positions: Rows of the table; None for relative positions (T5), which have no limit.
        kind: A causal model holds dialogue and summary in one sequence.

    Raises:
        RequestError: With every length that does not fit.

    >>> check_lengths(RunConfig(encoder_max_len=512, decoder_max_len=128), 1024, "causal")
    """
    if positions is None:
        return
    problems = Problems()
    for name, summary in (("decoder_max_len", config.decoder_max_len), ("generation_max_len", config.summary_max_len)):
        if kind == "causal" and config.encoder_max_len + summary > positions:
            problems.add(f"encoder_max_len {config.encoder_max_len} and {name} {summary} must fit into {positions}")
        elif summary > positions:
            problems.add(f"{name} must be at most {positions}, but is {summary}")
    if kind == "seq2seq" and config.encoder_max_len > positions:
        problems.add(f"encoder_max_len must be at most {positions}, but is {config.encoder_max_len}")
    problems.raise_if_any(f"model {config.model!r} has {positions} positions")


def hub_options(hub_id: str) -> dict[str, bool | str | None]:
    """Returns arguments for from_pretrained, beside the repository.

    Uses only the local cache where the hub is not reachable. Never runs a model's own code; without the setting,
    transformers would ask at the terminal and wait.
    """
    offline = not Path(hub_id).is_dir() and not _hub_reachable()
    return {"local_files_only": offline, "trust_remote_code": False, "revision": repository_of(hub_id)[1]}


@functools.cache
def _hub_reachable() -> bool:
    """Returns whether the hub's host name resolves; avoids half a minute of retries before the error."""
    from huggingface_hub import constants

    if "https" in urllib.request.getproxies():
        return True  # the proxy resolves names
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def load_config(hub_id: str) -> "PretrainedConfig":
    """Loads the configuration of a hub id or a folder; an adapter without one has its base's.

    Raises:
        RequestError: When it cannot be loaded.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if not (Path(hub_id) / "config.json").is_file():
        hub_id = base_of(hub_id) or hub_id
    try:
        config = AutoConfig.from_pretrained(repository_of(hub_id)[0], **hub_options(hub_id))
    except (OSError, *BROKEN, StrictDataclassError) as error:
        raise _not_loaded(hub_id, error) from None
    return config


def _refuse_other_tasks(name: str, config: "PretrainedConfig") -> None:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise RequestError(
            f"model {name!r} is no language model",
            [f"model_type {config.model_type!r} neither writes text from text (seq2seq) nor continues text (causal)"],
        )


def _not_loaded(hub_id: str, error: Exception) -> RequestError:
    reason = reason_of(error)
    if "custom code" in reason:
        what = "it brings its own code, which is never run here (trust_remote_code)"
        return RequestError(
            f"model {hub_id!r} cannot be loaded", [what, "take a model whose model_type transformers knows by itself"]
        )
    if not Path(hub_id).is_dir() and not _hub_reachable():
        reason = "it is not in the local cache, and the model hub cannot be reached from this machine"
    return RequestError(
        f"model {hub_id!r} cannot be loaded",
        [reason, "without the hub: give a local folder with config.json and model.safetensors, or take tiny-bart"],
    )
