"""A configuration tells what can be estimated; what cannot is refused with every reason."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster.estimator.model_facts import model_facts, read_model_folder
from tuning_common.errors import RequestError

MT5 = {"model_type": "mt5", "vocab_size": 250112, "is_encoder_decoder": True}


@pytest.mark.parametrize(
    ("config", "kind", "positions", "untied"),
    [
        ({"model_type": "bart", "vocab_size": 30000, "max_position_embeddings": 1026}, "seq2seq", 1026, False),
        ({"model_type": "gpt2", "vocab_size": 51200, "n_positions": 1024}, "causal", 1024, False),
        ({"model_type": "t5", "vocab_size": 32128, "n_positions": 512}, "seq2seq", None, False),
        ({"model_type": "t5", "vocab_size": 50358, "feed_forward_proj": "gated-gelu"}, "seq2seq", None, True),
        (MT5, "seq2seq", None, True),
        (MT5 | {"tie_word_embeddings": True}, "seq2seq", None, True),
        ({"model_type": "new", "vocab_size": 9, "architectures": ["NewForCausalLM"]}, "causal", None, False),
        ({"model_type": "llama", "vocab_size": 9, "tie_word_embeddings": False}, "causal", None, True),
    ],
)
def test_kind_positions_and_head(config: dict[str, object], kind: str, positions: int | None, untied: bool) -> None:
    facts = model_facts("m", config)
    assert (facts.kind, facts.positions, facts.untied) == (kind, positions, untied)
    assert facts.vocab_size == config["vocab_size"]
    assert facts.untied_source


def test_the_persons_word_wins() -> None:
    facts = model_facts("m", MT5, untied=False)
    assert (facts.untied, facts.untied_source) == (False, "as asked")


@pytest.mark.parametrize(
    ("config", "reasons"),
    [
        ({"model_type": "bert", "vocab_size": 9, "architectures": ["BertForMaskedLM"]}, ["neither writes text"]),
        ({"model_type": "vit", "image_size": 224}, ["reads more than text (image_size)", "vocab_size must be"]),
        ({"model_type": "whisper", "is_encoder_decoder": True, "vocab_size": 9, "num_mel_bins": 80}, ["num_mel_bins"]),
        ({"vocab_size": "many", "architectures": "x"}, ["neither writes", "vocab_size must be", "model_type is miss"]),
        ({"model_type": "gpt2", "vocab_size": 9, "auto_map": {"a": "b"}}, ["brings its own code"]),
        ({"model_type": "gpt2", "vocab_size": True, "quantization_config": {}}, ["vocab_size", "quantized weights"]),
    ],
)
def test_what_is_no_language_model_is_refused_with_every_reason(config: dict[str, object], reasons: list[str]) -> None:
    with pytest.raises(RequestError, match="m is no language model that can be estimated") as caught:
        model_facts("m", config)
    assert len(caught.value.problems) == len(reasons)
    for problem, reason in zip(caught.value.problems, reasons, strict=True):
        assert reason in problem


def test_a_folder_is_read_with_the_head_of_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MT5 | {"tie_word_embeddings": True}))
    head = np.zeros((4, 2), dtype=np.float32)
    save_file({"shared.weight": head, "lm_head.weight": head + 1}, tmp_path / "model.safetensors")
    facts = read_model_folder(tmp_path)
    assert facts.untied is True
    assert facts.untied_source == f"the weights in {tmp_path}"
    assert facts.config["vocab_size"] == 250112


@pytest.mark.parametrize(
    ("content", "text"), [(None, "no config.json"), ("{", "cannot be read"), ("[1]", "expected a JSON object")]
)
def test_a_folder_without_a_configuration_is_refused(tmp_path: Path, content: str | None, text: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(RequestError, match=text):
        read_model_folder(tmp_path)


def test_an_adapter_without_its_base_is_refused_with_what_is_estimated_instead(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(RequestError, match=r"an adapter \(LoRA\) without its base's config.json") as caught:
        read_model_folder(tmp_path)
    assert "--model BASE --adapter-type lora" in str(caught.value)
