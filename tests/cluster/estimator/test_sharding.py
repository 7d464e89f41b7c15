"""A divided model holds its part, what it gathers, and never more on more cards; bytes on paper for a toy."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.estimator.estimate import NCCL_BYTES, Estimator, TemplateFinder
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.model_facts import model_facts
from cluster.estimator.request import MemoryRequest
from cluster.estimator.sharding import Sharding, divided
from tuning_common.errors import RequestError

MIB = 2**20
L4 = find_gpu("L4")
BART = model_facts("kobart", {"model_type": "bart", "vocab_size": 30000, "max_position_embeddings": 1026})
WEIGHTS = 100 * MIB  # of the toy of conftest.py
LAYER, REST, TABLE = MIB, 2 * MIB, 3 * MIB // 2  # elements
HIDDEN, LOGITS = 512 * 40_960, 128 * 239_616  # of one dialogue


def ask(ranks: int = 2, **changes: object) -> MemoryRequest:
    plain = MemoryRequest(
        model=BART, gpu=L4, batch_size=8 * ranks, ranks=ranks, precision="fp32",
        loss_batch_size=2, generation_batch_size=2,
        sharding=Sharding(layer_parameters=LAYER, rest_parameters=REST, table_parameters=TABLE),
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def test_training_holds_parts_and_what_is_gathered(make: TemplateFinder) -> None:
    found = Estimator(make).estimate(ask())
    parts = (WEIGHTS + 2 * WEIGHTS) // 2  # of weights and states; gradients come when hidden states go
    gathered = 4 * REST + 3 * 4 * LAYER
    gradients = 4 * REST + 4 * TABLE + (4 + 8) * LAYER
    blas = L4.workspace_bytes
    assert found.train_allocated_bytes == parts + gathered + gradients + 8 * (HIDDEN + LOGITS) + blas
    assert found.evaluate_allocated_bytes == parts + gathered + 2 * LOGITS + blas
    assert found.peak_phase == "train/backward"
    assert found.context_bytes == L4.context_bytes + NCCL_BYTES
    assert found.terms["weights"] == WEIGHTS // 2 + gathered
    assert found.terms["gradients"] == gradients
    assert found.terms["optimizer"] == WEIGHTS
    assert sum(found.terms.values()) == found.device_bytes
    assert "divided among 2 cards (FSDP): bounded, not modelled" in found.warnings[0]


def test_the_end_of_a_backward_pass_adds_up_the_rest(make: TemplateFinder) -> None:
    """With large embeddings and small batches that is the peak: their weights, gradients and the copy that is added."""
    rest = 50 * MIB
    request = ask(8, batch_size=8, encoder_max_len=8, decoder_max_len=8)
    sharding = Sharding(layer_parameters=1, rest_parameters=rest, table_parameters=rest // 2)
    found = Estimator(make).estimate(dataclasses.replace(request, sharding=sharding))
    parts = (WEIGHTS + 2 * WEIGHTS + WEIGHTS) // 8
    assert found.train_allocated_bytes == pytest.approx(parts + 3 * 4 * rest + L4.workspace_bytes, abs=1024)


def test_in_bf16_weights_are_gathered_in_half_the_bytes(make: TemplateFinder) -> None:
    full, half = (Estimator(make).estimate(ask(precision=precision)) for precision in ("fp32", "bf16"))
    # weights and gradients of the rest, another gradient of its table, three layers' weights and a layer's gradients
    assert full.train_allocated_bytes - half.train_allocated_bytes == 2 * (2 * REST + TABLE + 3 * LAYER + LAYER)


def test_the_whole_model_summarizes_the_test_file_on_one_card(make: TemplateFinder) -> None:
    """At the end the first process loads the best model alone: no optimizer, but all weights."""
    request = ask(8, batch_size=8, generation_batch_size=60, num_beams=8, gradient_checkpointing=True)
    estimator = Estimator(make)
    whole = WEIGHTS + 60 * 8 * (512 * 4096 + 119_808) + L4.workspace_bytes
    assert estimator.estimate(request).device_bytes >= whole + L4.context_bytes + NCCL_BYTES
    assert estimator.upper_bytes(request) >= whole


@given(
    micro_batch=st.integers(1, 32), encoder_len=st.integers(1, 900), pieces=st.integers(1, 3),
    layer=st.integers(1, WEIGHTS // 16), rest=st.integers(0, WEIGHTS // 8),
)  # fmt: skip
def test_more_cards_never_need_more_each(
    make: TemplateFinder, micro_batch: int, encoder_len: int, pieces: int, layer: int, rest: int
) -> None:
    sharding = Sharding(layer_parameters=layer, rest_parameters=rest, table_parameters=rest)
    asked = [
        ask(
            ranks, batch_size=micro_batch * pieces * ranks, encoder_max_len=encoder_len, sharding=sharding,
            gradient_accumulation_steps=pieces,
        )
        for ranks in (2, 4, 8)
    ]  # fmt: skip
    estimator = Estimator(make)
    found = [estimator.estimate(one) for one in asked]
    for smaller, larger in zip(found[1:], found, strict=False):
        assert smaller.train_allocated_bytes <= larger.train_allocated_bytes
    assert all(sum(one.terms.values()) == one.device_bytes and min(one.terms.values()) >= 0 for one in found)
    many = estimator.upper_bytes_many(asked)
    assert many.tolist() == pytest.approx([estimator.upper_bytes(one) for one in asked], rel=1e-6)


def test_what_is_gathered_is_given_back(make: TemplateFinder) -> None:
    """Each tape holds at its end what it held before: its own kept blocks, in parts."""
    request = ask()
    whole = make(request)
    part = divided(whole, 2, Sharding(layer_parameters=LAYER, rest_parameters=REST, table_parameters=TABLE))
    for before, after in ((whole.train.first, part.train.first), (whole.greedy, part.greedy)):
        assert np.flatnonzero(after.kept).tolist() == np.flatnonzero(before.kept).tolist()
        assert after.phases == before.phases
        assert after.phase_starts[0] == 0
    assert part.train.first.phase_at(1) == "forward"
    assert part.source == "made by hand, divided by 2"


def test_a_model_is_divided_among_several(make: TemplateFinder) -> None:
    with pytest.raises(RequestError, match="a model is divided among at least 2 cards, but ranks is 1"):
        ask(1, batch_size=8)
