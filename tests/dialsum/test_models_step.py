"""Names lead to the right shapes, the tiny tokenizer gives texts back, every optimizer moves every parameter."""

import pytest
import torch
from transformers import BartForConditionalGeneration

from dialsum.config import RunConfig
from dialsum.models import build_model, hf_config, model_class, resolve
from dialsum.optimizers import build_optimizer
from dialsum.tiny_models import train_tokenizer
from tuning_common.errors import RequestError

DIALOGUE = "#Person1#: 안녕하세요. 예약하려고요.\n#Person2#: 네, 언제 오세요?"
SUMMARY = "#Person1#은 예약하려고 한다."


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
