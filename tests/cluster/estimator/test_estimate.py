"""Estimates add up, name their phase, grow with what they should grow with, and say what is only bounded."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.estimator.calibration import DEFAULT_MARGIN, Calibration, Layout, Peak
from cluster.estimator.estimate import COMPILE_MARGIN, NCCL_BYTES, Estimator, TemplateFinder, warnings_for
from cluster.estimator.gpu_profile import find_gpu, gpu_of_size
from cluster.estimator.model_facts import model_facts
from cluster.estimator.request import MemoryRequest
from cluster.estimator.sharding import Sharding
from cluster.estimator.template import Template
from tuning_common.errors import RequestError

MIB = 2**20
BART = model_facts("kobart", {"model_type": "bart", "vocab_size": 30000, "max_position_embeddings": 1026})
L4 = find_gpu("L4")
WEIGHTS = 100 * MIB  # of the toy of conftest.py


def ask(**changes: object) -> MemoryRequest:
    plain = MemoryRequest(model=BART, gpu=L4, batch_size=8, loss_batch_size=2, generation_batch_size=2)
    return dataclasses.replace(plain, **changes)


def test_bytes_are_those_on_paper(make: TemplateFinder) -> None:
    found = Estimator(make).estimate(ask())
    hidden, logits, blas = 8 * 512 * 40_960, 8 * 128 * 239_616, L4.workspace_bytes
    assert found.train_allocated_bytes == 3 * WEIGHTS + hidden + logits + blas
    assert found.evaluate_allocated_bytes == 3 * WEIGHTS + 2 * 128 * 239_616 + blas
    assert found.generate_allocated_bytes == 3 * WEIGHTS + 2 * 512 * 4096 + 2 * 119_808 + blas
    assert found.context_bytes == L4.context_bytes
    assert found.train_reserved_bytes >= found.train_allocated_bytes
    assert found.generate_reserved_bytes >= found.generate_allocated_bytes
    assert found.device_bytes >= max(found.train_reserved_bytes, found.generate_reserved_bytes) + found.context_bytes
    assert found.upper_bytes == -(-found.device_bytes * 108 // 100)
    assert found.margin.fraction == DEFAULT_MARGIN == 0.08
    assert (found.peak_phase, found.model_parameters, found.template) == (
        "train/forward", WEIGHTS // 4, "made by hand",
    )  # fmt: skip
    assert found.gpu_fraction == pytest.approx(found.upper_bytes / L4.usable_bytes)
    assert found.fits


def test_generation_with_many_beams_can_set_the_peak(make: TemplateFinder) -> None:
    found = Estimator(make).estimate(ask(generation_batch_size=64, num_beams=8, decoder_max_len=8))
    assert found.peak_phase == "generate/decode"
    assert found.terms["generation"] == 64 * 8 * (512 * 4096 + 119_808)
    assert found.terms["activations"] == found.terms["logits"] == found.terms["gradients"] == 0
    assert sum(found.terms.values()) == found.device_bytes


def test_a_large_dev_batch_can_set_the_peak(make: TemplateFinder) -> None:
    found = Estimator(make).estimate(ask(loss_batch_size=200, batch_size=1))
    assert found.peak_phase == "evaluate/forward"
    assert found.device_bytes >= found.evaluate_allocated_bytes + found.context_bytes


SIZES = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 64),
        "encoder_max_len": st.integers(1, 1024),
        "decoder_max_len": st.integers(2, 512),
        "num_beams": st.integers(1, 8),
        "generation_batch_size": st.integers(1, 64),
        "gradient_checkpointing": st.booleans(),
        "allocator": st.sampled_from(["expandable", "native"]),
    }
)


@given(SIZES)
def test_terms_add_up_and_none_is_negative(make: TemplateFinder, sizes: dict[str, int]) -> None:
    found = Estimator(make).estimate(ask(**sizes))
    assert sum(found.terms.values()) == found.device_bytes
    assert min(found.terms.values()) >= 0
    assert list(found.terms) == [
        "weights", "gradients", "optimizer", "activations", "logits", "generation", "workspace", "fragmentation",
        "context",
    ]  # fmt: skip


@given(SIZES, st.sampled_from(["batch_size", "encoder_max_len", "decoder_max_len"]))
def test_training_grows_with_batch_and_lengths(make: TemplateFinder, sizes: dict[str, int], name: str) -> None:
    small = Estimator(make).estimate(ask(**sizes | {name: max(2, sizes[name] // 2)}))
    large = Estimator(make).estimate(ask(**sizes | {name: max(2, sizes[name])}))
    assert small.train_allocated_bytes <= large.train_allocated_bytes
    assert small.generate_allocated_bytes <= large.generate_allocated_bytes


@given(SIZES, st.integers(1, 4))
def test_generation_grows_with_beams(make: TemplateFinder, sizes: dict[str, int], more: int) -> None:
    small = Estimator(make).estimate(ask(**sizes))
    large = Estimator(make).estimate(ask(**sizes | {"num_beams": sizes["num_beams"] + more}))
    assert small.generate_allocated_bytes <= large.generate_allocated_bytes


@given(SIZES)
def test_checkpointing_never_raises_training(make: TemplateFinder, sizes: dict[str, int]) -> None:
    plain = Estimator(make).estimate(ask(**sizes | {"gradient_checkpointing": False}))
    checkpointed = Estimator(make).estimate(ask(**sizes | {"gradient_checkpointing": True}))
    assert checkpointed.train_allocated_bytes <= plain.train_allocated_bytes


@given(SIZES)
def test_the_same_request_gives_the_same_bytes(make: TemplateFinder, sizes: dict[str, int]) -> None:
    estimator = Estimator(make)
    first = estimator.estimate(ask(**sizes))
    assert estimator.estimate(ask(**sizes)) == first == Estimator(make).estimate(ask(**sizes))


def test_many_are_computed_together_and_close_to_one_by_one(make: TemplateFinder) -> None:
    estimator = Estimator(make)
    requests = [
        ask(batch_size=batch, encoder_max_len=length, gradient_checkpointing=ckpt)
        for batch in (1, 4, 32) for length in (64, 500, 1024) for ckpt in (False, True)
    ]  # fmt: skip
    uppers = estimator.upper_bytes_many(requests)
    singles = np.array([estimator.estimate(request).upper_bytes for request in requests])
    assert uppers.tolist() == [estimator.upper_bytes(request) for request in requests]
    assert (np.abs(uppers / singles - 1) < 0.12).all()  # blocks of this toy are large against its weights
    assert len(estimator.upper_bytes_many([])) == 0


def counted(make: TemplateFinder, calls: list[MemoryRequest]) -> Callable[[MemoryRequest], Template]:
    def find(request: MemoryRequest) -> Template:
        calls.append(request)
        return make(request)

    return find


def test_templates_are_asked_for_once_a_kind(make: TemplateFinder) -> None:
    calls: list[MemoryRequest] = []
    requests = [ask(batch_size=b, gradient_checkpointing=c) for b in range(1, 50) for c in (False, True)]
    Estimator(counted(make, calls)).upper_bytes_many(requests)
    assert len(calls) == 2


def test_measured_peaks_move_the_margin(make: TemplateFinder) -> None:
    peaks = tuple(
        Peak(
            family="bart", gpu=L4.name, precision="bf16", torch_version="2.13.0", predicted_device_bytes=1000,
            measured_device_bytes=1000 + i,
        )
        for i in range(20)
    )  # fmt: skip
    found = Estimator(make, Calibration(peaks=peaks)).estimate(ask())
    assert found.margin.fraction == pytest.approx(0.019)
    assert found.upper_bytes == pytest.approx(found.device_bytes * 1.019, abs=1)
    other = Estimator(make, Calibration(peaks=peaks)).estimate(ask(precision="fp32"))
    assert "other cells too" in other.margin.basis


def test_peaks_of_one_card_say_nothing_about_several(make: TemplateFinder) -> None:
    def peaks(layout: Layout, residual: int) -> tuple[Peak, ...]:
        return tuple(
            Peak(
                family="bart", gpu=L4.name, precision="bf16", torch_version="2.13.0", predicted_device_bytes=1000,
                measured_device_bytes=1000 + residual, layout=layout,
            )
            for _ in range(19)
        )  # fmt: skip

    sharding = Sharding(layer_parameters=10, rest_parameters=10, table_parameters=10)
    two = {"ranks": 2, "batch_size": 16}
    estimator = Estimator(make, Calibration(peaks=peaks("one card", 30) + peaks("divided", -200)))
    assert estimator.margin(ask()).fraction == 0.03
    assert estimator.margin(ask(**two)).fraction == DEFAULT_MARGIN  # data-parallel: none of its own
    divided = estimator.margin(ask(**two, sharding=sharding))
    assert divided.fraction == 0.0  # a bound that nothing came near to
    assert divided.basis.endswith("19 measured peaks of bart in bf16 on NVIDIA L4, divided")


def test_what_is_only_bounded_costs_more_and_says_so(make: TemplateFinder) -> None:
    plain = Estimator(make).estimate(ask())
    compiled = Estimator(make).estimate(ask(torch_compile=True))
    assert compiled.device_bytes == plain.device_bytes
    assert compiled.margin.fraction == pytest.approx(plain.margin.fraction + COMPILE_MARGIN)
    assert any("torch.compile is not modelled" in text for text in compiled.warnings)
    spread = Estimator(make).estimate(ask(ranks=2, batch_size=16))
    assert spread.terms["gradients"] == plain.terms["gradients"] + WEIGHTS
    assert spread.context_bytes == plain.context_bytes + NCCL_BYTES
    assert any("bounded, not modelled" in text for text in spread.warnings)


def test_assumptions_about_card_and_head_are_said() -> None:
    texts = warnings_for(ask(gpu=find_gpu("T4"), optimizer="adamw_8bit"))
    assert any("Tesla T4 (compute capability 7.5) has no bf16" in text for text in texts)
    assert any("adamw_8bit is modelled by its states" in text for text in texts)
    assert any("context of 650 MiB on Tesla T4: not measured" in text for text in texts)
    mt5 = model_facts("mt5", {"model_type": "mt5", "vocab_size": 250112})
    assert any("output head: assumed" in text for text in warnings_for(ask(model=mt5)))
    measured = dataclasses.replace(L4, context_source="measured on node-a")
    assert warnings_for(ask(gpu=measured)) == ()


def test_a_card_that_is_too_small_is_said(make: TemplateFinder) -> None:
    found = Estimator(make).estimate(ask(gpu=gpu_of_size("2GiB"), batch_size=64))
    assert not found.fits
    assert found.gpu_fraction > 1


def test_the_lengths_of_the_data_are_replayed_behind_the_longest_batch(make: TemplateFinder) -> None:
    lengths = tuple((length, length // 4 + 1) for length in range(16, 512))
    alone, mixed = (Estimator(make).estimate(ask(allocator="native", lengths=known)) for known in ((), lengths))
    assert mixed.train_allocated_bytes == alone.train_allocated_bytes
    assert mixed.train_reserved_bytes >= alone.train_reserved_bytes
    assert any("without the lengths of the data" in text for text in alone.warnings)
    assert not any("without the lengths of the data" in text for text in mixed.warnings)
    with pytest.raises(RequestError, match="lengths must be at least 1 token each"):
        ask(lengths=((0, 3),))
