"""Facts of a model from its configuration: kind, vocabulary, longest input, tied or untied head.

Must not import transformers or torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from cluster.estimator.checkpoint import Checkpoint, read_checkpoint
from tuning_common.errors import Problems, RequestError

Kind = Literal["seq2seq", "causal"]
CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")
SEQ2SEQ_ENDINGS = ("ForConditionalGeneration", "ForSeq2SeqLM", "MTModel")
CAUSAL_TYPES = frozenset({
    "bloom", "codegen", "deepseek_v3", "exaone4",
    "falcon", "gemma", "gemma2", "gemma3_text", "glm", "gpt2", "gpt_bigcode",
    "gpt_neo", "gpt_neox", "gptj", "granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "opt", "phi",
    "phi3", "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2", "xglm",
})  # fmt: skip
SEQ2SEQ_TYPES = frozenset({
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "encoder-decoder", "fsmt", "led", "longt5", "m2m_100",
    "marian", "mbart", "mt5", "mvp", "nllb-moe", "pegasus", "pegasus_x", "plbart", "prophetnet",
    "switch_transformers", "t5", "t5gemma", "umt5",
})  # fmt: skip
NOT_TEXT = ("image_size", "num_channels", "num_mel_bins", "vision_config", "audio_config", "patch_size")
POSITIONS = ("max_position_embeddings", "n_positions", "max_encoder_position_embeddings", "n_ctx")
ADAPTER = "adapter_config.json"  # of peft
NO_POSITION_LIMIT = frozenset({"t5", "mt5", "umt5", "switch_transformers", "bloom"})  # relative positions or ALiBi


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The facts of a language model in its configuration.

    Attributes:
        name: Name, as given.
        family: `model_type` of the configuration, for the calibration.
        kind: Encoder-decoder, or decoder only.
        config: The configuration's values.
        vocab_size: Rows of the output head.
        positions: Longest sequence the model can take; None where there is no limit.
        untied: Whether the output head has its own weights.
        untied_source: Source of `untied`.
    """

    name: str
    family: str
    kind: Kind
    config: Mapping[str, object]
    vocab_size: int
    positions: int | None
    untied: bool
    untied_source: str


def model_facts(
    name: str, config: Mapping[str, object], *, checkpoint: Checkpoint | None = None, untied: bool | None = None
) -> ModelFacts:
    """Reads a configuration.

    Args:
        name: Name for messages.
        config: Values as in config.json; `model_type` is required.
        checkpoint: The model's weights, where available: they decide whether the head is tied.
        untied: The user's setting for that; takes precedence.

    Raises:
        RequestError: When this is not a language model that can be estimated; with every reason.

    >>> facts = model_facts("kogpt2", {"model_type": "gpt2", "vocab_size": 51200, "n_positions": 1024})
    >>> facts.kind, facts.positions, facts.untied
    ('causal', 1024, False)
    """
    problems = Problems()
    family = str(config.get("model_type") or "")
    kind = _kind(config, problems)
    vocab_size = config.get("vocab_size", _of_decoder(config, "vocab_size"))
    if type(vocab_size) is not int or vocab_size < 2:
        problems.add(f"vocab_size must be a whole number of at least 2, but is {vocab_size!r}")
    if config.get("auto_map"):
        problems.add("the model brings its own code (auto_map); code of a repository is not run, so it is not traced")
    if "quantization_config" in config:
        problems.add("quantized weights are not modelled; estimate the model that was quantized")
    if not family:
        problems.add("model_type is missing")
    problems.raise_if_any(f"{name} is no language model that can be estimated")
    assert kind is not None
    assert isinstance(vocab_size, int)
    known, source = _untied(family, config, checkpoint, untied)
    return ModelFacts(
        name=name,
        family=family,
        kind=kind,
        config=MappingProxyType(dict(config)),
        vocab_size=vocab_size,
        positions=_positions(family, config),
        untied=known,
        untied_source=source,
    )


def read_model_folder(folder: Path, *, untied: bool | None = None) -> ModelFacts:
    """Reads a local model: config.json and, where there are any, the headers of its weights.

    Raises:
        RequestError: When config.json is absent or not JSON, or the model cannot be estimated.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (folder / ADAPTER).is_file():
            raise RequestError(
                f"{folder}: an adapter (LoRA) without its base's config.json",
                ["estimate the base with the same adapter: --model BASE --adapter-type lora --adapter-r N"],
            ) from None
        raise RequestError(f"{folder}: no config.json here, so this is no model folder") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise RequestError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return model_facts(str(folder), config, checkpoint=read_checkpoint(folder), untied=untied)


def _kind(config: Mapping[str, object], problems: Problems) -> Kind | None:
    family = str(config.get("model_type") or "")
    listed = config.get("architectures")
    classes = [str(item) for item in listed] if isinstance(listed, list) else []
    other = [key for key in NOT_TEXT if key in config]
    if other:
        problems.add(f"it reads more than text ({', '.join(other)})")
        return None
    if config.get("is_encoder_decoder") is True or family in SEQ2SEQ_TYPES:
        return "seq2seq"
    if family in CAUSAL_TYPES or any(name.endswith(CAUSAL_ENDINGS) for name in classes):
        return "causal"
    if any(name.endswith(SEQ2SEQ_ENDINGS) for name in classes):
        return "seq2seq"
    found = f"model_type {family!r}" + (f", architectures {', '.join(classes)}" if classes else "")
    problems.add(f"{found} neither writes text from text (seq2seq) nor continues text (causal)")
    return None


def _of_decoder(config: Mapping[str, object], name: str) -> object:
    """Returns a value of the decoder's own configuration, as pairs of two models have one."""
    decoder = config.get("decoder")
    return decoder.get(name) if isinstance(decoder, Mapping) else None


def _positions(family: str, config: Mapping[str, object]) -> int | None:
    if family in NO_POSITION_LIMIT:
        return None
    return next((value for key in POSITIONS if type(value := config.get(key, _of_decoder(config, key))) is int), None)


def _untied(
    family: str, config: Mapping[str, object], checkpoint: Checkpoint | None, given: bool | None
) -> tuple[bool, str]:
    if given is not None:
        return given, "as asked"
    stored = checkpoint.untied() if checkpoint else None
    if stored is not None and checkpoint:
        return stored, f"the weights in {checkpoint.folder}"
    written = config.get("tie_word_embeddings")
    gated_t5 = family in ("mt5", "umt5") or (family == "t5" and "gated" in str(config.get("feed_forward_proj", "")))
    # transformers 5 writes and reads "tied" for every T5, so the setting decides nothing there. Checkpoints of T5 1.1
    # and mT5 (gated feed-forward) have an untied head, which is kept: assume the larger case.
    if gated_t5 and written is not False:
        return True, "assumed: published checkpoints of T5 1.1 and mT5 have a head of their own; no weights at hand"
    if isinstance(written, bool):
        return not written, "tie_word_embeddings of the configuration; no weights at hand"
    return False, "the family's default; no weights at hand"
