"""A run configuration becomes the question that the estimator answers, without loading anything heavy."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster.estimator.gpu_profile import find_gpu, gpu_of_size
from dialsum.config import RunConfig
from dialsum.device import OVERFLOWS_IN_FP16
from tune_jobs.placing.memory_requests import NEVER_FP16, NO_BYTES, facts_of, hub_cache, precision_on, request_of
from tuning_common.errors import RequestError

L4, T4 = find_gpu("L4"), find_gpu("T4")


@pytest.fixture(autouse=True)
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return cache


def test_every_field_that_moves_memory_is_taken_over() -> None:
    config = RunConfig(
        model="kobart", batch_size=64, gradient_accumulation_steps=4, encoder_max_len=700, decoder_max_len=90,
        precision="fp16", optimizer="adafactor", attention="eager", gradient_checkpointing=True, label_smoothing=0.1,
        dropout=0.0, num_beams=4, generation_batch_size=16, generation_max_len=60, no_repeat_ngram_size=3,
        torch_compile=True,
    )  # fmt: skip
    request = request_of(config, L4, allocator="native")
    assert (request.model.name, request.model.family, request.model.positions) == ("kobart", "bart", 1026)
    taken = {
        name: getattr(request, name)
        for name in vars(request)
        if name not in ("model", "gpu", "adapter", "allocator", "ranks", "sharding", "lengths")
    }
    assert taken == {name: getattr(config, name) for name in taken}
    assert request.adapter is None
    assert (request.micro_batch, request.new_tokens, request.allocator, request.gpu) == (16, 60, "native", L4)


def test_a_run_that_is_divided_says_what_is_gathered() -> None:
    """mT5-base: of 582 million parameters two tables of 250,112 x 768 are in no layer."""
    plain = RunConfig(model="mt5-base", batch_size=8)
    assert request_of(plain, L4, ranks=2).sharding is None
    found = request_of(plain.with_changes({"fsdp": True}), L4, ranks=2).sharding
    assert found is not None
    assert found.table_parameters == 250_112 * 768
    assert found.rest_parameters == 2 * found.table_parameters + 2 * 768  # and the last norms
    attention, feed_forward = 4 * 768 * 768 + 768, 3 * 768 * 2048 + 768
    assert found.layer_parameters == 2 * attention + feed_forward + 32 * 12  # relative positions


@pytest.mark.parametrize(
    ("gpu", "family", "precision"), [(L4, "bart", "bf16"), (T4, "bart", "fp16"), (T4, "mt5", "fp32")]
)
def test_auto_precision_is_the_cards(gpu: object, family: str, precision: str) -> None:
    assert precision_on(gpu, RunConfig(), family) == precision


def test_the_families_that_overflow_are_the_trainers() -> None:
    assert set(OVERFLOWS_IN_FP16) == NEVER_FP16


@pytest.mark.parametrize(
    ("name", "family", "untied"),
    [
        ("kobart", "bart", False),
        ("kogpt2", "gpt2", False),
        ("t5-base", "t5", False),
        ("t5", "t5", True),
        ("google/mt5-small", "mt5", True),
        ("midm-2b", "llama", False),
        ("Qwen/Qwen3-0.6B@main", "qwen3", False),
    ],
)
def test_named_models_are_known_without_any_file(name: str, family: str, untied: bool) -> None:
    facts = facts_of(RunConfig(model=name))
    assert (facts.name, facts.family, facts.untied) == (name, family, untied)


def test_downloaded_weights_decide_about_the_head(empty_hub: Path) -> None:
    snapshot = empty_hub / "models--google--mt5-small" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file({"shared.weight": np.zeros((4, 2), dtype=np.float32)}, snapshot / "model.safetensors")
    facts = facts_of(RunConfig(model="mt5"))
    assert facts.untied is False
    assert facts.untied_source == f"the weights in {snapshot}"


def test_a_hub_id_is_read_from_the_cache(empty_hub: Path) -> None:
    snapshot = empty_hub / "models--team--ours" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 99, "n_positions": 256}))
    facts = facts_of(RunConfig(model="team/ours"))
    assert (facts.name, facts.kind, facts.vocab_size, facts.positions) == ("team/ours", "causal", 99, 256)


def test_a_tiny_model_has_its_largest_vocabulary() -> None:
    facts = facts_of(RunConfig(model="tiny-bart", tiny_vocab_size=1234))
    assert (facts.family, facts.vocab_size, facts.config["d_model"]) == ("bart", 1234, 64)


@pytest.mark.parametrize("name", ["kobert", "./nowhere"])
def test_an_unknown_model_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="is unknown"):
        facts_of(RunConfig(model=name))


def test_the_cache_is_where_the_hub_library_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", "/data/hf")
    assert hub_cache() == Path("/data/hf/hub")
    monkeypatch.delenv("HF_HOME")
    assert hub_cache() == Path.home() / ".cache" / "huggingface" / "hub"


def test_fields_of_no_bytes_change_no_memory_request() -> None:
    card = gpu_of_size("24GiB")
    base = RunConfig(model="kobart", dropout=0.1, adapter_type="lora")
    other: dict[str, object] = {"lr_scheduler": "cosine", "max_steps": 7, "eval_steps": 7, "early_stopping_patience": 3}
    other |= {"remove_tokens": ["<usr>"], "columns": ["dialogue=text"], "use_topic": True, "prompt": "chat"}
    for name in NO_BYTES:
        value = other.get(name, 0.25 if isinstance(getattr(base, name), float) else 2)
        assert request_of(base.with_changes({name: value}), card) == request_of(base, card), name
