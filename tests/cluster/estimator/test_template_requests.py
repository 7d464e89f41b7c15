"""Requests that hold the same are answered by the same template; those that do not are not."""

import dataclasses

import pytest

from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.model_facts import model_facts
from cluster.estimator.request import MemoryRequest
from cluster.estimator.template_requests import key_of, settings_of

BART = model_facts("kobart", {"model_type": "bart", "vocab_size": 30000, "max_position_embeddings": 1026})
PLAIN = MemoryRequest(model=BART, gpu=find_gpu("L4"), batch_size=8)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "fp32"}, {"optimizer": "sgd"}, {"attention": "eager"}, {"gradient_checkpointing": True},
        {"dropout": 0.0}, {"label_smoothing": 0.1}, {"no_repeat_ngram_size": 3},
    ],
)  # fmt: skip
def test_what_changes_the_trace_changes_key_and_settings(change: dict[str, object]) -> None:
    other = dataclasses.replace(PLAIN, **change)  # type: ignore[arg-type]
    assert key_of(other) != key_of(PLAIN)
    assert settings_of(other) != settings_of(PLAIN)


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.2}),
        ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 4}),
        ({"batch_size": 1}, {"batch_size": 64, "num_beams": 4, "encoder_max_len": 100}),
        ({"gpu": find_gpu("L4")}, {"gpu": find_gpu("RTX 3090")}),
    ],
)
def test_what_does_not_change_the_trace_shares_it(one: dict[str, object], another: dict[str, object]) -> None:
    first, second = (dataclasses.replace(PLAIN, **change) for change in (one, another))  # type: ignore[arg-type]
    assert (key_of(first), settings_of(first)) == (key_of(second), settings_of(second))


def test_the_attention_kernels_of_the_card_are_in_the_key() -> None:
    assert key_of(dataclasses.replace(PLAIN, gpu=find_gpu("H100 PCIe"))) != key_of(PLAIN)
    fp32 = dataclasses.replace(PLAIN, precision="fp32")  # in which all cards take the same kernel
    assert key_of(dataclasses.replace(fp32, gpu=find_gpu("H100 PCIe"))) == key_of(fp32)
