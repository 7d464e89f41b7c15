"""Before a sweep runs, tokenizers and weights are looked up, and texts that are longer than trials read are counted."""

import json
from pathlib import Path

import pytest

from dialsum import models
from dialsum.config import RunConfig
from dialsum.models import check_weights
from dialsum.preparation import prepare
from dialsum.tiny_models import train_tokenizer
from tests.tune_jobs.tiny import tiny_config, write_dialogues
from tune_jobs.search.text_lengths import cut_texts_of_plan, find_cut_texts
from tuning_common.errors import RequestError


def test_the_counts_are_those_of_the_trainer(tmp_path: Path) -> None:
    write_dialogues(tmp_path)
    short = tiny_config(tmp_path, encoder_max_len=40, decoder_max_len=12)
    configs = [short, short.with_changes({"encoder_max_len": 10_000, "learning_rate": 0.01})]
    trained = prepare(short, tmp_path / "cache")
    assert trained.train.cut_dialogues > 0
    assert find_cut_texts(configs, tmp_path / "cache", "s.yaml") == tuple(
        f"{file}: {cut} of {count} {what} cut at {limit} tokens (tiny-bart)"
        for file, encoding, count in ((short.train_file, trained.train, 24), (short.dev_file, trained.dev, 4))
        for what, cut, limit in (("dialogues", encoding.cut_dialogues, 40), ("summaries", encoding.cut_summaries, 12))
        if cut
    )
    long = short.with_changes({"encoder_max_len": 10_000, "decoder_max_len": 10_000})
    assert find_cut_texts([long], tmp_path / "cache", "s.yaml") == ()


def test_every_model_without_tokenizer_or_weights_is_named_before_a_trial_starts(tmp_path: Path) -> None:
    write_dialogues(tmp_path)
    for name, files in (("no_tokenizer", ["model.safetensors"]), ("no_weights", [])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 100}), encoding="utf-8")
        for file in files:
            (folder / file).touch()
    train_tokenizer(["두 사람은 병원 예약을 옮긴다."] * 20, [], 300).save_pretrained(str(tmp_path / "no_weights"))
    configs = [tiny_config(tmp_path, model=str(tmp_path / name)) for name in ("no_tokenizer", "no_weights")]
    with pytest.raises(RequestError) as refused:
        find_cut_texts(configs, tmp_path / "cache", "s.yaml")
    without_tokenizer, without_weights = refused.value.problems
    assert "the tokenizer of" in without_tokenizer
    assert "no_weights" in without_weights
    assert "it has no model.safetensors" in without_weights
    (sentence,) = cut_texts_of_plan(configs[:1], tmp_path / "cache", "s.yaml")
    assert sentence.startswith("dialogues that are cut are not counted: the tokenizer of")


def test_a_named_model_that_neither_cache_nor_hub_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_hub_reachable", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RequestError, match="cannot be loaded") as refused:
        check_weights("kobart")
    assert "not in the local cache" in refused.value.problems[0]
    check_weights(RunConfig().model)  # a tiny one has none
