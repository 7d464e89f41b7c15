"""Weights in bf16 without autocast, and the states of bitsandbytes' optimizers, as the tracer sees them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.estimator.estimate import Estimator, warnings_for
from cluster.estimator.gpu_profile import find_gpu
from cluster.estimator.memory_plan import NoPlan, Plan
from cluster.estimator.model_facts import model_facts
from cluster.estimator.planning import plan_request
from cluster.estimator.request import MemoryRequest
from cluster.estimator.sharding import Sharding
from cluster.estimator.template import Template
from cluster.estimator.template_keys import part_key
from cluster.estimator.template_requests import key_of, settings_of
from cluster.estimator.trace import Trace, trace
from cluster.estimator.workload import Shape
from dialsum.workload import summarizer_workload
from tests.cluster.estimator.tiny_models import T5
from tuning_common.errors import RequestError

L4 = find_gpu("L4")
REQUEST = MemoryRequest(model=model_facts("tiny", T5, untied=False), gpu=L4, batch_size=4)
SHAPE = Shape(batch=2, encoder_len=48, decoder_len=16, beams=2)


def traced(**changes: object) -> Trace:
    request = replace(REQUEST, **changes)  # type: ignore[arg-type]
    workload = summarizer_workload(**settings_of(request))  # type: ignore[arg-type]
    return trace(workload, SHAPE, family="efficient", parts=("train", "optimizer"))


def state_bytes(found: Trace) -> int:
    """Bytes that the optimizer's first step keeps."""
    tape = found.tapes["optimizer_first"]
    kept = set((tape.events[tape.events > 0] - 1).tolist()) - set((-tape.events[tape.events < 0] - 1).tolist())
    return int(sum(tape.sizes[block] for block in kept if tape.sizes[block] > 8))


def test_bf16_pure_holds_weights_gradients_and_states_in_two_bytes() -> None:
    whole, pure, mixed = traced(precision="fp32"), traced(precision="bf16_pure"), traced(precision="bf16")
    assert pure.model_parameters == whole.model_parameters
    assert int(pure.weight_bytes.sum()) == pure.model_parameters * 2
    assert int(mixed.weight_bytes.sum()) == mixed.model_parameters * 4
    assert state_bytes(pure) * 2 == state_bytes(whole) == whole.model_parameters * 8
    assert pure.tapes["first"].peak_bytes < mixed.tapes["first"].peak_bytes < whole.tapes["first"].peak_bytes


def test_bf16_pure_has_parts_of_its_own_and_the_other_half_formats_share() -> None:
    def names(precision: str) -> list[str]:
        key = key_of(replace(REQUEST, precision=precision))  # type: ignore[arg-type]
        return [part_key(key, "step").file_name, part_key(key, "optimizer").file_name]

    assert names("bf16") == names("fp16")
    assert not set(names("bf16_pure")) & {*names("bf16"), *names("fp32")}


def test_paged_states_are_counted_as_if_they_stayed_on_the_card() -> None:
    assert state_bytes(traced(optimizer="paged_adamw")) == traced().model_parameters * 8
    assert state_bytes(traced(optimizer="paged_adamw_8bit")) == state_bytes(traced(optimizer="adamw_8bit"))
    pairs = {"paged_adamw": "adamw_fused", "paged_adamw_8bit": "adamw_8bit"}
    for paged, plain in pairs.items():
        keys = [part_key(key_of(replace(REQUEST, optimizer=name)), "optimizer") for name in (paged, plain)]
        assert keys[0] == keys[1]
        assert any("not measured" in text for text in warnings_for(replace(REQUEST, optimizer=paged)))


def test_states_of_bitsandbytes_stay_in_fp32_beside_bf16_weights() -> None:
    pure = traced(precision="bf16_pure", optimizer="paged_adamw")
    assert state_bytes(pure) == pure.model_parameters * 8


def test_bf16_pure_is_not_divided_and_warns_on_an_old_card() -> None:
    with pytest.raises(RequestError, match="bf16_pure is not divided"):
        replace(
            REQUEST, precision="bf16_pure", ranks=2,
            sharding=Sharding(layer_parameters=1, rest_parameters=1, table_parameters=1),
        )  # fmt: skip
    old = replace(REQUEST, precision="bf16_pure", gpu=find_gpu("T4"))
    assert any("has no bf16" in text for text in warnings_for(old))


def test_a_plan_keeps_the_number_format_and_a_refusal_names_those_that_fit(
    make: Callable[[MemoryRequest], Template],
) -> None:
    def halved(request: MemoryRequest) -> Template:
        found = make(request)
        return replace(found, weight_bytes=found.weight_bytes // 4) if request.precision == "bf16_pure" else found

    estimator = Estimator(halved)
    request = replace(REQUEST, precision="bf16", batch_size=8)
    refused = plan_request(estimator, request, 1)
    assert isinstance(refused, NoPlan)
    at_once = estimator.upper_bytes(replace(request, gradient_checkpointing=True))  # no gradients of an earlier piece
    least = min(refused.smallest_bytes, at_once)
    found = plan_request(estimator, request, least - 1)
    assert isinstance(found, NoPlan)
    assert any("bf16_pure" in remedy for remedy in found.remedies)
    assert isinstance(plan_request(estimator, replace(request, precision="bf16_pure"), least - 1), Plan)
