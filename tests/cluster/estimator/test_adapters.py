"""Adapters in the trace: the base is frozen, and the estimate is that of a direct trace, byte by byte."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.estimator.estimate import Estimator
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.memory_plan import NoPlan
from cluster.estimator.model_facts import model_facts
from cluster.estimator.planning import plan_request
from cluster.estimator.request import MemoryRequest
from cluster.estimator.sharding import divided
from cluster.estimator.template_requests import settings_of
from cluster.estimator.trace import trace, traced_peaks
from cluster.estimator.trace_recorder import RawTape
from cluster.estimator.workload import Shape
from dialsum.adapters import memory_settings
from dialsum.config import RunConfig
from dialsum.workload import empty_model, summarizer_workload
from tests.cluster.estimator.families import FAMILIES
from tests.cluster.estimator.test_families import trained
from tune_jobs.placing.memory_requests import sharding_of
from tune_jobs.placing.memory_templates import template_finder
from tuning_common.errors import RequestError

BART = {**FAMILIES["Pegasus"], "model_type": "bart"}
CASES = {name: FAMILIES[name] for name in ("Qwen3", "Gemma-3", "pko-t5")} | {"BART": BART}


def request_of(name: str, *, precision: str = "bf16", **adapter: object) -> MemoryRequest:
    config = RunConfig.from_dict({"model": "kobart", "adapter_type": "lora", **adapter})
    return MemoryRequest(
        model=model_facts(name, CASES[name]), gpu=find_gpu("L4"), batch_size=4, gradient_accumulation_steps=2,
        encoder_max_len=200, decoder_max_len=56, generation_batch_size=2, precision=precision,
        adapter=memory_settings(config),
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_the_direct_trace_byte_by_byte(name: str) -> None:
    request = request_of(name, adapter_r=8, adapter_dropout=0.1)
    template = trained(request, exact=True)
    workload = summarizer_workload(**settings_of(request))  # type: ignore[arg-type]
    encoder_len, decoder_len = request.padded_lengths
    shape = Shape(batch=request.micro_batch, encoder_len=encoder_len, decoder_len=decoder_len)
    short = replace(shape, decoder_len=2)
    direct = traced_peaks(workload, shape, family="flash", micro_steps=2, generated=short)
    assert template.allocated_bytes(shape.batch, encoder_len, decoder_len) == direct.train


def test_only_the_adapter_has_gradients_and_states_and_the_base_is_in_half_precision() -> None:
    request = request_of("Qwen3", adapter_r=8)
    base = empty_model(CASES["Qwen3"], untied=False).num_parameters()
    heads, width, ffn, layers = 4 * 8, 32, 64, 2
    inputs_and_outputs = (width + heads) * 2 + (width + heads // 2) * 2 + (width + ffn) * 3  # q, o; k, v; the MLP's
    adapter = 8 * inputs_and_outputs * layers
    workload = summarizer_workload(**settings_of(request))  # type: ignore[arg-type]
    shape = Shape(batch=2, encoder_len=16, decoder_len=8)
    found = trace(workload, shape, family="flash", parts=("train", "optimizer"))
    assert found.model_parameters == base + adapter
    buffers = 2 * 4 * (8 // 2)  # inverse frequencies, twice
    assert found.weight_bytes.sum() == 2 * base + 4 * adapter + buffers
    kept = {name: _kept(found.tapes[name]) for name in ("first", "optimizer_first", "optimizer_later")}
    tensors = 2 * 7 * layers
    assert kept == {"first": 4 * adapter, "optimizer_first": 2 * 4 * adapter + 4 * tensors, "optimizer_later": 0}


def _kept(tape: RawTape) -> int:
    """Bytes that a section allocates and does not release."""
    return int(tape.sizes.sum() - tape.sizes[np.abs(tape.events[tape.events < 0]) - 1].sum())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("templates")


def test_seconds_ranks_and_cached_templates_are_those_of_the_adapter(cache: Path) -> None:
    small = request_of("Qwen3", adapter_r=4)
    estimator = Estimator(template_finder(lambda text: None, cache=cache))
    seconds = estimator.seconds(small)
    assert seconds is not None
    assert seconds.step.total_s > 0
    again = template_finder(lambda text: None, only_at_hand=True, cache=cache)
    template = again(request_of("Qwen3", adapter_r=4, adapter_alpha=8))
    assert template.source == str(cache)
    with pytest.raises(LookupError):
        again(request_of("Qwen3", adapter_r=8))
    both, alone = replace(small, ranks=2), replace(small, batch_size=2)
    more = estimator.estimate(both).train_allocated_bytes - estimator.estimate(alone).train_allocated_bytes
    assert more == template.gradient_bytes  # DDP's copy of the adapter's gradients


def test_a_divided_base_is_held_in_parts_and_gathered_with_its_adapter(cache: Path) -> None:
    request = request_of("Qwen3", adapter_r=4)
    bare, whole = sharding_of(request.model), sharding_of(request.model, request.adapter)
    assert whole.layer_parameters - bare.layer_parameters == 4 * (2 * 64 + 2 * 48 + 3 * 96)  # q, o; k, v; the MLP's
    assert (whole.rest_parameters, whole.table_parameters) == (bare.rest_parameters, bare.table_parameters)
    finder = template_finder(lambda text: None, cache=cache)
    half, template = replace(request, ranks=2, sharding=whole), finder(request)
    assert divided(template, 2, whole).weight_bytes.sum() == pytest.approx(template.weight_bytes.sum() / 2, rel=0.01)
    assert Estimator(finder).estimate(half).upper_bytes > 0


def test_what_does_not_fit_is_not_told_to_train_the_adapter_in_bf16(cache: Path) -> None:
    request = request_of("Qwen3", adapter_r=4)
    estimator = Estimator(template_finder(lambda text: None, cache=cache))
    at_hand = Estimator(template_finder(lambda text: None, only_at_hand=True, cache=cache))
    found = plan_request(estimator, request, 2**20, checkpointing=(False,), remedies_from=at_hand.upper_bytes)
    assert isinstance(found, NoPlan)
    assert not any("bf16_pure" in remedy for remedy in found.remedies)


def test_an_adapter_in_bf16_is_refused() -> None:
    with pytest.raises(RequestError, match="an adapter is not trained in bf16_pure"):
        request_of("Qwen3", precision="bf16_pure")
