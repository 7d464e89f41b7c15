"""Names lead to the right shapes, the tiny tokenizer gives texts back, one loss function serves trainer and tracer."""

import doctest
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from transformers import BartForConditionalGeneration, M2M100Config, M2M100ForConditionalGeneration
from transformers.trainer_pt_utils import LabelSmoother

import dialsum.models
import dialsum.optimizers
import dialsum.step
from dialsum.config import RunConfig
from dialsum.models import build_model, hf_config, model_class, resolve
from dialsum.optimizers import build_optimizer
from dialsum.step import counted_positions, forward_loss
from dialsum.tiny_models import train_tokenizer
from tuning_common.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DIALOGUE = "#Person1#: 안녕하세요. 예약하려고요.\n#Person2#: 네, 언제 오세요?"
SUMMARY = "#Person1#은 예약하려고 한다."


@pytest.mark.parametrize("module", [dialsum.models, dialsum.optimizers, dialsum.step])
def test_worked_examples_are_right(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("kobart", 123_859_968), ("kogpt2", 125_164_032), ("t5-small", 60_506_624), ("t5-base", 222_903_552)],
)
def test_named_shapes_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = model_class(resolve(name).kind).from_config(hf_config(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_an_unknown_model_lists_what_is_known() -> None:
    with pytest.raises(RequestError) as caught:
        resolve("kobrat")
    assert caught.value.message == "model 'kobrat' is unknown; did you mean 'kobart'?"
    assert caught.value.problems[0].startswith("known names: kobart, ")


def test_the_tiny_tokenizer_gives_the_text_back_with_placeholders_whole() -> None:
    tokenizer = train_tokenizer([DIALOGUE, SUMMARY] * 3, ["#Person1#", "#Person2#"], 300)
    for text in (DIALOGUE, SUMMARY, "예약 #Person2# 네"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.convert_tokens_to_ids("#Person1#") in tokenizer(SUMMARY)["input_ids"]


NAMES = ["tiny-bart", "tiny-t5", "tiny-gpt2"]
Batch = dict[str, Tensor]


def model_and_batch(name: str) -> tuple["PreTrainedModel", Batch, Batch]:
    """A model, and a batch with a prompt and padding: without and with the positions that count."""
    torch.manual_seed(0)
    causal = name == "tiny-gpt2"
    tokenizer = train_tokenizer([DIALOGUE, SUMMARY] * 3, ["#Person1#"], 300)
    model = build_model(RunConfig(model=name, tiny_hidden_size=32), tokenizer).eval()
    inputs = torch.randint(4, len(tokenizer), (2, 9))
    labels = inputs.clone() if causal else torch.randint(4, len(tokenizer), (2, 5))
    labels[0, -2:] = -100
    labels[1, :3] = -100
    batch = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "labels": labels}
    return model, batch, batch | {"positions": counted_positions(labels, causal=causal)}


def gradient_of(model: "PreTrainedModel", loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_those_of_transformers(name: str, label_smoothing: float) -> None:
    model, plain, batch = model_and_batch(name)
    causal = name == "tiny-gpt2"
    outputs = model(**plain)
    assert forward_loss(model, plain, label_smoothing=0.0, causal=causal).item() == outputs.loss.item()
    smoother = LabelSmoother(epsilon=label_smoothing)
    expected = smoother(outputs, plain["labels"], shift_labels=causal) if label_smoothing else outputs.loss
    wanted = gradient_of(model, expected)
    for given in (plain, batch):
        loss = forward_loss(model, given, label_smoothing=label_smoothing, causal=causal)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert (gradient_of(model, loss) - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.parametrize("name", NAMES)
def test_with_the_compact_loss_the_head_sees_counted_positions_alone(name: str) -> None:
    model, _, batch = model_and_batch(name)
    shapes = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    forward_loss(model, batch, label_smoothing=0.0, causal=name == "tiny-gpt2")
    assert shapes == [(1, len(batch["positions"]), head.out_features)]
    assert len(batch["positions"]) < batch["labels"].numel()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_labels_has_loss_and_gradient_zero(name: str) -> None:
    model, _, batch = model_and_batch(name)
    batch |= {"labels": torch.full_like(batch["labels"], -100), "positions": torch.empty(0, dtype=torch.int64)}
    loss = forward_loss(model, batch, label_smoothing=0.1, causal=name == "tiny-gpt2")
    assert loss.item() == 0
    assert gradient_of(model, loss).abs().max() == 0


def test_a_model_without_a_rule_for_labels_gets_the_usual_one() -> None:
    config = M2M100Config(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
    )  # fmt: skip
    model = M2M100ForConditionalGeneration(config).eval()
    inputs, labels = torch.randint(4, 40, (2, 6)), torch.randint(4, 40, (2, 5))
    labels[0, 3:] = -100
    batch = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), "labels": labels}
    expected = model(**batch).loss.item()
    batch["positions"] = counted_positions(labels, causal=False)
    assert forward_loss(model, batch, label_smoothing=0.0, causal=False).item() == pytest.approx(expected, rel=1e-6)


def test_a_local_folder_is_loaded_as_a_hub_id_is(tmp_path: object) -> None:
    tokenizer = train_tokenizer([DIALOGUE, SUMMARY] * 3, [], 300)
    made = build_model(RunConfig(tiny_hidden_size=32), tokenizer)
    made.save_pretrained(tmp_path)
    loaded = build_model(RunConfig(model=str(tmp_path), dropout=0.3), tokenizer)
    assert isinstance(loaded, BartForConditionalGeneration)
    assert loaded.config.dropout == 0.3
    assert torch.equal(loaded.get_input_embeddings().weight, made.get_input_embeddings().weight)


@pytest.mark.parametrize("name", ["adamw_fused", "adamw", "adafactor", "sgd"])
def test_every_optimizer_moves_every_parameter(name: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = build_optimizer(model, name=name, learning_rate=0.1, weight_decay=0.01)  # type: ignore[arg-type]
    (model(torch.randn(5, 3)) * torch.randn(5, 4)).sum().backward()
    optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_8bit_adam_without_cuda_is_refused_with_an_alternative() -> None:
    with pytest.raises(RequestError, match="adafactor"):
        build_optimizer(torch.nn.Linear(1, 1), name="adamw_8bit", learning_rate=0.1, weight_decay=0.0)
