"""A beam search writes what transformers' own writes, and reads each dialogue once for all of its beams."""

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from dialsum.config import RunConfig
from dialsum.encoding import pad
from dialsum.generate import beam_cache, generate_ids
from dialsum.models import Kind, model_class
from dialsum.tiny_models import tiny_config

RUN = RunConfig(tiny_hidden_size=32, tiny_layers=2, num_beams=3, decoder_max_len=16, no_repeat_ngram_size=2)
FAMILIES: list[tuple[str, Kind]] = [("bart", "seq2seq"), ("t5", "seq2seq"), ("gpt2", "causal")]


def model_of(architecture: str, kind: Kind) -> PreTrainedModel:
    torch.manual_seed(3)
    model: PreTrainedModel = model_class(kind).from_config(tiny_config(RUN, architecture, vocab_size=60)).eval()
    return model


def batch_of(kind: Kind) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    rows = [torch.randint(3, 60, (length,), generator=generator).tolist() for length in (21, 5, 13, 1)]
    mask = pad([[1] * len(row) for row in rows], 0, left=kind == "causal")
    return pad(rows, 0, left=kind == "causal"), mask


@pytest.mark.parametrize(("architecture", "kind"), FAMILIES)
def test_the_shared_cache_changes_no_token(architecture: str, kind: Kind) -> None:
    model, (inputs, mask) = model_of(architecture, kind), batch_of(kind)
    shared = generate_ids(model, inputs, mask, RUN, 0, beam_cache(model, inputs, mask, RUN.num_beams, kind))
    assert shared.tolist() == generate_ids(model, inputs, mask, RUN, 0).tolist()
    assert len({tuple(row) for row in shared.tolist()}) == len(shared)


def test_a_causal_model_reads_each_prompt_once_for_all_beams() -> None:
    model, (inputs, mask) = model_of("gpt2", "causal"), batch_of("causal")
    read: list[int] = []
    model.get_decoder().register_forward_hook(
        lambda module, arguments, output: read.append(output.last_hidden_state[..., 0].numel())
    )
    generate_ids(model, inputs, mask, RUN, 0, beam_cache(model, inputs, mask, RUN.num_beams, "causal"))
    rows, length = inputs.shape
    assert read[:2] == [rows * (length - 1), rows * RUN.num_beams]


def test_beams_do_not_move_what_they_share() -> None:
    model, (inputs, mask) = model_of("bart", "seq2seq"), batch_of("seq2seq")
    cache = beam_cache(model, inputs, mask, RUN.num_beams, "seq2seq")
    assert cache is not None
    generate_ids(model, inputs, mask, RUN, 0, cache)
    before = [layer.keys.data_ptr() for layer in cache.cross_attention_cache.layers]
    cache.reorder_cache(torch.arange(len(inputs) * RUN.num_beams))
    assert [layer.keys.data_ptr() for layer in cache.cross_attention_cache.layers] == before


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_other_causal_models_share_prompts_too(family: str) -> None:
    config = AutoConfig.for_model(
        family, vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        **({"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]} if "gemma" in family else {}),
    )  # fmt: skip
    torch.manual_seed(3)
    model, (inputs, mask) = model_class("causal").from_config(config).eval(), batch_of("causal")
    shared = generate_ids(model, inputs, mask, RUN, 0, beam_cache(model, inputs, mask, RUN.num_beams, "causal"))
    assert shared.tolist() == generate_ids(model, inputs, mask, RUN, 0).tolist()


def test_a_prompt_of_one_token_needs_no_cache() -> None:
    model = model_of("gpt2", "causal")
    one = torch.tensor([[7], [9]])
    assert beam_cache(model, one, torch.ones_like(one), RUN.num_beams, "causal") is None
