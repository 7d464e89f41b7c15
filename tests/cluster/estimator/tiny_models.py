"""Configurations of tiny models, one per family, that trace in a second."""

from collections.abc import Mapping

BART: Mapping[str, object] = {
    "model_type": "bart", "vocab_size": 300, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "max_position_embeddings": 1024, "dropout": 0.1, "attention_dropout": 0.0, "decoder_start_token_id": 1,
}  # fmt: skip
GPT2: Mapping[str, object] = {
    "model_type": "gpt2", "vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 2048,
}  # fmt: skip
T5: Mapping[str, object] = {
    "model_type": "t5", "vocab_size": 300, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2,
    "num_decoder_layers": 2, "num_heads": 2, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
}  # fmt: skip
FAMILIES: Mapping[str, Mapping[str, object]] = {"bart": BART, "gpt2": GPT2, "t5": T5}
