"""Small models with random weights and a tokenizer trained on the data, for machines without a model hub."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dialsum.config import RunConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
HEAD_WIDTH = 16
MAX_POSITIONS = 1024


def train_tokenizer(texts: Iterable[str], placeholders: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Trains a lossless byte-pair tokenizer: decoding restores the text with its blanks.

    Placeholders become whole tokens that are *not* special, so that no decoder drops them.

    Args:
        texts: Dialogues and summaries.
        placeholders: For example "#Person1#".
        vocab_size: Upper bound; small data give fewer tokens.

    Returns:
        A fast tokenizer with pad 0, bos 1, eos 2, unk 3 that adds no special tokens by itself.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, BOS, EOS, UNK], show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)  # sorted: the same data give the same tokens
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in sorted(set(placeholders))])
    return wrap_tokenizer(tokenizer)


def wrap_tokenizer(tokenizer: "Tokenizer") -> "PreTrainedTokenizerFast":
    """Returns a trained tokenizer as transformers uses it; see train_tokenizer."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def tiny_config(config: RunConfig, architecture: str, vocab_size: int) -> "PretrainedConfig":
    """Returns the shape of a tiny model.

    Args:
        config: Width, layers and dropout (default 0.1).
        architecture: bart, gpt2 or t5.
        vocab_size: Length of the tokenizer.
    """
    from transformers import BartConfig, GPT2Config, T5Config

    width, layers = config.tiny_hidden_size, config.tiny_layers
    heads = width // HEAD_WIDTH
    dropout = 0.1 if config.dropout is None else config.dropout
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    positions = max(MAX_POSITIONS, config.encoder_max_len + config.decoder_max_len)
    if architecture == "bart":
        return BartConfig(
            vocab_size=vocab_size, d_model=width, encoder_layers=layers, decoder_layers=layers,
            encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=4 * width,
            decoder_ffn_dim=4 * width, max_position_embeddings=positions, dropout=dropout, attention_dropout=0.0,
            init_std=width**-0.5, scale_embedding=True,  # 0.02 suits a width of 768 but is too small here
            decoder_start_token_id=1, forced_eos_token_id=None, **tokens,
        )  # fmt: skip
    if architecture == "gpt2":
        return GPT2Config(
            vocab_size=vocab_size, n_embd=width, n_layer=layers, n_head=heads, n_positions=positions,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, **tokens,
        )  # fmt: skip
    return T5Config(
        vocab_size=vocab_size, d_model=width, d_kv=HEAD_WIDTH, d_ff=4 * width, num_layers=layers,
        num_decoder_layers=layers, num_heads=heads, dropout_rate=dropout, feed_forward_proj="gated-gelu",
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
