"""Tiny configurations of the model families that teams ask for, in the field names of each family's config.json."""

from collections.abc import Mapping

Config = Mapping[str, object]
_DECODER: Config = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_BART: Config = {
    "vocab_size": 320, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 2048,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
_T5: Config = {
    "vocab_size": 320, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
_GEMMA: Config = {**_DECODER, "head_dim": 8, "sliding_window": 512}

FAMILIES: Mapping[str, Config] = {
    "Qwen2": {"model_type": "qwen2", **_DECODER},
    "Qwen3": {"model_type": "qwen3", **_DECODER, "head_dim": 8},
    "Llama": {"model_type": "llama", **_DECODER},
    "Kanana": {"model_type": "llama", **_DECODER, "head_dim": 16, "rope_theta": 8000000.0, "rope_scaling": None},
    "Mi:dm-like": {"model_type": "llama", **_DECODER, "head_dim": 16, "attention_bias": True},
    "Kanana-2": {
        "model_type": "deepseek_v3", **_DECODER, "num_key_value_heads": 4, "moe_intermediate_size": 16,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
        "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
        "first_k_dense_replace": 1,
    },
    "Gemma-2": {"model_type": "gemma2", **_GEMMA},
    "Gemma-3": {"model_type": "gemma3_text", **_GEMMA, "sliding_window_pattern": 2},
    "EXAONE-4": {"model_type": "exaone4", **_DECODER, "sliding_window": 512, "sliding_window_pattern": 2},
    "Mistral": {"model_type": "mistral", **_DECODER, "sliding_window": 512},
    "Phi": {"model_type": "phi", **_DECODER},
    "Phi-3": {"model_type": "phi3", **_DECODER},
    "OPT": {"model_type": "opt", **_DECODER, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "BLOOM": {"model_type": "bloom", "vocab_size": 320, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Falcon": {"model_type": "falcon", **_DECODER, "new_decoder_architecture": False, "multi_query": True},
    "Pegasus": {"model_type": "pegasus", **_BART},
    "mBART": {"model_type": "mbart", **_BART},
    "M2M100": {"model_type": "m2m_100", **_BART},
    "Marian": {"model_type": "marian", **_BART},
    "LED": {
        "model_type": "led", **_BART, "attention_window": 32, "max_encoder_position_embeddings": 2048,
        "max_decoder_position_embeddings": 1024,
    },
    "BigBird-Pegasus": {"model_type": "bigbird_pegasus", **_BART, "block_size": 16, "num_random_blocks": 2},
    "ProphetNet": {
        "model_type": "prophetnet", "vocab_size": 320, "hidden_size": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
        "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 2,
        "num_decoder_attention_heads": 2, "max_position_embeddings": 2048, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "decoder_start_token_id": 0,
    },
    "UMT5": {"model_type": "umt5", **_T5, "feed_forward_proj": "gated-gelu"},
    "Flan-T5": {"model_type": "t5", **_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "pko-t5": {"model_type": "t5", **_T5, "feed_forward_proj": "gated-gelu"},
    "T5Gemma": {
        "model_type": "t5gemma", "is_encoder_decoder": True, "vocab_size": 320,
        "encoder": {"model_type": "t5_gemma_module", **_GEMMA}, "decoder": {"model_type": "t5_gemma_module", **_GEMMA},
    },
    "encoder-decoder pair": {
        "model_type": "encoder-decoder", "is_encoder_decoder": True,
        "encoder": {
            "model_type": "bert", "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 2048,
        },
        "decoder": {
            "model_type": "bert", "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "is_decoder": True,
            "add_cross_attention": True, "num_attention_heads": 2, "intermediate_size": 64,
            "max_position_embeddings": 2048,
        },
        "decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2,
    },
}  # fmt: skip
