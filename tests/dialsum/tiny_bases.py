"""Tiny base models with random weights in folders, as a hub repository holds them, for adapters."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen3Config,
    T5Config,
)

from dialsum.config import RunConfig
from dialsum.data import load_examples
from dialsum.prompts import INSTRUCTIONS
from dialsum.tiny_models import train_tokenizer

FAMILIES = ("llama", "qwen3", "gemma3", "t5", "bart")
CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DECODER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16,
    "num_key_value_heads": 1, "max_position_embeddings": 1024, "initializer_range": 0.2,
}  # fmt: skip


def tiny_base(folder: Path, family: str, config: RunConfig, *, chat: bool = False) -> str:
    """Writes a model with a tokenizer that was trained on a run's data; returns the folder's name."""
    examples = load_examples(Path(config.train_file))
    texts = [text for example in examples for text in (example.dialogue, *example.summaries)]
    tokenizer = train_tokenizer([*texts, *[INSTRUCTIONS["ko"] + "[user][assistant]"] * 2], [], 300)
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    shape = _shape(family, len(tokenizer))
    torch.manual_seed(1)
    kind = AutoModelForSeq2SeqLM if shape.is_encoder_decoder else AutoModelForCausalLM
    kind.from_config(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _shape(family: str, vocab_size: int) -> PretrainedConfig:
    if family == "t5":
        return T5Config(
            vocab_size=vocab_size, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=2,
        )  # fmt: skip
    if family == "bart":
        return BartConfig(
            vocab_size=vocab_size, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=1024,
            init_std=0.2, decoder_start_token_id=1, forced_eos_token_id=None, **_IDS,
        )  # fmt: skip
    kinds = {"llama": LlamaConfig, "qwen3": Qwen3Config, "gemma3": Gemma3TextConfig}
    windows = {"sliding_window": 64} if family == "gemma3" else {}
    return kinds[family](vocab_size=vocab_size, **_DECODER, **_IDS, **windows)
