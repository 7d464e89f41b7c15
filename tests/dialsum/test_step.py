"""The loss is each family's own, in value and gradient, though the output head sees only positions that count."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig

from dialsum.models import model_class
from dialsum.step import counted_positions, forward_loss, has_other_loss, shifted_right
from tests.cluster.estimator.families import FAMILIES
from tests.dialsum.own_loss import own_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
_DECODER = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, **_IDS,
}  # fmt: skip
_EXPERTS = {**_DECODER, "num_local_experts": 2, "num_experts_per_tok": 1}
SHAPES: Mapping[str, Mapping[str, object]] = {
    **FAMILIES,
    "GPT-2": {"model_type": "gpt2", "vocab_size": 320, "n_embd": 32, "n_layer": 1, "n_head": 2, **_IDS},
    "Granite, which scales scores": {"model_type": "granite", **_DECODER, "logits_scaling": 8.0},
    "Cohere, which scales scores": {"model_type": "cohere", **_DECODER, "logit_scale": 0.0625},
    "FSMT, whose head is no module": {
        "model_type": "fsmt", "langs": ["ko", "en"], "src_vocab_size": 320, "tgt_vocab_size": 320, "d_model": 32,
        "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64, "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
    },
    "Mixtral": {"model_type": "mixtral", **_EXPERTS},
    "Mixtral, with balance": {"model_type": "mixtral", **_EXPERTS, "output_router_logits": True},
}  # fmt: skip
BART, T5, GPT2 = "mBART", "Flan-T5", "GPT-2"
Batch = dict[str, Tensor]


def model_and_batch(name: str, **changes: object) -> tuple["PreTrainedModel", Batch]:
    """A model with a bias of its scores if it has one, and a batch with a prompt and padding."""
    torch.manual_seed(0)
    values = {key: value for key, value in (SHAPES[name] | changes).items() if key != "model_type"}
    config = AutoConfig.for_model(str(SHAPES[name]["model_type"]), **values)
    model = model_class("seq2seq" if config.is_encoder_decoder else "causal").from_config(config).eval()
    if "final_logits_bias" in dict(model.named_buffers()):
        model.final_logits_bias.normal_()
    inputs = torch.randint(4, 320, (2, 48))
    labels = inputs.clone() if is_causal(model) else torch.randint(4, 320, (2, 9))
    labels[0, -2:] = -100
    labels[1, slice(30) if is_causal(model) else slice(5, None)] = -100
    batch = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "labels": labels}
    if config.model_type == "fsmt":  # by itself it takes the dialogue, not the summary
        batch["decoder_input_ids"] = shifted_right(model, labels)
    return model, batch | {"positions": counted_positions(labels, causal=is_causal(model))}


def is_causal(model: nn.Module) -> bool:
    return not model.config.is_encoder_decoder  # type: ignore[union-attr]


def gradient_of(model: nn.Module, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([weight.grad.float().flatten() for weight in model.parameters() if weight.grad is not None])


def assert_equal(
    model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0, loss: float = 1e-6, gradient: float = 1e-5
) -> None:
    causal = is_causal(model)
    losses, gradients = [], []
    for function in (own_loss, forward_loss):
        torch.manual_seed(1)  # of dropout
        found = function(model, batch, label_smoothing=label_smoothing, causal=causal)
        losses.append(found.item())
        gradients.append(gradient_of(model, found))
    assert losses[1] == pytest.approx(losses[0], rel=loss)
    assert (gradients[1] - gradients[0]).norm() < gradient * gradients[0].norm()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of encoder-decoder pairs
def test_loss_and_gradient_are_the_models_own(name: str) -> None:
    assert_equal(*model_and_batch(name))


@pytest.mark.parametrize("name", [BART, T5, GPT2, "Gemma-2", "ProphetNet"])
def test_with_smoothing_they_are_those_of_transformers(name: str) -> None:
    assert_equal(*model_and_batch(name), label_smoothing=0.1)


@pytest.mark.parametrize("name", [BART, T5, GPT2, "Gemma-2"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_in_bf16_they_are_equal_within_its_rounding(name: str, label_smoothing: float) -> None:
    model, batch = model_and_batch(name)
    assert_equal(model.to(torch.bfloat16), batch, label_smoothing=label_smoothing, loss=1e-2, gradient=2e-2)
    model, batch = model_and_batch(name)
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", dtype=torch.bfloat16)(model.forward))  # accelerate
    assert_equal(model, batch, label_smoothing=label_smoothing, loss=1e-4, gradient=1e-2)


@pytest.mark.parametrize("name", [BART, T5, GPT2])
def test_recomputed_layers_change_nothing(name: str) -> None:
    model, batch = model_and_batch(name)
    model.train().activation_checkpointing_enable({"use_reentrant": False})
    assert_equal(model, batch)  # with the same dropout


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:`is_gradient_checkpointing` is dep")
@pytest.mark.parametrize("saved", [["lm_head"], []])
@pytest.mark.parametrize("name", [BART, T5, "Llama"])
def test_an_adapter_changes_nothing_also_where_the_head_is_trained_beside_it(name: str, saved: list[str]) -> None:
    model, batch = model_and_batch(name)
    targets = ["q", "v"] if name == T5 else ["q_proj", "v_proj"]
    kind = "CAUSAL_LM" if is_causal(model) else "SEQ_2_SEQ_LM"
    lora = LoraConfig(task_type=kind, r=2, target_modules=targets, modules_to_save=saved, init_lora_weights=False)
    assert_equal(get_peft_model(model, lora), batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [BART, T5, GPT2])
def test_a_compiled_model_has_the_same_loss_and_is_compiled_once_for_all_numbers_of_positions(
    name: str,
) -> None:
    model, batch = model_and_batch(name)
    graphs: list[str] = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append("compiled")
        return module

    compiled = torch.compile(model, backend=backend)
    for ignored in range(3, 8):
        batch["labels"][0, -ignored:] = -100
        batch["positions"] = counted_positions(batch["labels"], causal=is_causal(model))
        with torch._dynamo.config.patch(force_nn_module_property_static_shapes=False):  # as the trainer sets it
            found = forward_loss(compiled, batch, label_smoothing=0.0, causal=is_causal(model))
        expected = own_loss(model, batch, label_smoothing=0.0, causal=is_causal(model))
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)
        assert torch.allclose(gradient_of(model, found), gradient_of(model, expected), atol=1e-6)
    assert len(graphs) == 2  # at the second number its size becomes a variable


@pytest.mark.parametrize("name", [BART, T5, GPT2])
def test_the_head_sees_counted_positions_alone(name: str) -> None:
    model, batch = model_and_batch(name)
    shapes = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    forward_loss(model, batch, label_smoothing=0.0, causal=is_causal(model))
    assert shapes == [(1, len(batch["positions"]), head.out_features)]
    assert len(batch["positions"]) < batch["labels"].numel()


@pytest.mark.parametrize("name", [BART, T5, GPT2, "ProphetNet", "Mixtral, with balance"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_batch_without_labels_has_loss_and_gradient_zero(name: str, label_smoothing: float) -> None:
    model, batch = model_and_batch(name)
    batch |= {"labels": torch.full_like(batch["labels"], -100), "positions": torch.empty(0, dtype=torch.int64)}
    loss = forward_loss(model, batch, label_smoothing=label_smoothing, causal=is_causal(model))
    assert loss.item() == 0
    assert gradient_of(model, loss).abs().max() == 0


def test_a_loss_of_more_than_the_next_token_stays_the_models() -> None:
    found = {name for name in SHAPES if has_other_loss(model_and_batch(name)[0].config)}
    assert found == {"ProphetNet", "Mixtral, with balance"}
