"""Models and tokenizers as hub repositories hold them, in folders that the tests write."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from dialsum import models
from dialsum.config import RunConfig
from dialsum.data import Example
from dialsum.encoding import encode
from dialsum.models import build_model, resolve
from dialsum.tiny_models import train_tokenizer
from dialsum.tokenizers import build_tokenizer, decode, kept_letters
from tuning_common.errors import RequestError

SHARED = Path(os.environ.get("DIALSUM_SHARED", Path(__file__).resolve().parents[3] / "shared"))
KOBART, KE_T5 = SHARED / "data" / "kobart-tokenizer", SHARED / "data" / "ke-t5-vocab"
needs_kobart = pytest.mark.skipif(not KOBART.is_dir(), reason=f"the KoBART tokenizer is not in {KOBART}")
needs_ke_t5 = pytest.mark.skipif(not KE_T5.is_dir(), reason=f"the KE-T5 vocabulary is not in {KE_T5}")
SUMMARIES = [
    "#Person1#은 #Person2#에게 #PhoneNumber#로 전화해 달라고 한다.",
    "#Person2#는 #Person1# 나중에 (#Person3#) 간다고 답한다. #Person1#.",
    "두 사람은 병원 예약을 화요일 오후 3시로 옮기기로 한다.",
]
TINY_BART: Mapping[str, object] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 256,
}  # fmt: skip


@pytest.fixture
def kobart(tmp_path: Path) -> Path:
    """A small model with random weights beside KoBART's own tokenizer and token ids (digit82's: start <usr>)."""
    folder = tmp_path / "kobart"
    config = BartConfig(
        vocab_size=30000, pad_token_id=3, bos_token_id=0, eos_token_id=1, decoder_start_token_id=2,
        forced_eos_token_id=2, **TINY_BART,
    )  # fmt: skip
    BartForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(KOBART / name, folder)
    return folder


@needs_kobart
def test_kobart_gives_every_summary_back_blank_by_blank(kobart: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(RunConfig(model=str(kobart)), SUMMARIES, tmp_path)
    for text in SUMMARIES:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert decode(tokenizer, [2, *ids, 1, 3]) == text  # start <usr>, end, padding
        assert len([index for index in ids if index >= 30000]) == text.count("#") // 2
    plain = AutoTokenizer.from_pretrained(kobart)
    assert tokenizer(SUMMARIES[2])["input_ids"] == plain(SUMMARIES[2])["input_ids"]


@needs_kobart
def test_kobart_trains_in_full_precision_and_gets_rows_for_its_placeholders(kobart: Path, tmp_path: Path) -> None:
    config = RunConfig(model=str(kobart), encoder_max_len=64, decoder_max_len=32)
    tokenizer = build_tokenizer(config, SUMMARIES, tmp_path)
    model = build_model(config, tokenizer)
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 30004
    examples = [Example(fname="a", dialogue=SUMMARIES[0], summaries=(SUMMARIES[1],))]
    encoding = encode(examples, tokenizer, config, tmp_path)
    assert (encoding.sources[0][0], encoding.sources[0][-1], encoding.targets[0][-1]) == (0, 1, 1)
    labels = torch.tensor([encoding.targets[0]])
    assert model.prepare_decoder_input_ids_from_labels(labels)[0, 0] == 2  # the model's own start token


@needs_ke_t5
def test_ke_t5_gives_every_summary_back_and_saves_what_it_learned(tmp_path: Path) -> None:
    folder = tmp_path / "ke-t5"
    shape = T5Config(vocab_size=64128, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(shape).save_pretrained(folder)
    shutil.copy(KE_T5 / "sentencepiece.model", folder / "spiece.model")
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "tokenizer_class": "T5Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    tokenizer = build_tokenizer(RunConfig(model=str(folder)), SUMMARIES, tmp_path)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in SUMMARIES:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert decode(tokenizer, [0, *ids, 1, 0]) == text
        assert again(text, add_special_tokens=False)["input_ids"] == ids
    plain = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(SUMMARIES[2])["input_ids"] == plain(SUMMARIES[2])["input_ids"]


def kogpt2_like(folder: Path, **shape: object) -> Path:
    """KoGPT2's repository: a GPT-2 configuration and a tokenizer.json that is not GPT-2's, without a class name."""
    tokenizer = train_tokenizer(SUMMARIES * 3, [], 400)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    ids = {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 0}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, **ids, **shape)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_kogpt2_keeps_its_hangul(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kogpt2_like(tmp_path)
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    careless = AutoTokenizer.from_pretrained(folder, **special)
    assert kept_letters(careless, SUMMARIES) < 0.6  # why tokenizer.json is read as it is
    spec = models.ModelSpec(
        name="kogpt2", architecture="gpt2", kind="causal", hub_id=str(folder), special_tokens=special
    )
    monkeypatch.setattr(models, "SPECS", {"kogpt2": spec})
    tokenizer = build_tokenizer(RunConfig(model="kogpt2"), SUMMARIES, tmp_path)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    for text in SUMMARIES:
        assert decode(tokenizer, [*tokenizer(text, add_special_tokens=False)["input_ids"], 2, 0]) == text


def test_a_vocabulary_without_hangul_is_refused_for_korean(tmp_path: Path) -> None:
    english = train_tokenizer(["#Person1# calls the doctor on Tuesday at 3."] * 3, [], 300)
    english.save_pretrained(tmp_path)
    BartForConditionalGeneration(BartConfig(vocab_size=len(english), **TINY_BART)).save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="cannot write the language of the training data") as caught:
        build_tokenizer(RunConfig(model=str(tmp_path)), SUMMARIES, tmp_path)
    assert "kobart" in caught.value.problems[0]


def test_texts_longer_than_the_positions_are_refused_with_every_length(tmp_path: Path) -> None:
    folder = kogpt2_like(tmp_path, n_positions=128)
    config = RunConfig(model=str(folder), encoder_max_len=100, decoder_max_len=30, generation_max_len=40)
    with pytest.raises(RequestError, match="has 128 positions") as caught:
        build_model(config, build_tokenizer(config, SUMMARIES, tmp_path))
    assert caught.value.problems == (
        "encoder_max_len 100 and decoder_max_len 30 must fit into 128",
        "encoder_max_len 100 and generation_max_len 40 must fit into 128",
    )


def test_without_a_route_to_the_hub_a_hub_id_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_hub_reachable", lambda: False)
    with pytest.raises(RequestError, match=r"model 'nobody/nothing' cannot be loaded") as caught:
        resolve("nobody/nothing")
    assert "the model hub cannot be reached" in caught.value.problems[0]


SHAPE = {"vocab_size": 300, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "bart", "d_model": "many"}, "field 'd_model'"),
        ({"model_type": "gpt2", "n_embd": None}, "field 'n_embd'"),
        ({"model_type": "brand-new"}, "brand-new"),
        ({"model_type": "brand-new", "auto_map": {"AutoConfig": "own.OwnConfig"}}, "brings its own code"),
        ({"model_type": "vit"}, "model_type 'vit' neither writes text from text"),
        ({"model_type": "bart", "d_model": 33, "encoder_attention_heads": 2, **SHAPE}, "divisible by num_heads"),
        ({"model_type": "bart", "d_model": 32, "activation_function": "swoosh", **SHAPE}, "swoosh"),
        ({"model_type": "bart", "d_model": 32, **SHAPE}, "model.safetensors"),
        ([1], "model_type"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, config: object, reason: str) -> None:
    train_tokenizer(SUMMARIES * 20, [], 300).save_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if reason != "model.safetensors":
        save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    run = RunConfig(model=str(tmp_path), encoder_max_len=64, decoder_max_len=32)
    with pytest.raises(RequestError) as caught:
        build_model(run, build_tokenizer(run, SUMMARIES, tmp_path / "cache"))
    assert reason in "\n".join(caught.value.problems)


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 100}), encoding="utf-8")
    with pytest.raises(RequestError, match=r"the tokenizer of .* cannot be loaded") as caught:
        build_tokenizer(RunConfig(model=str(tmp_path)), SUMMARIES, tmp_path / "cache")
    assert "save it beside the model (tokenizer.json" in caught.value.problems[0]
